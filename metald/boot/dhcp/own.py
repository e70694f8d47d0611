"""The DHCP server of our own: its sockets, what it tells the directory, and the file of its leases.

Rules: it answers on the interfaces of `dhcp.interfaces` and nowhere else. Nothing it reads can make it raise. A flood is
told of once: who asked the same with the same outcome within half a minute is not reported again. Leases are written
within a second of their change, in a thread, by a rename.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from metald.boot import loaders
from metald.boot.dhcp.answer import BINL_PORT, CLIENT_PORT, SERVER_PORT, Answer, Answers, BootFile
from metald.boot.dhcp.leases import Leases, parse_range
from metald.boot.dhcp.machine import Machine
from metald.boot.dhcp.once import Once
from metald.boot.dhcp.packet import Kind, Malformed, encode, parse
from metald.boot.dhcp.wire import Arrival, DhcpSocket
from metald.boot.directory import BootDirectory
from metald.boot.files import BootFiles, image_name
from metald.config import ConfigError, Settings
from metald.errors import NotFound
from metald.model import Node

LEASES = "dhcp-leases.json"
_AT_ONCE = 32
_WRITE_AFTER = 1.0
_DEADLINE = 30.0

_log = logging.getLogger(__name__)


class DhcpServer:
    """The listener of the providers `proxy` and `lease`. `start` binds, so that root can be dropped after it.

    Args:
        ports: for requests, and for the firmware's second question.

    Raises:
        ConfigError: settings that it needs are missing or wrong.
    """

    def __init__(
        self, directory: BootDirectory, files: BootFiles, settings: Settings, *, ports: tuple[int, int] = (SERVER_PORT, BINL_PORT)
    ) -> None:
        dhcp, boot = settings.dhcp, settings.boot
        self._directory, self._files, self._ports = directory, files, ports
        self._interfaces = tuple(dhcp.interfaces)
        self._tftp = tftp_address(settings)
        self._serves_tftp = bool(boot.tftp_listen or boot.tftp_address)
        self._script_by_tftp = dhcp.ipxe_script == "tftp"
        self._image = boot.http_boot == "image"
        self._answer_unknown = dhcp.answer_unknown
        self._file = Path(settings.state_dir) / LEASES
        leases = own_leases(settings)
        self._answers = Answers(self._boot_file, self._known, leases, tuple(map(_dns, dhcp.dns)))
        self._sockets: list[DhcpSocket] = []
        self._once = Once()
        self._writing: asyncio.Task[None] | None = None
        self._changed = False
        self.answered: Counter[str] = Counter()
        """Answers by kind: `offer`, `ack`, `nak`."""

    @property
    def leases(self) -> Leases | None:
        """What is handed out; None for a proxy."""
        return self._answers.leases

    async def start(self) -> None:
        """Read the leases, bind, and serve.

        Raises:
            OSError: a port cannot be bound, or there is no such interface.
            ConfigError: the file of leases cannot be read.
        """
        if self.leases is not None:
            async with asyncio.timeout(_DEADLINE):
                await asyncio.to_thread(_load, self._file, self.leases)
        loop = asyncio.get_running_loop()
        try:
            for interface in self._interfaces:
                for at, port in enumerate(self._ports):
                    found = DhcpSocket(interface, port)
                    self._sockets.append(found)
                    loop.add_reader(found.fileno(), self._readable, found, BINL_PORT if at else SERVER_PORT)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop answering; write what is not written."""
        loop = asyncio.get_running_loop()
        for found in self._sockets:
            loop.remove_reader(found.fileno())
            found.close()
        self._sockets.clear()
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
            self._writing = None
            await self._write()

    def _readable(self, sock: DhcpSocket, port: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                arrival = sock.receive()
            except BlockingIOError:
                return
            except OSError as error:
                _log.debug("DHCP: %s", error)
                return
            if arrival is not None:
                self._arrived(sock, arrival, port)

    def _arrived(self, sock: DhcpSocket, arrival: Arrival, port: int) -> None:
        try:
            answer = self._answers.answer(parse(arrival.data), arrival.own, port, time.time())
        except Malformed:
            return
        except Exception:
            _log.exception("DHCP: a request of %s could not be answered", arrival.peer[0])
            return
        if answer is None:
            self._save_later()
            return
        if answer.reply is not None:
            kind = Kind(answer.reply.kind)
            try:
                sock.send(encode(answer.reply), _destination(answer, arrival.peer), arrival.own)
                self.answered[kind.name.lower()] += 1
            except OSError as error:
                _log.warning("DHCP: %s cannot be answered: %s", answer.machine.mac, error)
            if kind is not Kind.OFFER:
                self._save_later()
        self._tell(answer)

    # -- who is answered what

    def _known(self, mac: str) -> tuple[bool, bool]:
        node = self._directory.node_by_mac(mac)
        if node is None:
            return self._answer_unknown, self._answer_unknown
        return True, self._files.may_boot(node, [mac])

    def _boot_file(self, asker: Machine, own: IPv4Address) -> BootFile | str:
        node = self._directory.node_by_mac(asker.mac)
        interface = (node.boot_interface if node is not None else None) or loaders.INTERFACES[0]
        tftp = self._tftp or own
        first = loaders.first(interface, asker.firmware, asker.family, image=self._image)
        if isinstance(first, str):
            return first if asker.family else f"{first} for the architecture {asker.architecture}"
        try:
            base = "" if first.kind == "tftp" else self._files.urls.base(str(own))
        except NotFound as error:
            if first.kind != "script" or not self._script_by_tftp:
                return str(error)
            base = ""
        match first.kind:
            case "script":
                return BootFile(tftp, "boot.ipxe" if self._script_by_tftp else f"{base}/boot.ipxe")
            case "http":
                return BootFile(tftp, f"{base}/{first.name}")
            case "image":
                return self._image_file(node, asker.mac, tftp, base)
        if not self._serves_tftp:
            return "PXE firmware loads by TFTP, and there is no TFTP server: set boot.tftp_listen or boot.tftp_address"
        return BootFile(tftp, first.name)

    def _image_file(self, node: Node | None, mac: str, tftp: IPv4Address, base: str) -> BootFile | str:
        """The machine's own image; nothing, without an error, while it boots from its disk."""
        name = image_name(node) if node is not None else ""
        return BootFile(tftp, f"{base}/uefi/{mac.replace(':', '-')}/{name}") if name else ""

    def _tell(self, answer: Answer) -> None:
        asker, reply = answer.machine, answer.reply
        node = self._directory.node_by_mac(asker.mac)
        given = str(reply.yours) if reply is not None and int(reply.yours) else None
        what = Kind(reply.kind).name.lower() if reply is not None else None
        key = (asker.mac, asker.firmware, answer.asked.name, what or "", given or "", answer.file, answer.server, answer.error)
        count = self._once.fresh(key, time.monotonic())
        if not count:
            return
        if node is None and reply is None:
            self._directory.seen("boot.unknown", node_uuid=None, data={"client": "0.0.0.0", "mac": [asker.mac]})  # noqa: S104
            return
        if node is not None and given is not None:
            self._files.clients.learn(given, node.uuid)
        facts = {
            "client": given,
            "mac": asker.mac,
            "file": answer.file or None,
            "asked": answer.asked.name.lower(),
            "answer": what,
            "firmware": asker.firmware,
            "architecture": asker.architecture or None,
            "machine_id": bool(asker.id),
            "machine": asker.id or None,
            "server": answer.server or None,
            "error": answer.error or None,
            "count": count if count > 1 else None,
        }
        data = {name: value for name, value in facts.items() if value is not None}
        self._directory.seen("node.dhcp", node_uuid=node.uuid if node is not None else None, data=data)

    # -- what outlives a restart

    def _save_later(self) -> None:
        if self.leases is None:
            return
        self._changed = True
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_soon())

    async def _write_soon(self) -> None:
        while self._changed:
            await asyncio.sleep(_WRITE_AFTER)
            await self._write()

    async def _write(self) -> None:
        assert self.leases is not None
        self._changed = False
        text = json.dumps(self.leases.dump(), indent=0)
        try:
            async with asyncio.timeout(_DEADLINE):
                await asyncio.to_thread(_save, self._file, text)
        except (OSError, TimeoutError) as error:
            _log.warning("DHCP: the leases cannot be written to %s: %s", self._file, error)


def own_leases(settings: Settings) -> Leases | None:
    """The leases of the provider `lease`, none of them taken; None for a proxy.

    Raises:
        ConfigError: settings are missing or wrong.
    """
    dhcp = settings.dhcp
    if not dhcp.interfaces:
        raise ConfigError(f"dhcp.provider {dhcp.provider} must know where to answer: name network interfaces in dhcp.interfaces.")
    if dhcp.provider != "lease":
        return None
    ranges = [parse_range(text) for text in dhcp.ranges]
    if not ranges:
        raise ConfigError("dhcp.provider lease needs addresses to hand out: set dhcp.ranges.")
    for at, one in enumerate(ranges):
        if any(one.network.overlaps(other.network) for other in ranges[:at]):
            raise ConfigError(f"dhcp.ranges: the network {one.network} is there twice; give one range for each network.")
    tftp = tftp_address(settings)
    return Leases(ranges, dhcp.lease_time, frozenset({tftp} if tftp else ()))


def tftp_address(settings: Settings) -> IPv4Address | None:
    """The TFTP server's address where it is not the one that a machine asked.

    Raises:
        ConfigError: it is no IPv4 address.
    """
    try:
        return IPv4Address(settings.boot.tftp_address) if settings.boot.tftp_address else None
    except ValueError:
        raise ConfigError(f"boot.tftp_address: {settings.boot.tftp_address!r} is no IPv4 address, which DHCP tells.") from None


def _dns(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise ConfigError(f"dhcp.dns: {text!r} is no IPv4 address.") from None


def _destination(answer: Answer, peer: tuple[str, int]) -> tuple[str, int]:
    reply = answer.reply
    assert reply is not None
    match answer.to:
        case "relay":
            return str(reply.relay), SERVER_PORT
        case "client":
            return str(reply.client), CLIENT_PORT
        case "sender":
            return peer
    return "255.255.255.255", CLIENT_PORT


def _load(path: Path, leases: Leases) -> None:
    try:
        rows = json.loads(path.read_text())
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("it holds no list of leases")
        leases.load(rows)
    except FileNotFoundError:
        return
    except ValueError as error:
        raise ConfigError(f"The leases in {path} cannot be read: {error}. Remove the file to start without leases.") from error


def _save(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text)
    draft.replace(path)


def read_addresses(path: Path, macs: Sequence[str], now: float) -> dict[str, str]:
    """The addresses that MAC addresses hold by the file of leases.

    Raises:
        OSError: it cannot be read; one that does not exist yet holds none.
    """
    try:
        rows = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        return {}
    wanted = set(macs)
    return {row["mac"]: row["address"] for row in rows if row.get("mac") in wanted and row.get("until", 0) > now}
