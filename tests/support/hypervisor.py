"""Hypervisor hosts for tests: Debian's sshd, libvirtd and QEMU on this machine, in a folder and for an account of their own.

sshd runs as whoever runs the tests, and lets that user in. libvirt's session, which is not for root, is `postgres`'s then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncssh

from metald.config import SshHost
from metald.drivers.ssh_host.hosts import Hosts
from metald.model import Node, Port
from tests.support.bmc import Context
from tests.support.qemu import free_port

SSHD = Path("/usr/sbin/sshd")
LIBVIRTD = Path("/usr/sbin/libvirtd")


def quick(**changes: Any) -> SshHost:
    """Settings with which failures are found out fast."""
    return SshHost(
        **{"connect_timeout": 10.0, "command_timeout": 20.0, "power_poll": 0.1, "pause": 0.0, "known_hosts": "/nonexistent", **changes}
    )


@asynccontextmanager
async def hosts(**changes: Any) -> AsyncIterator[Hosts]:
    """Hosts that are closed at the end."""
    made = Hosts(quick(**changes))
    try:
        yield made
    finally:
        await made.close()


class Account:
    """Whose the host's programs are, and a folder for them. The path is short, because Unix sockets' are."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="metald-hv-", dir="/tmp"))
        name = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.entry = pwd.getpwnam(name)
        self.name = name
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LIBVIRT_DEFAULT_URI": "qemu:///session"}
        for variable, part in (("RUNTIME_DIR", "run"), ("CONFIG_HOME", "conf"), ("CACHE_HOME", "cache"), ("DATA_HOME", "data")):
            (self.folder / part).mkdir()
            self.environment[f"XDG_{variable}"] = str(self.folder / part)
        (self.folder / "conf/libvirt").mkdir()
        (self.folder / "conf/libvirt/qemu.conf").write_text('stdio_handler = "file"\nsecurity_driver = "none"\nnamespaces = []\n')
        self.own()

    def own(self) -> None:
        """Give the account everything in the folder."""
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.rglob("*")):
                if not path.is_symlink():
                    os.chown(path, self.entry.pw_uid, self.entry.pw_gid)

    @property
    def identity(self) -> dict[str, Any]:
        return {"user": self.entry.pw_uid, "group": self.entry.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{Path(argv[0]).name}.log").open("ab")
        with log:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
                **self.identity,
            )

    def run(self, *argv: str) -> str:
        done = subprocess.run(argv, capture_output=True, text=True, cwd=self.folder, env=self.environment, timeout=60, **self.identity)
        assert done.returncode == 0, done.stderr
        return done.stdout


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for another program."""
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


class HypervisorHost:
    """A host: sshd, and what tests start beside it."""

    def __init__(self) -> None:
        self.account = Account()
        self.folder = self.account.folder
        self.port = free_port()
        self.host_key = self.new_key("host")
        self.client_key = self.new_key("client")
        self._key_text = self.client_key.export_private_key().decode()
        (self.folder / "authorized").write_text(self.client_key.export_public_key().decode())
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sshd: subprocess.Popen[bytes] | None = None
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        config = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host",
            f"AuthorizedKeysFile {self.folder}/authorized",
            f"PidFile {self.folder}/sshd.pid",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin yes",
            f"SetEnv PATH={self.bin}:/usr/bin:/bin",
        ]
        (self.folder / "sshd_config").write_text("\n".join(config) + "\n")
        self.account.own()

    def new_key(self, name: str) -> asyncssh.SSHKey:
        key = asyncssh.generate_private_key("ssh-ed25519")
        path = self.folder / name
        path.write_bytes(key.export_private_key())
        path.chmod(0o600)
        return key

    def start(self) -> None:
        """Start sshd."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True, mode=0o755)  # as the service's start does
        with (self.folder / "sshd.log").open("ab") as log:
            argv = [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self._sshd = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        until(self._answers)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def cut(self) -> None:
        """End sshd and every session: the host is gone."""
        assert self._sshd is not None
        children = subprocess.run(["pgrep", "-P", str(self._sshd.pid)], capture_output=True, text=True).stdout.split()
        stop(self._sshd)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)

    def restart(self) -> None:
        """Lose every session."""
        self.cut()
        self.start()

    def spawn(self, *argv: str) -> subprocess.Popen[bytes]:
        """Run a program until the end."""
        process = self.account.start(*argv)
        self._processes.append(process)
        return process

    def program(self, name: str, text: str) -> Path:
        """Put a Python program on the host's PATH."""
        path = self.bin / name
        path.write_text(f"#!{sys.executable} -IS\n{text}")
        path.chmod(0o755)
        self.account.own()
        return path

    def start_libvirt(self) -> None:
        """Start libvirt's session."""
        self.spawn(str(LIBVIRTD))
        sock = self.folder / "run/libvirt/libvirt-sock"
        until(sock.exists)

    def define(self, name: str, address: str, *, boot: str = "<boot dev='hd'/>", devices: str = "", qemu: bool = True) -> None:
        """Define a domain with a disk and a card."""
        disk = self.folder / f"{address.replace(':', '')}.raw"
        disk.write_bytes(b"\0" * 1024)
        os.truncate(disk, 1 << 20)
        text = (
            f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>"
            f"<os><type arch='x86_64' machine='pc'>hvm</type>{boot}<bios useserial='yes'/></os>"
            "<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><serial type='pty'><target port='0'/></serial>"
            f"<interface type='user'><mac address='{address}'/><model type='virtio'/></interface>"
            f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>"
            "<target dev='vda' bus='virtio'/></disk>"
            # a socket: ports are taken by whoever else runs machines here
            f"<graphics type='vnc' passwd='hush'><listen type='socket'/></graphics>{devices}</devices></domain>"
        )
        path = self.folder / "domain.xml"
        path.write_text(text)
        self.account.own()
        self.virsh("define", str(path))

    def virsh(self, *argv: str) -> str:
        """Ask libvirt, beside metald."""
        return self.account.run("virsh", "--quiet", "--connect", "qemu:///session", *argv)

    def start_qemu(self, *more: str) -> subprocess.Popen[bytes]:
        """A QEMU that waits to be switched on, with its monitor at `qmp` and its serial port at `serial` in the folder."""
        disk = self.folder / "qemu.raw"
        disk.write_bytes(b"\0" * (1 << 20))
        self.account.own()
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-display", "none", "-nodefaults", "-S", "-no-shutdown"]
        argv += ["-qmp", f"unix:{self.folder}/qmp,server=on,wait=off", "-machine", "pc,graphics=off"]
        argv += ["-chardev", f"file,id=log,path={self.folder}/bios.log", "-device", "isa-debugcon,iobase=0x402,chardev=log"]
        argv += ["-drive", f"file={disk},format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d,id=disk"]
        argv += ["-netdev", "user,id=n,restrict=on", "-device", "virtio-net-pci,netdev=n,id=card", *more]
        process = self.spawn(*argv)
        until((self.folder / "qmp").exists)
        return process

    def context(self, *, node: dict[str, Any] | None = None, ports: tuple[str, ...] = (), **driver_info: Any) -> Context:
        """The context of a node on this host."""
        info = {
            "ssh_address": "127.0.0.1",
            "ssh_port": self.port,
            "ssh_username": pwd.getpwuid(os.geteuid()).pw_name,
            "ssh_key_contents": self._key_text,
            "ssh_host_key": self.host_key.export_public_key().decode(),
            "ssh_virt_type": "virsh",
            "ssh_libvirt_uri": f"qemu+unix:///session?socket={self.folder}/run/libvirt/libvirt-sock",
            **driver_info,
        }
        made = Node(
            driver="ssh", name="machine", driver_info={key: value for key, value in info.items() if value is not None}, **(node or {})
        )
        return Context(made, [Port(node_uuid=made.uuid, address=address) for address in ports])

    def close(self) -> None:
        """End everything."""
        for process in reversed([*([self._sshd] if self._sshd else []), *self._processes]):
            stop(process)
        for pid in self.folder.glob("run/libvirt/qemu/run/*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def hypervisor() -> Iterator[HypervisorHost]:
    """A host with sshd."""
    made = HypervisorHost()
    try:
        made.start()
        yield made
    finally:
        made.close()


async def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for another program, with the loop running."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
