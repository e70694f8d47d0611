"""BMCs for tests: the simulator in this process, real OpenIPMI `ipmi_sim`, and a node's context without a daemon."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metald.config import Ipmi
from metald.drivers.ipmi.hub import IpmiHub
from metald.model import BootDevice, Node, Port
from metald.sim.bmc import Fleet
from metald.sim.chassis import SimBmc
from metald.sim.rmcp import User

ADMIN = User("admin", "s3cret-word")
WATCH = User("watch", "s3cret-word", privilege=2)


@dataclass
class Context:
    """A NodeContext that can write, like a step's."""

    node: Node
    ports: list[Port] = field(default_factory=list)
    power: Any = None
    management: Any = None
    boot: Any = None
    deploy: Any = None
    network: Any = None

    def set(self, **fields: Any) -> None:
        self.node = self.node.changed(**fields)


def context(address: str, port: int, user: User = ADMIN, *, node: dict[str, Any] | None = None, **driver_info: Any) -> Context:
    """The context of a node whose BMC is at `address`."""
    info = {"ipmi_address": address, "ipmi_port": port, "ipmi_username": user.name, "ipmi_password": user.password, **driver_info}
    return Context(Node(driver="ipmi", name="machine", driver_info=info, **(node or {})))


def quick(**changes: Any) -> Ipmi:
    """Settings with which failures are found out fast."""
    return Ipmi(**{"command_timeout": 4.0, "login_timeout": 2.0, "power_poll": 0.01, "power_timeout": 5.0, "breaker_pause": 0.1, **changes})


@asynccontextmanager
async def hub(**changes: Any) -> AsyncIterator[IpmiHub]:
    """A started hub."""
    started = IpmiHub(quick(**changes))
    await started.start()
    try:
        yield started
    finally:
        await started.close()


class Simulated:
    """One simulated BMC at an address of its own."""

    checks_privilege = knows_levels = names_the_unknown = True
    suites = (3, 17)

    @staticmethod
    def shown(device: BootDevice, *, persistent: bool) -> tuple[BootDevice | None, bool | None]:
        """What it says of its boot device, once one was chosen."""
        return device, persistent

    def __init__(self, bmc: SimBmc, fleet: Fleet) -> None:
        self.bmc, self.address, self.port = bmc, bmc.address, fleet.port

    @property
    def power(self) -> bool:
        return self.bmc.power

    @property
    def resets(self) -> int:
        return self.bmc.counters.reset


@asynccontextmanager
async def simulated(address: str = "127.0.0.1", **arguments: Any) -> AsyncIterator[Simulated]:
    """One simulated BMC with the users ADMIN and WATCH."""
    bmc = SimBmc(address, **{"users": (ADMIN, WATCH), **arguments})
    async with Fleet([bmc]) as fleet:
        yield Simulated(bmc, fleet)


class OpenIpmi:
    """OpenIPMI's `ipmi_sim` with a chassis script.

    It shows boot flags as not valid and keeps neither the UEFI nor the persistent bit, it lets a user have more than its
    privilege limit, and it has no SHA-256.
    """

    checks_privilege, knows_levels, names_the_unknown = False, True, True
    suites = (3,)

    @staticmethod
    def shown(device: BootDevice, *, persistent: bool) -> tuple[BootDevice | None, bool | None]:
        return None, None

    def __init__(self, directory: Path, port: int) -> None:
        self._directory, self.address, self.port = directory, "127.0.0.1", port

    @property
    def power(self) -> bool:
        return (self._directory / "power").read_text().strip() == "1"

    @property
    def resets(self) -> int:
        log = self._directory / "resets"
        return len(log.read_text().split()) if log.exists() else 0


_SCRIPT = """#!/bin/sh
d=$(dirname "$0"); shift; verb=$1; shift
case $verb in
get) for n in "$@"; do echo "$n:$(cat "$d/$n")"; done ;;
set) while [ $# -ge 2 ]; do
       case $1 in
         shutdown) echo 0 > "$d/power" ;;
         reset) echo "$2" >> "$d/resets" ;;
         *) echo "$2" > "$d/$1" ;;
       esac; shift 2; done ;;
esac
"""

_LAN = """name "metald"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "{script} 0x20"
  user 1 false "" "" user 10 none md2 md5 straight
  user 2 true "{admin.name}" "{admin.password}" admin 10 none md2 md5 straight
  user 3 true "{watch.name}" "{watch.password}" user 10 none md2 md5 straight
"""

_MACHINE = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"

_SENSOR = (
    "00 00 51 01 32 20 00 01 07 01 7f 68 01 01 85 7a 85 7a 3f 3f 00 01 00 00 01 00 00 00 00 00 07 "
    "20 30 10 ff 00 60 50 40 00 00 00 02 02 00 00 00 c7 43 50 55 54 65 6d 70"
)
WITH_SENSOR = f"""main_sdr_add 0x20 {" ".join("0x" + byte for byte in _SENSOR.split())}
sensor_add 0x20 0 1 1 1
sensor_set_value 0x20 0 1 0x2a 0
"""
"""Commands for `ipmi_sim`: a sensor `CPUTemp` that measures 42 degrees."""


@asynccontextmanager
async def open_ipmi(directory: Path, more: str = "", lan: str = "", channel: str = "") -> AsyncIterator[OpenIpmi]:
    """Run `ipmi_sim` until the block ends.

    `more` are further commands for it, `lan` is more of its BMC's settings, `channel` more of those of its network.
    """
    port = free_udp_port()
    script = _chassis(directory)
    text = _LAN.format(port=port, script=script, admin=ADMIN, watch=WATCH).replace("  endlan", f"{channel}  endlan")
    (directory / "lan.conf").write_text(text + lan)
    (directory / "machine.emu").write_text(_MACHINE + more)
    async with ipmi_sim(directory, [port]):
        yield OpenIpmi(directory, port)


def _chassis(directory: Path) -> Path:
    script = directory / "chassis"
    script.write_text(_SCRIPT)
    script.chmod(0o755)
    (directory / "power").write_text("0\n")
    (directory / "boot").write_text("none\n")
    return script


@asynccontextmanager
async def ipmi_sim(directory: Path, ports: Sequence[int]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `ipmi_sim` with `lan.conf` and `machine.emu` of a directory; yields once it answers on the last of its ports."""
    process = await asyncio.create_subprocess_exec(
        *("ipmi_sim", "-c", str(directory / "lan.conf"), "-f", str(directory / "machine.emu"), "-s", str(directory), "-n"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            await _answers(ports[-1])
        yield process
    finally:
        with suppress(ProcessLookupError):  # it did not like its settings
            process.kill()
        await process.wait()


_RACK_BMC = """set_working_mc {mc:#x}
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa1234567{port:08x}
  endlan
  user 2 true "admin" "word-{port}" admin 10 none md2 md5 straight
"""


def rack(directory: Path, count: int) -> list[int]:
    """Settings for one `ipmi_sim` with so many BMCs, each with a port, a password (`word-PORT`) and a product number of its own."""
    ports: list[int] = []
    with ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            ports.append(int(sock.getsockname()[1]))
    controllers = [0x20 + index for index in range(count)]
    settings = [_RACK_BMC.format(mc=mc, port=port) for mc, port in zip(controllers, ports, strict=True)]
    (directory / "lan.conf").write_text('name "rack"\n' + "".join(settings))
    machines = [f"mc_add {mc:#x} 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 {mc:#x}\nmc_enable {mc:#x}\n" for mc in controllers]
    (directory / "machine.emu").write_text("mc_setbmc 0x20\n" + "".join(machines))
    return ports


def free_udp_port() -> int:
    """A UDP port on 127.0.0.1 that nobody had a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class PyghmiBmc(OpenIpmi):
    """pyghmi's BMC, as virtualbmc runs it.

    It has one suite, takes every level for the highest, keeps no persistent bit, and says nothing to a user that it does not
    know. After a session has ended it goes on taking the client's address and port for that session's.
    """

    checks_privilege = knows_levels = names_the_unknown = False

    @staticmethod
    def shown(device: BootDevice, *, persistent: bool) -> tuple[BootDevice | None, bool | None]:
        return device, False


@asynccontextmanager
async def pyghmi_bmc(directory: Path) -> AsyncIterator[PyghmiBmc]:
    """Run pyghmi's BMC with the users ADMIN and WATCH until the block ends."""
    port = free_udp_port()
    (directory / "power").write_text("0\n")
    users = [f"{user.name}={user.password}" for user in (ADMIN, WATCH)]
    program = Path(__file__).with_name("pyghmi_bmc.py")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", str(program), str(port), str(directory), *users), stdin=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            await _answers(port)
        yield PyghmiBmc(directory, port)
    finally:
        process.kill()
        await process.wait()


AUTH_CAPABILITIES = bytes.fromhex("0600ff07 00 00000000 00000000 09 2018c8 8100388e04 b5".replace(" ", ""))
"""Get Channel Authentication Capabilities, as every login begins."""


async def _answers(port: int) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        while True:
            with suppress(OSError, TimeoutError):
                sock.send(AUTH_CAPABILITIES)
                async with asyncio.timeout(0.1):
                    await loop.sock_recv(sock, 512)
                    return
            await asyncio.sleep(0.02)
