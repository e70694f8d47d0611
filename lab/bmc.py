"""A real IPMI BMC for one machine: OpenIPMI's `ipmi_sim` with the lab's chassis module.

The simulator speaks RMCP+ and serial-over-LAN; chassis commands come over a Unix socket to `Chassis.answer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
from pathlib import Path

from lab.chassis import Chassis
from lab.process import LabError, run, spawn, stop
from lab.serial import SerialLine

_SOURCE = Path(__file__).parent / "ipmi_sim_plugin" / "chassis.c"
_BUILD = Path(__file__).parent.parent / "build" / "lab"
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared")
_START_DEADLINE = 10.0
_TRIES = 3

# RMCP header, IPMI 1.5 session header without authentication, Get Channel Authentication Capabilities (22.13).
_PROBE = bytes.fromhex("0600ff07 00 00000000 00000000 09 2018c8 810038 0e04 35")

# Without a GUID the simulator offers no RMCP+.
_CONFIG = """\
name "{name}"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_callback md5
    allowed_auths_user md5
    allowed_auths_operator md5
    allowed_auths_admin md5
    guid {guid}
  endlan
  user 2 true "{user}" "{password}" admin 30
  sol "tcp:127.0.0.1:{serial_port}" 115200
loadlib "{module}" "{socket}"
"""

_COMMANDS = """\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02
sel_enable 0x20 1000 0x0a
mc_enable 0x20
"""


async def build_module(directory: Path = _BUILD) -> Path:
    """The compiled chassis module, kept between labs under a name that tells its source.

    Raises:
        LabError: gcc or OpenIPMI's headers are missing.
    """
    digest = hashlib.sha256(_SOURCE.read_bytes() + " ".join(_FLAGS).encode()).hexdigest()[:16]
    module = directory / f"chassis-{digest}.so"
    if not module.exists():
        directory.mkdir(parents=True, exist_ok=True)
        draft = module.with_name(f".{module.name}.{os.getpid()}.{secrets.token_hex(4)}")
        await run("gcc", *_FLAGS, "-o", str(draft), str(_SOURCE))
        draft.replace(module)
    return module


def free_udp_port() -> int:
    """A UDP port of the loopback address that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Bmc:
    """One BMC. `start` and `stop` may be called again, as when a BMC is restarted: sessions are lost, the chassis is not.

    Args:
        uuid: the machine's, which the BMC tells as its GUID.
        directory: where its files go; the path must be short enough for a Unix socket.
        line: the machine's serial line, which must have been started before `start`.
    """

    def __init__(self, name: str, uuid: str, chassis: Chassis, directory: Path, *, user: str, password: str, line: SerialLine) -> None:
        self.address = "127.0.0.1"
        self.port = 0
        self.user = user
        self.password = password
        self._name = name
        self._uuid = uuid
        self._chassis = chassis
        self._line = line
        self._directory = directory
        self._socket = directory / "chassis"
        self._log = directory / "bmc.log"
        self._server: asyncio.Server | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start it and return once it answers. It keeps the port that it had.

        Raises:
            LabError: it does not come up.
        """
        module = await build_module()
        if self._server is None:
            self._server = await asyncio.start_unix_server(self._serve, self._socket)
        keep = self.port
        for _ in range(1 if keep else _TRIES):
            self.port = keep or free_udp_port()
            self._process = await spawn(self._command(module), self._log)
            if await self._answers(self._process):
                return
            await stop(self._process)
        raise LabError(f"ipmi_sim of {self._name} does not answer on port {self.port}; see {self._log}: {self._tail()}")

    async def stop(self) -> None:
        """Stop the simulator; the machine stays as it is."""
        if self._process is not None:
            await stop(self._process)
            self._process = None

    async def close(self) -> None:
        """Stop it for good."""
        await self.stop()
        if self._server is not None:
            self._server.close()
            for link in tuple(self._links):
                link.cancel()
            await self._server.wait_closed()
            self._server = None

    def _command(self, module: Path) -> list[str]:
        state = self._directory / "bmc-state"
        state.mkdir(exist_ok=True)
        config, commands = self._directory / "lan.conf", self._directory / "bmc.emu"
        config.touch(mode=0o600)
        config.write_text(
            _CONFIG.format(
                name=self._name,
                port=self.port,
                guid=self._uuid.replace("-", ""),
                user=self.user,
                password=self.password,
                serial_port=self._line.port,
                module=module,
                socket=self._socket,
            )
        )
        commands.write_text(_COMMANDS)
        return ["ipmi_sim", "-n", "-c", str(config), "-f", str(commands), "-s", str(state)]

    async def _answers(self, process: asyncio.subprocess.Process) -> bool:
        """Whether it takes requests before the deadline."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setblocking(False)
            probe.connect((self.address, self.port))
            deadline = loop.time() + _START_DEADLINE
            while process.returncode is None and loop.time() < deadline:
                with contextlib.suppress(TimeoutError, ConnectionError):
                    await loop.sock_sendall(probe, _PROBE)
                    async with asyncio.timeout(0.2):
                        await loop.sock_recv(probe, 512)
                        return True
                await asyncio.sleep(0.05)
        return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection of the chassis module until it hangs up."""
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            while True:
                size = (await reader.readexactly(1))[0]
                answer = self._chassis.answer(await reader.readexactly(size))
                writer.write(bytes([len(answer)]) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            # The stream protocol owns this task; a cancellation can only be ours, in close().
            pass
        finally:
            self._links.discard(task)
            writer.close()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-500:].strip() or "it said nothing"
