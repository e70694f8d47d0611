"""A simulated BMC and the machine's power behind it: IPMI commands, faults on order, and counters of every effect.

Rules:

- No input or output and no clock: `handle(data, now)` answers a datagram, `due` says when `settle(now)` is wanted.
- Effects are counted where they happen, so that a crash test can prove that each was done once. `power_on` and
  `power_off` count changes of the power, `control` counts accepted chassis commands whether or not they changed it.
- Faults are plain fields that may change at any time; what is left to chance comes from a seeded generator.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from metald.sim import sol
from metald.sim.rmcp import RmcpServer, Session, User

_OK = b"\x00"
_INVALID_COMMAND = b"\xc1"
_CUT_SHORT = b"\xc7"
_INVALID_DATA = b"\xcc"
_PRIVILEGE = b"\xd4"
_WRONG_STATE = b"\xd5"
_PARAMETER_UNSUPPORTED = b"\x80"
_PRIVILEGE_OVER_LIMIT = b"\x81"
_PAYLOAD_STATE = b"\x80"

_CALLBACK, _USER, _OPERATOR, _ADMINISTRATOR = 1, 2, 3, 4
_BOOT_FLAGS = 5
_VALID, _PERSISTENT = 0x80, 0x40

Change = Callable[["SimBmc", str], None]
"""Told of an effect: the BMC, and `power_on`, `power_off`, `reset`, `nmi` or `boot_device`."""


@dataclass(slots=True)
class Faults:
    """What is wrong with the BMC, its network or its machine."""

    loss: float = 0.0
    """Share of datagrams lost, each way."""
    delay: float = 0.0
    """Seconds until an answer leaves."""
    dead: bool = False
    power_stuck: bool = False
    """Chassis commands are accepted and do nothing."""
    power_delay: float = 0.0
    """Seconds between accepting a power command and the change."""
    power_shown: str = ""
    """`on` or `off`: what the BMC says whatever the power is."""
    ignore_soft: bool = False
    """The operating system does not obey the power button."""
    refuse: dict[str, int] = field(default_factory=dict)
    """Completion code for a command, by `netfn:command` in hexadecimal, such as `00:02`."""


@dataclass(slots=True)
class Counters:
    """What the BMC did and saw."""

    power_on: int = 0
    power_off: int = 0
    reset: int = 0
    cycle: int = 0
    soft_off: int = 0
    nmi: int = 0
    control: int = 0
    boot_device: int = 0
    commands: int = 0
    refused: int = 0
    restarts: int = 0
    datagrams: int = 0


class SimBmc:
    """One BMC. `users`, `kg`, `suites`, `slots` as in `RmcpServer`."""

    def __init__(
        self,
        address: str = "127.0.0.1",
        *,
        users: tuple[User, ...] = (User("admin", "secret"),),
        suites: tuple[int, ...] = (3, 17),
        kg: bytes | None = None,
        slots: int = 5,
        seed: int = 0,
        on_change: Change | None = None,
    ) -> None:
        self.address = address
        self.rng = random.Random(f"{seed}/{address}")  # noqa: S311 - replayable
        self.guid = self.rng.randbytes(16)
        self.faults = Faults()
        self.counters = Counters()
        self.power = False
        self.manufacturer, self.product = 343, 0x1234
        self.boot_options: dict[int, bytes] = {0: b"\x00", 1: b"\x00", 2: b"\x00", 3: b"\x00", 4: b"\x00\x00", _BOOT_FLAGS: bytes(5)}
        self.on_change = on_change
        self.port = 623
        """The UDP port that it is reached at."""
        self.sol: sol.Sol | None = None
        """The Serial-over-LAN payload, while one is activated."""
        self.on_output: Callable[[SimBmc], None] | None = None
        """Told that `take_console` has something; the network asks for it then."""
        self.on_input: Callable[[bytes], None] | None = None
        """Told of what was typed on the console."""
        self.due: float | None = None
        """When `settle` is to be called for a slow power change; None when nothing is pending."""
        self._pending: tuple[str, bool] | None = None
        self.server = RmcpServer(self._command, users, guid=self.guid, rng=self.rng, suites=suites, kg=kg, slots=slots, console=self._typed)
        self._commands: dict[tuple[int, int], tuple[int, Callable[[Session | None, bytes, float], bytes]]] = {
            (0x06, 0x38): (0, self._auth_capabilities),
            (0x06, 0x54): (0, self._cipher_suites),
            (0x06, 0x01): (_USER, self._device_id),
            (0x06, 0x02): (_ADMINISTRATOR, self._cold_reset),
            (0x06, 0x04): (_USER, lambda *_: b"\x00\x55\x00"),
            (0x06, 0x37): (_USER, lambda *_: _OK + self.guid),
            (0x06, 0x3B): (_CALLBACK, self._set_privilege),
            (0x06, 0x3C): (_CALLBACK, self._close_session),
            (0x06, 0x48): (_USER, self._activate),
            (0x06, 0x49): (_USER, self._deactivate),
            (0x06, 0x4A): (_USER, self._activation_status),
            (0x06, 0x4E): (_USER, lambda *_: _OK + b"\x03\x00\x3f" + bytes(5)),
            (0x0C, 0x21): (_OPERATOR, lambda *_: _OK),
            (0x0C, 0x22): (_USER, self._sol_configuration),
            (0x00, 0x00): (_USER, lambda *_: b"\x00\x00\x20\x20\x20\x20\x20"),
            (0x00, 0x01): (_USER, self._status),
            (0x00, 0x02): (_OPERATOR, self._control),
            (0x00, 0x08): (_OPERATOR, self._set_boot_option),
            (0x00, 0x09): (_OPERATOR, self._get_boot_option),
        }

    # -- the outside

    def handle(self, data: bytes, now: float) -> bytes | None:
        """Answer a datagram, or None."""
        self.settle(now)
        self.counters.datagrams += 1
        return self.server.handle(data, now)

    def restart(self) -> None:
        """The BMC restarts: all sessions are forgotten; the machine's power and boot options stay."""
        self.counters.restarts += 1
        self.server.sessions.clear()
        self.sol = None

    def settle(self, now: float) -> None:
        """Let a slow power change happen when its time has come."""
        if self.due is not None and now >= self.due and self._pending is not None:
            effect, power = self._pending
            self.due = self._pending = None
            self._change(effect, power)

    def set_power(self, power: bool) -> None:
        """The machine changed its own power (a shutdown, the button); counted like any change."""
        self._change("power_on" if power else "power_off", power)

    def take_boot_device(self) -> bytes | None:
        """What a booting machine's firmware does: read the boot flags and use up a one-time choice."""
        flags = self.boot_options[_BOOT_FLAGS]
        if not flags[0] & _VALID:
            return None
        if not flags[0] & _PERSISTENT:
            self.boot_options[_BOOT_FLAGS] = bytes(5)
        return flags

    def report(self) -> dict[str, Any]:
        """Counters and state as JSON values."""
        server = self.server
        return {
            **asdict(self.counters),
            "logins": server.logins,
            "failed_logins": server.failed_logins,
            "dropped": server.dropped,
            "replayed": server.replayed,
            "sessions": server.established,
            "power": "on" if self.power else "off",
            "boot_flags": self.boot_options[_BOOT_FLAGS].hex(),
        }

    # -- the console

    def print(self, text: bytes) -> None:
        """The machine wrote to its serial port; nobody keeps it when no console listens."""
        if self.sol is not None:
            self.sol.write(text)
            if self.on_output is not None:
                self.on_output(self)

    def take_console(self, now: float) -> list[bytes]:
        """Datagrams for the listening console; `sol.due` says when to ask again."""
        session = self.server.sessions.get(self.sol.sid) if self.sol is not None else None
        if self.sol is None or session is None:
            self.sol = None
            return []
        return [self.server.send_console(session, payload) for payload in self.sol.take(now)]

    def _typed(self, session: Session, payload: bytes) -> None:
        if self.sol is None or self.sol.sid != session.sid:
            return
        typed = self.sol.feed(payload)
        if typed and self.power and self.on_input is not None:
            self.on_input(typed)

    def _activate(self, session: Session | None, data: bytes, _now: float) -> bytes:
        assert session is not None
        if len(data) < 2:
            return _CUT_SHORT
        if data[0] & 0x3F != 1 or data[1] & 0x0F != 1:
            return _INVALID_DATA
        if self.sol is not None and self.sol.sid in self.server.sessions:
            return _PAYLOAD_STATE
        self.sol = sol.Sol(session.sid)
        return _OK + sol.activation(self.port)

    def _deactivate(self, _session: Session | None, data: bytes, _now: float) -> bytes:
        if len(data) < 2:
            return _CUT_SHORT
        if self.sol is None:
            return _PAYLOAD_STATE
        self.sol = None
        return _OK

    def _activation_status(self, *_: object) -> bytes:
        return _OK + bytes((1, self.sol is not None, 0))

    def _sol_configuration(self, _session: Session | None, data: bytes, _now: float) -> bytes:
        if len(data) < 4:
            return _CUT_SHORT
        value = sol.CONFIGURATION.get(data[1])
        return _PARAMETER_UNSUPPORTED if value is None else b"\x00\x11" + value

    # -- commands

    def _command(self, session: Session | None, netfn: int, command: int, data: bytes, now: float) -> bytes:
        found = self._commands.get((netfn, command))
        if found is None:
            return _INVALID_COMMAND
        needed, run = found
        if (session.privilege if session else 0) < needed:
            self.counters.refused += 1
            return _PRIVILEGE
        if session:
            self.counters.commands += 1
        refusal = self.faults.refuse.get(f"{netfn:02x}:{command:02x}")
        if refusal is not None:
            self.counters.refused += 1
            return bytes((refusal,))
        return run(session, data, now)

    def _auth_capabilities(self, _session: Session | None, data: bytes, _now: float) -> bytes:
        if len(data) < 2:
            return _CUT_SHORT
        users = 0x04 | (0x20 if self.server.kg else 0)
        return b"\x00\x01\x80" + bytes((users, 0x02)) + bytes(4)

    def _cipher_suites(self, _session: Session | None, data: bytes, _now: float) -> bytes:
        if len(data) < 3:
            return _CUT_SHORT
        records = {3: b"\xc0\x03\x01\x41\x81", 17: b"\xc0\x11\x03\x44\x81"}
        listed = b"".join(records[suite] for suite in self.server.suites if suite in records)
        start = 16 * (data[2] & 0x3F)
        return b"\x00\x01" + listed[start : start + 16]

    def _device_id(self, *_: object) -> bytes:
        maker = self.manufacturer.to_bytes(3, "little")
        return b"\x00\x20\x01\x02\x10\x02\xbf" + maker + self.product.to_bytes(2, "little") + bytes(4)

    def _cold_reset(self, *_: object) -> bytes:
        self.restart()
        return _OK

    def _set_privilege(self, session: Session | None, data: bytes, _now: float) -> bytes:
        assert session is not None
        if not data:
            return _CUT_SHORT
        wanted = data[0] & 0x0F
        limit = session.user.privilege if session.user else 0
        if wanted > min(limit, session.role):
            return _PRIVILEGE_OVER_LIMIT
        session.privilege = wanted or session.privilege
        return bytes((0, session.privilege))

    def _close_session(self, session: Session | None, data: bytes, _now: float) -> bytes:
        assert session is not None
        if len(data) < 4 or self.server.sessions.pop(int.from_bytes(data[:4], "little"), None) is None:
            return b"\x87"
        return _OK

    def _status(self, *_: object) -> bytes:
        shown = self.faults.power_shown == "on" if self.faults.power_shown else self.power
        return bytes((0, shown, 0, 0, 0))

    def _control(self, _session: Session | None, data: bytes, now: float) -> bytes:
        if not data:
            return _CUT_SHORT
        action = data[0] & 0x0F
        effects = {0: "power_off", 1: "power_on", 2: "cycle", 3: "reset", 4: "nmi", 5: "soft_off"}
        if action not in effects:
            return _INVALID_DATA
        if action in (2, 3, 4) and not self.power:
            return _WRONG_STATE
        self.counters.control += 1
        effect = effects[action]
        if self.faults.power_stuck or (effect == "soft_off" and self.faults.ignore_soft):
            return _OK
        power = effect in ("power_on", "cycle", "reset", "nmi")
        if self.faults.power_delay and effect in ("power_on", "power_off", "soft_off"):
            self._pending, self.due = (effect, power), now + self.faults.power_delay
        else:
            self.due = self._pending = None
            self._change(effect, power)
        return _OK

    def _change(self, effect: str, power: bool) -> None:
        counters = self.counters
        if effect in ("reset", "nmi", "cycle"):
            setattr(counters, effect, getattr(counters, effect) + 1)
            told = "reset" if effect == "cycle" else effect
        elif power is self.power:
            return
        else:
            counters.soft_off += effect == "soft_off"
            told = "power_on" if power else "power_off"
            setattr(counters, told, getattr(counters, told) + 1)
        self.power = power
        self._tell(told)

    def _set_boot_option(self, _session: Session | None, data: bytes, _now: float) -> bytes:
        if not data:
            return _CUT_SHORT
        parameter, value = data[0] & 0x7F, data[1:]
        if parameter not in self.boot_options:
            return _PARAMETER_UNSUPPORTED
        if parameter == _BOOT_FLAGS and len(value) != 5:
            return _CUT_SHORT
        if value:
            self.boot_options[parameter] = value
        if parameter == _BOOT_FLAGS:
            self.counters.boot_device += 1
            self._tell("boot_device")
        return _OK

    def _get_boot_option(self, _session: Session | None, data: bytes, _now: float) -> bytes:
        if len(data) < 3:
            return _CUT_SHORT
        parameter = data[0] & 0x7F
        if parameter not in self.boot_options:
            return _PARAMETER_UNSUPPORTED
        return bytes((0, 1, parameter)) + self.boot_options[parameter]

    def _tell(self, effect: str) -> None:
        if self.on_change is not None:
            self.on_change(self, effect)


BOOT_SELECTORS: Final = {1: "pxe", 2: "disk", 3: "safe", 5: "cdrom", 6: "bios", 9: "disk", 15: "floppy"}
"""Names of the boot device selectors in the second byte of the boot flags, bits 5:2."""
