"""What metald asks of a BMC, as typed coroutines over any transport that carries raw IPMI commands.

Rules:

- Command and parameter numbers are IPMI 2.0's, with the section beside them.
- What must not happen twice (reset, cycle, NMI) is sent once; everything else may be repeated.
- Deviations of vendors are data (`quirks.py`), not branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from metald.drivers.ipmi import quirks
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.refusal import CompletionCode
from metald.errors import BmcRefused
from metald.model import BootDevice, BootMode

_CHASSIS = 0x00
_APP = 0x06
_SET_IN_PROGRESS = 0
_BOOT_FLAG_CLEARING = 3
_BOOT_FLAGS = 5
_PARAMETER_UNSUPPORTED = 0x80
_HELD_BY_ANOTHER = 0x81


class Transport(Protocol):
    """Carries one raw command to one BMC: the hub, or ipmitool."""

    async def raw(self, info: BmcInfo, netfn: int, command: int, data: bytes = b"", *, idempotent: bool = True, lun: int = 0) -> bytes:
        """Return the answer's data after the completion code.

        Raises:
            DriverError: unreachable or refused; `CompletionCode` for a completion code other than 0.
        """
        ...


class Control(IntEnum):
    """Chassis control, IPMI 2.0 section 28.3."""

    OFF = 0
    ON = 1
    CYCLE = 2
    RESET = 3
    DIAGNOSTIC_INTERRUPT = 4
    SOFT_OFF = 5


_ONCE: Final = frozenset((Control.CYCLE, Control.RESET, Control.DIAGNOSTIC_INTERRUPT))

SELECTORS: Final[dict[BootDevice, int]] = {
    BootDevice.PXE: 0b0001,
    BootDevice.DISK: 0b0010,
    BootDevice.SAFE: 0b0011,
    BootDevice.CDROM: 0b0101,
    BootDevice.BIOS: 0b0110,
    BootDevice.FLOPPY: 0b1111,
}
"""Boot device selectors, IPMI 2.0 table 28-14, parameter 5, data 2 bits 5:2."""


@dataclass(frozen=True, slots=True)
class BootFlags:
    """The five bytes of boot option 5 (IPMI 2.0 table 28-14), those parts of them that we set."""

    valid: bool
    persistent: bool = False
    uefi: bool = False
    selector: int = 0

    def pack(self) -> bytes:
        """The parameter's data."""
        first = self.valid << 7 | self.persistent << 6 | self.uefi << 5
        return bytes((first, self.selector << 2, 0, 0, 0))

    @classmethod
    def unpack(cls, data: bytes) -> BootFlags:
        """From the parameter's data.

        Raises:
            ValueError: fewer than two bytes.
        """
        if len(data) < 2:
            raise ValueError("boot flags are cut short")
        return cls(bool(data[0] & 0x80), bool(data[0] & 0x40), bool(data[0] & 0x20), data[1] >> 2 & 0x0F)

    @property
    def device(self) -> BootDevice | None:
        """The device chosen, or None for no override and for selectors that have no name here."""
        named = {selector: device for device, selector in SELECTORS.items()}
        named |= {quirk.selector: quirk.device for quirk in quirks.BOOT_SELECTORS}
        return named.get(self.selector)


@dataclass(frozen=True, slots=True)
class DeviceId:
    """Get Device ID, IPMI 2.0 section 20.1."""

    device: int
    revision: int
    firmware: str
    manufacturer: int
    """IANA enterprise number."""
    product: int


class Bmc:
    """One BMC, for the length of a call or longer; holds nothing but its coordinates."""

    __slots__ = ("_transport", "info")

    def __init__(self, transport: Transport, info: BmcInfo) -> None:
        self._transport = transport
        self.info = info

    async def power_is_on(self) -> bool:
        """Get Chassis Status, section 28.2."""
        data = await self._transport.raw(self.info, _CHASSIS, 0x01)
        self._expect(data, 3, "chassis status")
        return bool(data[0] & 1)

    async def control(self, control: Control) -> None:
        """Chassis Control, section 28.3. Returns when the BMC has accepted it, not when it has happened."""
        await self._transport.raw(self.info, _CHASSIS, 0x02, bytes((control,)), idempotent=control not in _ONCE)

    async def power_on(self) -> None:
        """Switch on."""
        await self.control(Control.ON)

    async def power_off(self) -> None:
        """Switch off at once."""
        await self.control(Control.OFF)

    async def soft_off(self) -> None:
        """Ask the operating system to shut down (ACPI)."""
        await self.control(Control.SOFT_OFF)

    async def cycle(self) -> None:
        """Off and on again, by the BMC itself. Sent once."""
        await self.control(Control.CYCLE)

    async def reset(self) -> None:
        """Hard reset without removing power. Sent once."""
        await self.control(Control.RESET)

    async def inject_nmi(self) -> None:
        """Pulse the diagnostic interrupt. Sent once."""
        await self.control(Control.DIAGNOSTIC_INTERRUPT)

    async def restart(self, *, warm: bool) -> None:
        """Warm or Cold Reset of the BMC itself, sections 20.3 and 20.2. Sent once."""
        await self._transport.raw(self.info, _APP, 0x03 if warm else 0x02, idempotent=False)

    async def device_id(self) -> DeviceId:
        """Get Device ID, section 20.1."""
        data = await self._transport.raw(self.info, _APP, 0x01)
        self._expect(data, 11, "device id")
        return DeviceId(
            device=data[0],
            revision=data[1] & 0x0F,
            firmware=f"{data[2] & 0x7F}.{data[3]:02x}",
            manufacturer=int.from_bytes(data[6:9], "little") & 0xFFFFF,
            product=int.from_bytes(data[9:11], "little"),
        )

    async def boot_flags(self) -> BootFlags:
        """Get System Boot Options, parameter 5, section 28.13."""
        try:
            data = await self._transport.raw(self.info, _CHASSIS, 0x09, bytes((_BOOT_FLAGS, 0, 0)))
        except CompletionCode as error:
            if error.completion == _PARAMETER_UNSUPPORTED:
                return BootFlags(valid=False)
            raise
        if len(data) < 4 or data[1] & 0x80:  # bit 7: the parameter is marked invalid
            return BootFlags(valid=False)
        return BootFlags.unpack(data[2:])

    async def set_boot_device(self, device: BootDevice, mode: BootMode | None, *, persistent: bool, vendor: str = "") -> None:
        """Set System Boot Options, parameter 5, section 28.12, all five bytes.

        It is written without reading first: writing it twice is the same as once, and many BMCs keep showing a
        one-time choice that the firmware has used up already.

        Args:
            vendor: the node's vendor in words, for quirks; asked of the BMC when empty and a quirk may apply.
        """
        if self.info.disable_boot_timeout:
            await self._keep_flags()
        selector = SELECTORS[device]
        uefi = mode is BootMode.UEFI
        for quirk in quirks.BOOT_SELECTORS:
            if quirk.device is device and quirk.uefi == uefi and await self._is_vendor(quirk.vendor, vendor):
                selector = quirk.selector
        flags = BootFlags(valid=True, persistent=persistent, uefi=uefi, selector=selector)
        try:
            await self._set_boot_option(_BOOT_FLAGS, flags.pack())
        except CompletionCode as error:
            raise self._unbootable(error, device, mode, persistent=persistent) from None

    async def _set_boot_option(self, parameter: int, value: bytes) -> None:
        """Set System Boot Options, section 28.12. A change that somebody else began and never ended is ended."""
        request = bytes((parameter,)) + value
        try:
            await self._transport.raw(self.info, _CHASSIS, 0x08, request)
        except CompletionCode as error:
            if error.completion != _HELD_BY_ANOTHER:
                raise
            await self._transport.raw(self.info, _CHASSIS, 0x08, bytes((_SET_IN_PROGRESS, 0)))
            await self._transport.raw(self.info, _CHASSIS, 0x08, request)

    def _unbootable(self, error: CompletionCode, device: BootDevice, mode: BootMode | None, *, persistent: bool) -> CompletionCode:
        kind = " ".join(("persistent" if persistent else "one-time", *(["UEFI"] if mode is BootMode.UEFI else []), "boot device"))
        ways = ["set the device in the firmware and use management interface noop"]
        if mode is BootMode.UEFI:
            ways.insert(0, "set boot_mode:bios in the node's capabilities")
        if persistent:
            ways.insert(0, "set ipmi_force_boot_device, so that the device is asked for anew before each boot")
        remedy = f"If the BMC does not support this, {', or '.join(ways)}."
        return CompletionCode(f"{error.message} It was asked for {device.value} as {kind}.", completion=error.completion, remedy=remedy)

    async def _keep_flags(self) -> None:
        # Boot flag valid bit clearing, bit 3: without it the BMC forgets the flags after 60 s, which is less than a
        # power cycle with a long POST. BMCs that do not know the parameter mostly do not have the limit either.
        try:
            await self._set_boot_option(_BOOT_FLAG_CLEARING, b"\x08")
        except CompletionCode as error:
            if error.completion not in quirks.PARAMETER_MISSING:
                raise

    async def _is_vendor(self, quirk: quirks.Vendor, vendor: str) -> bool:
        if vendor:
            return quirk.word in vendor.lower()
        return (await self.device_id()).manufacturer in quirk.manufacturers

    def _expect(self, data: bytes, length: int, what: str) -> None:
        if len(data) < length:
            raise BmcRefused(f"{self.info.label} sent a {what} that is cut short.", remedy="Update the BMC's firmware.")
