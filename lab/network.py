"""The wire between machines and this host: a bridge in a namespace of its own, or QEMU's user networking.

`BridgedNetwork` needs root. Its namespace has no name and lives as long as the process that holds it, so it cannot be
left behind. Machines, dnsmasq and one end of a cable are inside; the other end is this host's address `host`, where
metald listens. Nothing is routed: the machines reach this host and each other, and nothing else.

`UserNetwork` needs nothing. Each machine is alone behind a NAT of QEMU's, which answers DHCP itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from lab.dhcp import FIRST_LEASE, LAST_LEASE, Wire, command
from lab.process import LabError, run, spawn, stop

_TUN = Path("/dev/net/tun")
_SPACE = ipaddress.ip_network("10.64.0.0/10")
_READY = 10.0
HTTP_PORT = 6386
KERNEL_PARAMETERS = "console=ttyS0 no_timer_check"
"""On a busy host a machine's clock stands still for so long that Linux, checking it, takes it for broken."""

LEFT_OUT_BY_USER_NETWORK = (
    "DHCP by dnsmasq (QEMU's own answers instead, so metald's DHCP provider is `none`)",
    "TFTP (QEMU's iPXE is handed the HTTP script directly)",
    "machines that reach each other",
)


async def lacks(wire: Wire) -> str:
    """What this kernel lacks for a wire, for which nothing of the lab's is at fault; empty when it has all of it."""
    if not wire.vlan:
        return ""
    try:
        await run("unshare", "--net", "--", "ip", "link", "add", "link", "lo", "name", "tagged", "type", "vlan", "id", "2")
    except LabError as error:
        if "Unknown device type" in str(error):  # all else is for the lab itself to say
            return "this kernel has no VLANs (CONFIG_VLAN_8021Q)"
    return ""


class Network:
    """What machines and their owner need to know of the wire."""

    host = ""
    """This host's address as machines reach it."""
    left_out: Sequence[str] = ()
    """What this kind of network cannot show, in words for users."""

    async def start(self, machines: int) -> None:
        """Bring it up for that many machines.

        Raises:
            LabError: it cannot be.
        """

    async def close(self) -> None:
        """Take it down; never fails."""

    def netdev(self, index: int) -> str:
        """QEMU's `-netdev` argument of a machine, with the id `net0`."""
        raise NotImplementedError

    def wrap(self) -> list[str]:
        """What to put before a command that shall run on the machines' side."""
        return []

    def ssh(self, index: int, mac: str) -> tuple[str, int] | None:
        """Address and port at which this host reaches a machine's port 22; None while it has no address."""
        raise NotImplementedError


class _Subnet:
    """A /24 that nobody on this host uses, claimed against other labs by the name of an abstract socket."""

    def __init__(self, network: ipaddress.IPv4Network, claim: socket.socket) -> None:
        self.network = network
        self._claim = claim

    @classmethod
    async def take(cls) -> _Subnet:
        used = [ipaddress.IPv4Network(one["dst"], strict=False) for one in await _routes() if one["dst"] != "default"]
        candidates = [ipaddress.IPv4Network(network) for network in _SPACE.subnets(new_prefix=24)]
        start = os.getpid() % len(candidates)
        for network in candidates[start:] + candidates[:start]:
            if any(network.overlaps(other) for other in used):
                continue
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                claim.bind(f"\0metald-lab-{network}")
            except OSError:
                claim.close()
                continue
            return cls(network, claim)
        raise LabError(f"No /24 of {_SPACE} is free on this host.")

    def give_back(self) -> None:
        self._claim.close()


async def _routes() -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(await run("ip", "-j", "-4", "route") or "[]")
    return found


def may_bridge() -> str:
    """Why a bridged network is out of the question here; empty when it may work."""
    if os.geteuid() != 0:
        return "it needs root"
    if not _TUN.exists():
        return f"{_TUN} is missing"
    return ""


class BridgedNetwork(Network):
    """Bridge, cable, taps and dnsmasq.

    Attributes:
        hostsdir, optsdir, leases: what metald's DHCP provider `dnsmasq` is to be given.
        host6: this host's IPv6 address as machines reach it; empty unless the wire has IPv6.
        interface: this host's end of the wire.

    Args:
        directory: where its files go.
        wire: what it is made of.
    """

    def __init__(self, directory: Path, wire: Wire) -> None:
        self.directory = directory
        self.wire = wire
        self.host6 = ""
        self.interface = ""
        self.hostsdir = directory / "hosts"
        self.optsdir = directory / "opts"
        self.leases = directory / "leases"
        self.log = directory / "dnsmasq.log"
        self._subnet: _Subnet | None = None
        self._holder: asyncio.subprocess.Process | None = None
        self._dnsmasq: asyncio.subprocess.Process | None = None
        self._cable = ""

    async def start(self, machines: int) -> None:
        """Make the namespace and everything in it."""
        self._subnet = await _Subnet.take()
        third, fourth = self._subnet.network.network_address.packed[1:3]
        self.host = str(self._subnet.network[1])
        self._cable = f"lab{third}-{fourth}"
        self.interface = f"{self._cable}.{self.wire.vlan}" if self.wire.vlan else self._cable
        ula = f"fd6d:6c61:{third:02x}{fourth:02x}:"
        self.host6 = f"{ula}:2" if self.wire.ipv6 else ""
        await self._hold()
        await self._connect(machines, ula=ula)
        if self.wire.dhcp != "none":
            await self._serve_dhcp(ula=ula)

    async def close(self) -> None:
        """End dnsmasq and the namespace, and with it the cable and the taps."""
        for process in (self._dnsmasq, self._holder):
            if process is not None:
                await stop(process)
        if self._cable:
            # The kernel takes namespaces down in its own time; the name must be free when we say so.
            with contextlib.suppress(LabError):
                await run("ip", "link", "del", self._cable)
        if self._subnet is not None:
            self._subnet.give_back()

    def metald(self) -> dict[str, str]:
        """Settings for a metald that serves this wire, as environment variables."""
        hosts = [self.host, *([f"[{self.host6}]"] if self.host6 else [])]
        listen = {
            "METALD__DHCP__INTERFACES": self.interface,
            "METALD__BOOT__KERNEL_APPEND_PARAMS": KERNEL_PARAMETERS,
            "METALD__BOOT__TFTP_LISTEN": ",".join(f"{host}:69" for host in hosts),
            "METALD__BOOT__HTTP_LISTEN": ",".join(f"{host}:{HTTP_PORT}" for host in hosts),
        }
        if self.wire.watched:
            listen["METALD__DHCP__WATCH"] = self.interface
        match self.wire.dhcp:
            case "dnsmasq":
                return {
                    "METALD__DHCP__PROVIDER": "dnsmasq",
                    "METALD__DHCP__DNSMASQ_HOSTSDIR": str(self.hostsdir),
                    "METALD__DHCP__DNSMASQ_OPTSDIR": str(self.optsdir),
                    "METALD__DHCP__DNSMASQ_LEASES": str(self.leases),
                    **listen,
                }
            case "addresses":
                return {"METALD__DHCP__PROVIDER": "proxy", **listen}
            case "none":
                assert self._subnet is not None
                network = self._subnet.network
                ranges = f"{network[FIRST_LEASE]}-{network[LAST_LEASE]}/24"
                return {
                    "METALD__DHCP__PROVIDER": "lease",
                    "METALD__DHCP__RANGES": ranges,
                    **listen,
                }
        return listen

    def netdev(self, index: int) -> str:
        """A tap that is on the bridge already."""
        return f"tap,id=net0,ifname=tap{index},script=no,downscript=no"

    def wrap(self) -> list[str]:
        """Enter the namespace."""
        assert self._holder is not None
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--"]

    def ssh(self, index: int, mac: str) -> tuple[str, int] | None:  # noqa: ARG002
        """The address of the machine's lease."""
        address = self.lease(mac)
        return (address, 22) if address else None

    def lease(self, mac: str) -> str | None:
        """The IPv4 address that dnsmasq gave a MAC address."""
        with contextlib.suppress(FileNotFoundError):
            for line in self.leases.read_text().splitlines():
                parts = line.split()
                if len(parts) >= 4 and parts[1] == mac:
                    return parts[2]
        return None

    async def _hold(self) -> None:
        script = "echo up; exec sleep infinity"
        self._holder = await spawn(["unshare", "--net", "--", "sh", "-c", script], self.directory / "namespace.log", piped=True)
        assert self._holder.stdout is not None
        try:
            async with asyncio.timeout(_READY):
                line = await self._holder.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            said = (self.directory / "namespace.log").read_text().strip()
            raise LabError(f"No network namespace can be made here: {said or 'unshare does not answer'}.")

    async def _connect(self, machines: int, *, ula: str) -> None:
        assert self._holder is not None
        assert self._subnet is not None
        await run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "cable", "netns", str(self._holder.pid))
        # This host must not take part in the lab's IPv6: dnsmasq announces a router there, for iPXE's sake.
        await run("ip", "link", "set", self._cable, "addrgenmode", "none")
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{self._cable}/accept_ra").write_text("0")
        if self.wire.vlan:
            await run("ip", "link", "add", "link", self._cable, "name", self.interface, "type", "vlan", "id", str(self.wire.vlan))
        await run("ip", "address", "add", f"{self.host}/24", "dev", self.interface)
        if self.host6:
            await run("ip", "address", "add", f"{self.host6}/64", "dev", self.interface, "nodad")
        for name in dict.fromkeys((self._cable, self.interface)):
            await run("ip", "link", "set", name, "up")
        filtering = " vlan_filtering 1" if self.wire.vlan else ""
        lines = ["link set lo up", f"link add bridge type bridge forward_delay 0 mcast_snooping 0{filtering}"]
        lines += ["link set cable master bridge", "link set cable up", "link set bridge up"]
        lines += [f"address add {self._subnet.network[2]}/24 dev bridge", f"address add {ula}:1/64 dev bridge nodad"]
        for index in range(machines):
            lines += [f"tuntap add dev tap{index} mode tap", f"link set tap{index} master bridge", f"link set tap{index} up"]
        await run(*self.wrap(), "ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        if self.wire.vlan:
            lines = [f"vlan add dev cable vid {self.wire.vlan}"]
            for index in range(machines):
                lines += [f"vlan del dev tap{index} vid 1", f"vlan add dev tap{index} vid {self.wire.vlan} pvid untagged"]
            await run(*self.wrap(), "bridge", "-batch", "-", stdin="\n".join(lines) + "\n")

    async def _serve_dhcp(self, *, ula: str) -> None:
        assert self._subnet is not None
        for directory in (self.hostsdir, self.optsdir):
            directory.mkdir()
        argv = command(
            self.wire, self._subnet.network, ula, self.directory, self.log, http=f"http://{self.host}:{HTTP_PORT}", tftp=self.host
        )
        output = self.directory / "dnsmasq.out"
        self._dnsmasq = await spawn([*self.wrap(), *argv], output)
        deadline = asyncio.get_running_loop().time() + _READY
        while not (self.log.exists() and "DHCP, IP range" in self.log.read_text()):
            if self._dnsmasq.returncode is not None or asyncio.get_running_loop().time() > deadline:
                raise LabError(f"dnsmasq does not start: {output.read_text(errors='replace').strip()}")
            await asyncio.sleep(0.02)


class UserNetwork(Network):
    """One NAT of QEMU's per machine.

    Args:
        boot_url: what QEMU's DHCP names as the boot file: metald's iPXE script.
    """

    host = "10.0.2.2"
    left_out = LEFT_OUT_BY_USER_NETWORK

    def __init__(self, boot_url: str) -> None:
        self.boot_url = boot_url
        self._ports: list[int] = []

    async def start(self, machines: int) -> None:
        """Choose a port for each machine's SSH."""
        probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(machines)]
        self._ports = [probe.getsockname()[1] for probe in probes]
        for probe in probes:
            probe.close()

    def netdev(self, index: int) -> str:
        """User networking with the boot file and a way in."""
        boot = f",bootfile={self.boot_url}" if self.boot_url else ""
        return f"user,id=net0{boot},hostfwd=tcp:127.0.0.1:{self._ports[index]}-:22"

    def ssh(self, index: int, mac: str) -> tuple[str, int]:  # noqa: ARG002
        """The forwarded port."""
        return "127.0.0.1", self._ports[index]
