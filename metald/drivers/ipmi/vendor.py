"""Vendor methods over IPMI, Ironic's: `send_raw` and `bmc_reset`. `send_raw` is a clean, deploy and service step too.

Rule: both are sent exactly once. What a raw command does nobody here knows, and a reset ends the session it came by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from metald.config import Ipmi
from metald.drivers.base import Done, NodeContext, Outcome, Phase, step
from metald.drivers.ipmi import info
from metald.drivers.ipmi.client import Bmc, Transport
from metald.drivers.ipmi.hub import IpmiHub
from metald.drivers.ipmi.info import PROPERTIES, BmcInfo
from metald.drivers.ipmi.ipmitool import Ipmitool, check
from metald.drivers.optional import Vendor, passthru
from metald.errors import Invalid

_RAW_ARGS: Mapping[str, Mapping[str, Any]] = {
    "raw_bytes": {"description": "A string of raw bytes to convey the request to transmit to the remote BMC.", "required": True}
}
_TRUE = frozenset(("1", "t", "true", "on", "y", "yes"))


class IpmiVendor(Vendor):
    """Vendor methods over some transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def properties(self) -> Mapping[str, str]:
        """See `Interface.properties`."""
        return PROPERTIES

    async def validate(self, ctx: NodeContext) -> None:
        """See `Interface.validate`."""
        self._info(ctx)

    @step(Phase.SERVICE, 0, argsinfo=_RAW_ARGS)
    @step(Phase.DEPLOY, 0, argsinfo=_RAW_ARGS)
    @step(Phase.CLEAN, 0, argsinfo=_RAW_ARGS)
    @passthru(
        "POST",
        description="Send raw bytes to the BMC. Required argument: 'raw_bytes' - a string of raw bytes (e.g. '0x00 0x01').",
        required=("raw_bytes",),
    )
    async def send_raw(self, ctx: NodeContext, raw_bytes: Any) -> Outcome:
        """Send a raw command; what the BMC answers goes into the node's time-line.

        Raises:
            Invalid: `raw_bytes` is not netfn, command and data as numbers of a byte each.
            DriverError: the BMC does not answer, or refuses.
        """
        netfn, command, *data = _bytes(raw_bytes)
        answer = await self._transport.raw(self._info(ctx), netfn, command, bytes(data), idempotent=False)
        note = getattr(ctx, "note", None)
        if note is not None:
            note("bmc_answer", netfn=netfn, command=command, data=answer.hex(" "))
        return Done(answer.hex(" "))

    @passthru(
        "POST",
        description="Reset the BMC. Required argument: 'warm' (Boolean) - for warm (True) or cold (False) reset.",
        optional=("warm",),
    )
    async def bmc_reset(self, ctx: NodeContext, warm: Any = True) -> None:
        """Restart the BMC's own firmware; the machine goes on running.

        Raises:
            DriverError: the BMC does not answer, or refuses.
        """
        await Bmc(self._transport, self._info(ctx)).restart(warm=warm if isinstance(warm, bool) else str(warm).strip().lower() in _TRUE)

    def _info(self, ctx: NodeContext) -> BmcInfo:
        return info.parse(ctx.node)


class PyghmiVendor(IpmiVendor):
    """On the hub."""

    name: ClassVar[str] = "pyghmi"

    def __init__(self, hub: IpmiHub) -> None:
        super().__init__(hub)

    def _info(self, ctx: NodeContext) -> BmcInfo:
        parsed = super()._info(ctx)
        info.require_plain(parsed, ctx.node)
        return parsed


class IpmitoolVendor(IpmiVendor):
    """By the program ipmitool."""

    name: ClassVar[str] = "ipmitool"

    def __init__(self, settings: Ipmi, program: Ipmitool | None = None) -> None:
        super().__init__(program or Ipmitool(settings))

    async def validate(self, ctx: NodeContext) -> None:
        """See `Interface.validate`."""
        check(self._info(ctx))


def _bytes(text: Any) -> list[int]:
    try:
        numbers = [int(word, 0) for word in str(text).split()]
    except ValueError:
        numbers = []
    if len(numbers) < 2 or not all(0 <= number <= 0xFF for number in numbers) or numbers[0] > 0x3F:
        raise Invalid(
            "raw_bytes is not a raw IPMI command.",
            remedy="Give network function, command and data as numbers of a byte each, such as '0x06 0x01'.",
            field="raw_bytes",
        )
    return numbers
