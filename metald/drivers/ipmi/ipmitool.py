"""The interfaces `ipmitool`: a program per command, for BMCs that need its bridging, suites, IPMI 1.5 or workarounds.

Rules:

- Password and Kg key travel in the program's environment, which only its own account can read; never in its
  arguments, never in a file, never in an error.
- Each run has a deadline and is killed at it, and when its caller is cancelled; it is always waited for.
- One program at a time per BMC, and a bounded number in all: a run costs 30 ms of CPU.
- Commands are sent raw, so that both interfaces share one client, and answers carry the BMC's completion code.
- What a busy or full BMC refuses is tried again until the command's time is over, as the native interface does.
- The recent exchange is recorded for each BMC, as the native interface does.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final
from weakref import WeakValueDictionary

from metald.config import Ipmi
from metald.drivers.base import NodeContext
from metald.drivers.ipmi import refusal
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.management import IpmiManagement
from metald.drivers.ipmi.power import IpmiPower
from metald.drivers.ipmi.recorder import Recorder
from metald.drivers.ipmi.refusal import CompletionCode
from metald.errors import BmcCipherUnsupported, BmcUnreachable, DriverError, Unsupported

_FIRST_WAIT = "1"  # seconds for the first answer; ipmitool waits a second longer with each try
_TRIES = 3
_CONCURRENT = 16
_REMEMBERED = 10_000  # BMCs of which something is kept in mind
_OUTPUT = 4096
_PAUSE = 1.0
_LINES_OF_AN_ERROR = 8

_COMPLETION: Final = re.compile(r"rsp=0x([0-9a-fA-F]{1,2})\)")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2}\s*)*")

# What ipmitool 1.8 says when a session cannot be opened, and what it means. The first that occurs decides.
_SAYINGS: Final = (
    ("insufficient resources for session", "full"),
    ("insufficient resources to create a session", "full"),
    ("is not what we requested", "suite"),
    ("no response from rakp 1 message", "EXPECTINGRAKP2"),
    ("no response from rakp 3 message", "EXPECTINGRAKP4"),
    ("unauthorized name", "user"),
    ("rakp 2 hmac is invalid", "password"),
    ("rakp 4 message has invalid integrity check value", "kg"),
    ("invalid integrity check value", "password"),
    ("password verification timed out", "password"),
    ("invalid user name", "user"),
    ("invalid role", "privilege"),
    ("unauthorized role", "privilege"),
    ("set session privilege level to", "privilege"),
    ("no matching cipher suite", "suite"),
    ("no cipher suite match", "suite"),
    ("invalid authentication algorithm", "suite"),
    ("invalid integrity algorithm", "suite"),
    ("invalid confidentiality algorithm", "suite"),
    ("open session request", "silence"),
    ("activate session command failed", "EXPECTINGRAKP4"),
    ("authentication type none not supported", "1.5"),
    ("address lookup for", "name"),
    ("could not open socket", "name"),
)


class _Full(Exception):
    """The BMC has no free session slot at present."""


class _Known:
    """What is kept in mind of one BMC."""

    __slots__ = ("recorder", "suite")

    def __init__(self) -> None:
        self.suite: int | None = None
        self.recorder = Recorder()


class Ipmitool:
    """Runs the program. One for all interfaces of the daemon, so that a BMC sees one command at a time."""

    def __init__(self, settings: Ipmi) -> None:
        self._settings = settings
        self._locks: WeakValueDictionary[tuple[str, int], asyncio.Lock] = WeakValueDictionary()
        self._running = asyncio.Semaphore(_CONCURRENT)
        self._known: OrderedDict[tuple[str, int], _Known] = OrderedDict()

    async def raw(self, info: BmcInfo, netfn: int, command: int, data: bytes = b"", *, idempotent: bool = True, lun: int = 0) -> bytes:
        """See `client.Transport.raw`.

        For a command that must not happen twice the program gets a single try at everything.
        """
        check(info)
        key = (info.address, info.port)
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        words = ["-l", str(lun)] if lun else []
        words += ["raw", *(f"0x{byte:02x}" for byte in (netfn, command, *data))]
        known = self._of(key)
        async with lock:
            try:
                answer = await self._until_it_passes(info, known, words, repeat=idempotent)
            except DriverError as error:
                now = asyncio.get_running_loop().time()
                if isinstance(error, CompletionCode):
                    known.recorder.command(now, netfn, command, data, error.completion)
                else:
                    known.recorder.note(now, "failed", error.message)
                error.exchange = known.recorder.lines(_LINES_OF_AN_ERROR)
                raise
        known.recorder.command(asyncio.get_running_loop().time(), netfn, command, data, 0, answer)
        return answer

    async def _until_it_passes(self, info: BmcInfo, known: _Known, words: list[str], *, repeat: bool) -> bytes:
        loop = asyncio.get_running_loop()
        last_try = loop.time() + self._settings.command_timeout - _PAUSE
        while True:
            try:
                async with self._running:
                    return await self._by_some_suite(info, known, words, repeat=repeat)
            except _Full:
                if loop.time() >= last_try:
                    raise refusal.unreachable(info, self._settings.command_timeout, refusal.IS_FULL) from None
            except CompletionCode as error:
                if not refusal.passes(*_command(words), error.completion, repeat=repeat) or loop.time() >= last_try:
                    raise
            known.recorder.note(loop.time(), "busy")
            await asyncio.sleep(_PAUSE)

    async def _by_some_suite(self, info: BmcInfo, known: _Known, words: list[str], *, repeat: bool) -> bytes:
        # Always one by name: left to itself ipmitool asks for the BMC's list, which some BMCs do not answer, for seconds.
        for suite in sorted(info.suites, key=lambda suite: suite != known.suite):
            code, output, errors = await self._run(info, suite, words, tries=_TRIES if repeat else 1)
            if code == 0:
                known.suite = suite
                return bytes.fromhex("".join(line for line in map(str.strip, output.splitlines()) if _HEX.fullmatch(line)))
            error = self._error(info, words, errors or output)
            if not isinstance(error, BmcCipherUnsupported):
                break
        raise error

    def exchange(self, info: BmcInfo) -> list[dict[str, Any]]:
        """The recent exchange with a BMC as JSON values, oldest first, without secrets."""
        known = self._known.get((info.address, info.port))
        return known.recorder.export(asyncio.get_running_loop().time()) if known else []

    def _of(self, key: tuple[str, int]) -> _Known:
        known = self._known.setdefault(key, _Known())
        self._known.move_to_end(key)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return known

    async def _run(self, info: BmcInfo, suite: int, words: list[str], *, tries: int) -> tuple[int, str, str]:
        try:
            process = await asyncio.create_subprocess_exec(
                self._settings.ipmitool,
                *arguments(info, suite, tries),
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment(info),
            )
        except OSError as error:
            raise Unsupported(
                f"The interface ipmitool needs the program {self._settings.ipmitool!r}, which does not start: {error.strerror}.",
                remedy="Install the package ipmitool, or use the interface pyghmi.",
            ) from None
        try:
            async with asyncio.timeout(self._settings.command_timeout):
                output, errors = await process.communicate()
        except TimeoutError:
            raise refusal.unreachable(info, self._settings.command_timeout) from None
        finally:
            await _end(process)
        assert process.returncode is not None
        return process.returncode, output[:_OUTPUT].decode("ascii", "replace").strip(), errors[:_OUTPUT].decode("ascii", "replace").strip()

    def _error(self, info: BmcInfo, words: list[str], text: str) -> DriverError:
        found = _COMPLETION.search(text)
        if found:
            return refusal.refused(info, *_command(words), int(found[1], 16))
        lower = text.lower()
        meaning = next((meaning for saying, meaning in _SAYINGS if saying in lower), "silence")
        if meaning == "full":
            raise _Full
        if meaning in refusal.SILENT:
            return refusal.unreachable(info, self._settings.command_timeout, refusal.SILENT[meaning])
        if meaning == "user":
            return refusal.unknown_user(info)
        if meaning == "password":
            return refusal.wrong_password(info)
        if meaning == "kg":
            return refusal.wrong_kg(info)
        if meaning == "privilege":
            return refusal.privilege_refused(info)
        if meaning == "suite":
            return BmcCipherUnsupported(
                f"{info.label} does not accept the cipher suite.", remedy="Set ipmi_cipher_suite to one that it has enabled, 17 or 3."
            )
        if meaning == "1.5":
            return BmcCipherUnsupported(
                f"{info.label} lets nobody in by IPMI 1.5.",
                remedy="Remove ipmi_protocol_version from driver_info, or allow MD5 for it on the BMC.",
            )
        if meaning == "name":
            return refusal.unknown_name(info, "ipmitool found no address for it")
        return BmcUnreachable(
            f"{info.label} could not be asked by ipmitool ({_masked(info, text)}).",
            remedy="Check ipmi_address and ipmi_port, the network between, and that the BMC has IPMI over LAN enabled.",
        )


def _command(words: list[str]) -> tuple[int, int]:
    """Netfn and command of a `raw`."""
    netfn, command = words[words.index("raw") + 1 :][:2]
    return int(netfn, 16), int(command, 16)


def arguments(info: BmcInfo, suite: int, tries: int) -> list[str]:
    """ipmitool's options for a BMC; no secrets. Without -v it does not say why a login failed."""
    words = ["-v", "-I", "lanplus" if info.protocol == "2.0" else "lan", "-H", info.address, "-p", str(info.port)]
    words += ["-L", info.privilege_name, "-N", _FIRST_WAIT, "-R", str(tries), "-E"]
    if info.username:
        words += ["-U", info.username]
    if info.protocol == "2.0":
        words += ["-C", str(suite)]
    if info.kg is not None:
        words.append("-K")
    if info.bridge is not None:
        bridge = info.bridge
        values = bridge.local_address, bridge.target_channel, bridge.target_address, bridge.transit_channel, bridge.transit_address
        for option, value in zip(("-m", "-b", "-t", "-B", "-T"), values, strict=True):
            words += [option, value] if value is not None else []
    return words


def check(info: BmcInfo) -> None:
    """Refuse what the program cannot be given safely.

    Raises:
        Unsupported: a Kg key that cannot be passed by the environment.
    """
    if info.kg is not None and b"\0" in _short(info.kg):
        raise Unsupported(
            f"{info.label}: ipmitool takes a Kg key with zero bytes in it by its arguments only, where every user could read it.",
            remedy="Use the interface pyghmi, or a Kg key with zero bytes at its end only.",
            field="driver_info",
        )


def environment(info: BmcInfo) -> dict[bytes, bytes]:
    """The program's whole environment: a path, a plain locale, and the secrets."""
    variables = {b"PATH": os.environb.get(b"PATH", os.defpath.encode()), b"LC_ALL": b"C", b"IPMI_PASSWORD": info.password.encode()}
    if info.kg is not None:
        variables[b"IPMI_KGKEY"] = _short(info.kg)
    return variables


def _short(kg: bytes) -> bytes:
    """A key without the zero bytes at its end: to HMAC it is the same key (RFC 2104, section 2)."""
    return kg.rstrip(b"\0")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Make sure that the program is gone, also when we are being cancelled."""
    if process.returncode is None:
        process.kill()
        await asyncio.shield(process.wait())


def _masked(info: BmcInfo, text: str) -> str:
    line = text.splitlines()[-1].strip() if text.strip() else "it said nothing"
    return line.replace(info.password, "***") if info.password else line


class IpmitoolPower(IpmiPower):
    """Power by the program ipmitool. Give power and management the same `program`."""

    name: ClassVar[str] = "ipmitool"

    def __init__(self, settings: Ipmi, program: Ipmitool | None = None) -> None:
        super().__init__(program or Ipmitool(settings), settings)

    async def validate(self, ctx: NodeContext) -> None:
        """See `Interface.validate`."""
        check(self._info(ctx))


class IpmitoolManagement(IpmiManagement):
    """Management by the program ipmitool."""

    name: ClassVar[str] = "ipmitool"

    def __init__(self, settings: Ipmi, program: Ipmitool | None = None) -> None:
        self._program = program or Ipmitool(settings)
        super().__init__(self._program, settings)

    def exchange(self, ctx: NodeContext) -> Sequence[Mapping[str, Any]]:
        """See `Management.exchange`."""
        return self._program.exchange(self._info(ctx))

    async def validate(self, ctx: NodeContext) -> None:
        """See `Interface.validate`."""
        check(self._info(ctx))
