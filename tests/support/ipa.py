"""A machine whose ramdisk is the real ironic-python-agent: a process of this host, behind a simulated BMC, with a file as its disk.

The agent sees only the programs that are listed here: nothing that it does may reach this host's power, network or disks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from metald.sim.bmc import Fleet
from metald.sim.chassis import SimBmc
from metald.sim.ipxe import Disk, Ipxe, Kernel, LoadError
from metald.sim.life import Life
from tests.support.daemon import free_port

PYTHON = Path("build/ipa/bin/python")
MANAGER = Path(__file__).parent.parent / "agent" / "manager"

_REAL = ("cat", "stat", "dd", "sh", "qemu-img", "sgdisk", "parted", "wipefs", "truncate", "uname", "env", "file", "tar", "gzip")
_NOTHING = (
    *("reboot", "hwclock", "mdadm", "modprobe", "multipath", "multipathd", "udevadm", "ipmitool", "partprobe", "sync", "mount"),
    *("umount", "ip", "chronyd", "ntpdate", "efibootmgr", "lshw", "dmidecode", "journalctl", "dmesg", "df", "iptables", "ps"),
    *("blkid", "readlink", "fuser", "biosdevname", "hexdump", "systemd-detect-virt"),
)
_POWEROFF = """#!/bin/sh
: > "$TEST_DIR/off"
kill -9 $(cat "$TEST_DIR/pid")
"""
_LSBLK = """#!/bin/sh
case " $* " in *" --json "* | *" -J "*) ;; *) exit 0 ;; esac
echo '{"blockdevices": [{"kname": "metald-test", "model": "FILE", "size": 8589934592, "rota": false, "type": "disk",
  "log-sec": 512, "phy-sec": 512, "partuuid": null, "uuid": null, "serial": "metald-test", "tran": null, "wwn": null}]}'
"""
_RAN = """#!/bin/sh
echo "${0##*/} $*" >> "$TEST_DIR/ran"
"""
_PODMAN = """#!/bin/sh
echo "podman $*" >> "$TEST_DIR/ran"
case " $* " in *" run "*) dd if="$TEST_DIR/os.raw" of="$TEST_DISK" conv=notrunc 2>/dev/null ;; esac
"""
_BLOCKDEV = """#!/bin/sh
[ "$1" = --getsize64 ] && exec stat -c %s "$2"
[ "$1" = --getss ] && echo 512
exit 0
"""


def programs(folder: Path) -> Path:
    """A directory with all the programs that an agent may find. Made once: what runs cannot be written."""
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    for name in _REAL:
        found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
        if found and not (folder / name).exists():
            (folder / name).symlink_to(found)
    for name, text in (
        *((name, "#!/bin/sh\nexit 0\n") for name in _NOTHING),
        ("poweroff", _POWEROFF),
        ("lsblk", _LSBLK),
        ("blockdev", _BLOCKDEV),
        ("stress-ng", _RAN),
        ("fio", _RAN),
        ("podman", _PODMAN),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    (folder / "python3").unlink(missing_ok=True)
    (folder / "python3").symlink_to("/usr/bin/python3")
    return folder


class IpaMachine(Life):
    """See the module.

    Args:
        folder: of this machine alone.
        boot_url: the boot HTTP server.
        mac: of its card.
        disk_size: bytes.
        loop: whether the agent sees the disk as a loop device, without which it cannot write qcow2.
    """

    def __init__(self, folder: Path, boot_url: str, mac: str, disk_size: int = 32 << 20, *, loop: bool = False) -> None:
        super().__init__(SimBmc(), f"ipa {mac}", 0.01)
        self.folder = folder
        self.mac = mac
        self.port = free_port()
        self.disk = folder / "disk"
        self.log = folder / "agent.log"
        self.node = ""
        self.words: dict[str, str] = {}
        self.boots = 0
        self.disk_boots = 0
        self.process: asyncio.subprocess.Process | None = None
        self.device = self.disk
        self._loop = loop
        self._boot_url = boot_url
        self._net: Fleet | None = None
        folder.mkdir(parents=True)
        with self.disk.open("wb") as file:
            file.truncate(disk_size)

    @contextlib.asynccontextmanager
    async def plugged(self) -> AsyncIterator[IpaMachine]:
        async with Fleet([self.bmc], port=free_port(socket.SOCK_DGRAM)) as self._net:
            if self._loop:
                self.device = Path(await _output("losetup", "--find", "--show", str(self.disk)))
            self.attach()
            try:
                yield self
            finally:
                await self.detach()
                if self._loop:
                    await _output("losetup", "--detach", str(self.device))
        if self.defects:
            raise self.defects[0]

    def driver_info(self, **more: Any) -> dict[str, Any]:
        assert self._net is not None
        return {"ipmi_address": "127.0.0.1", "ipmi_port": self._net.port, "ipmi_username": "admin", "ipmi_password": "secret", **more}

    def done(self) -> list[str]:
        """What the agent's hardware manager did, in order."""
        path = self.folder / "done"
        return path.read_text().splitlines() if path.exists() else []

    def ran(self) -> list[str]:
        """The programs that the agent ran which stand for something larger, with their arguments."""
        path = self.folder / "ran"
        return path.read_text().splitlines() if path.exists() else []

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def kill_agent(self) -> None:
        """The agent dies; the machine's power stays on."""
        self._cut()

    async def _power_on_self_test(self) -> bool:
        return True

    async def _boot_disk(self) -> bool:
        with self.disk.open("rb") as file:
            if file.read(512)[-2:] != b"\x55\xaa":
                return False
        self.disk_boots += 1
        self.running = "instance"
        return True

    async def _boot_network(self) -> bool:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as web:

            async def fetch(url: str) -> bytes:
                try:
                    async with web.get(url, raise_for_status=True) as answer:
                        return await answer.read()
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    raise LoadError(str(error)) from error

            end = await Ipxe((self.mac,), fetch, self._pause).run(f"{self._boot_url}/boot.ipxe")
        if isinstance(end, Disk):
            return await self._boot_disk()
        if isinstance(end, Kernel):
            await self.start_agent(dict(word.partition("=")[::2] for word in end.command_line.split() if "=" in word))
            return True
        return False

    async def start_agent(self, words: dict[str, str]) -> None:
        """What the ramdisk's init does."""
        self.words = words
        self.boots += 1
        settings = {
            "api_url": words["ipa-api-url"],
            "inspection_callback_url": words.get("ipa-inspection-callback-url", ""),
            "inspection_dhcp_wait_timeout": 1,
            "listen_host": "127.0.0.1",
            "listen_port": self.port,
            "advertise_host": "127.0.0.1",
            "advertise_port": self.port,
            "lookup_interval": 1,
            "disk_wait_attempts": 1,
            "image_download_connection_retries": 1,
            "image_download_connection_retry_interval": 1,
            "tls_certificate_curve": "p256",
        }
        (self.folder / "agent.conf").write_text("[DEFAULT]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items() if value))
        (self.folder / "off").unlink(missing_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        environment = {
            "PATH": str(programs(self.folder.parent / "programs")),
            "PYTHONPATH": str(MANAGER),
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "TEST_MAC": self.mac,
            "TEST_DISK": str(self.device),
            "TEST_DIR": str(self.folder),
            "LC_ALL": "C.UTF-8",
        }
        argv = (str(PYTHON.absolute()), "-c", "import sys; from ironic_python_agent.cmd.agent import run; sys.exit(run())")
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *argv,
                "--config-file",
                str(self.folder / "agent.conf"),
                env=environment,
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "pid").write_text(str(self.process.pid))
        self.running = "ramdisk"
        self._own(self._watch(self.process))

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        if (self.folder / "off").exists() and self.process is process:
            self.bmc.set_power(False)
        self._changed()

    def _cut(self) -> None:
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


async def _output(*argv: str) -> str:
    """What a program prints, which must succeed."""
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, argv
    return output.decode().strip()
