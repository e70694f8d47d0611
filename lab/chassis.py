"""What a BMC knows of its chassis: the answers to IPMI's chassis commands, and the boot flags. No I/O.

Source: IPMI 2.0, section 28. A request is the command byte and its data, an answer the completion code and its data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

OK = 0x00
INVALID_COMMAND = 0xC1
LENGTH_INVALID = 0xC7
INVALID_FIELD = 0xCC
WRONG_STATE = 0xD5
PARAMETER_UNSUPPORTED = 0x80

_BOOT_FLAGS = 5
_VALID, _PERSISTENT, _EFI = 0x80, 0x40, 0x20
_LENGTHS = {0: 1, 1: 1, 2: 1, 3: 1, 4: 2, _BOOT_FLAGS: 5, 6: 9, 7: 17}
"""Bytes of each boot option parameter (table 28-14)."""


class Action(StrEnum):
    """Chassis Control (28.3)."""

    OFF = "off"
    ON = "on"
    CYCLE = "cycle"
    RESET = "reset"
    NMI = "nmi"
    SOFT = "soft"


_ACTIONS = dict(enumerate(Action))
_NEEDS_POWER = frozenset({Action.CYCLE, Action.RESET, Action.NMI})


class Device(StrEnum):
    """Boot devices of the boot flags' selector (table 28-14)."""

    PXE = "pxe"
    DISK = "disk"
    SAFE = "safe"
    DIAGNOSTIC = "diagnostic"
    CDROM = "cdrom"
    SETUP = "setup"
    FLOPPY = "floppy"


_SELECTORS = {1: Device.PXE, 2: Device.DISK, 3: Device.SAFE, 4: Device.DIAGNOSTIC, 5: Device.CDROM, 6: Device.SETUP, 15: Device.FLOPPY}


@dataclass(frozen=True, slots=True)
class BootFlags:
    """Boot option parameter 5, all five bytes of it."""

    raw: bytes = bytes(5)

    @property
    def valid(self) -> bool:
        """Whether the next boot heeds them."""
        return bool(self.raw[0] & _VALID)

    @property
    def persistent(self) -> bool:
        """Whether they stay valid after a boot."""
        return bool(self.raw[0] & _PERSISTENT)

    @property
    def efi(self) -> bool:
        """Whether they ask for an EFI boot."""
        return bool(self.raw[0] & _EFI)

    @property
    def device(self) -> Device | None:
        """The forced device; None means the firmware's own order."""
        return _SELECTORS.get(self.raw[1] >> 2 & 0xF)

    def used(self) -> BootFlags:
        """What is left of them after a boot that heeded them."""
        return self if self.persistent else BootFlags(bytes([self.raw[0] & ~_VALID]) + self.raw[1:])


def _on_power(_: Action) -> None:
    """Nobody is there to act."""


@dataclass(slots=True)
class Chassis:
    """State and commands of one chassis. `act` is called with each accepted power action and returns at once."""

    act: Callable[[Action], None] = _on_power
    on: bool = False
    restart_cause: int = 0
    """Get System Restart Cause (28.11): 0 unknown, 1 chassis control, 3 push button or cold start, 0Ah soft reset by the guest."""
    parameters: dict[int, bytes] = field(default_factory=dict)

    @property
    def flags(self) -> BootFlags:
        """The boot flags as they are now."""
        return BootFlags(self.parameters.get(_BOOT_FLAGS, bytes(5)))

    def boot(self) -> Device | None:
        """A boot happens: the device that it is forced to, if any. One-time flags are used up by it."""
        flags = self.flags
        if not flags.valid:
            return None
        self.parameters[_BOOT_FLAGS] = flags.used().raw
        return flags.device

    def answer(self, request: bytes) -> bytes:
        """Answer one request."""
        if not request:
            return bytes([LENGTH_INVALID])
        command, data = request[0], request[1:]
        match command:
            case 0x00:
                return bytes([OK, 0x00, 0x20, 0x20, 0x20, 0x20])
            case 0x01:
                return bytes([OK, int(self.on), 0x00, 0x00])
            case 0x02:
                return self._control(data)
            case 0x04:
                return bytes([OK])
            case 0x07:
                return bytes([OK, self.restart_cause, 1])
            case 0x08:
                return self._set_option(data)
            case 0x09:
                return self._get_option(data)
        return bytes([INVALID_COMMAND])

    def _control(self, data: bytes) -> bytes:
        if len(data) != 1:
            return bytes([LENGTH_INVALID])
        action = _ACTIONS.get(data[0] & 0xF)
        if action is None:
            return bytes([INVALID_FIELD])
        if action in _NEEDS_POWER and not self.on:
            return bytes([WRONG_STATE])
        self.act(action)
        return bytes([OK])

    def _set_option(self, data: bytes) -> bytes:
        if not data:
            return bytes([LENGTH_INVALID])
        number, value = data[0] & 0x7F, data[1:]
        if number not in _LENGTHS:
            return bytes([PARAMETER_UNSUPPORTED])
        if not value:
            # Without data only the parameter's "invalid" mark (bit 7) is set; nothing here heeds it.
            return bytes([OK])
        if len(value) < _LENGTHS[number]:
            return bytes([LENGTH_INVALID])
        self.parameters[number] = value[: _LENGTHS[number]]
        return bytes([OK])

    def _get_option(self, data: bytes) -> bytes:
        if len(data) != 3:
            return bytes([LENGTH_INVALID])
        number = data[0] & 0x7F
        if number not in _LENGTHS:
            return bytes([PARAMETER_UNSUPPORTED])
        return bytes([OK, 0x01, number]) + self.parameters.get(number, bytes(_LENGTHS[number]))
