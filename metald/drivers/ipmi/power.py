"""Power over IPMI: the interface `pyghmi`, and the base of the interface `ipmitool`.

Rules:

- Look first: a target that is reached causes no command. REBOOT is off, wait for off, on; each part looks again, so
  that a second run after a crash does only what is left.
- A command counts when the BMC says that it happened, not when it accepted it. While waiting, a BMC that does not
  answer is no failure yet: some drop off the network as the machine's power changes. Nor is one that cannot do it now:
  some refuse a power on while they still see to the power off before it.
- Nothing of the machine is remembered between calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from metald.config import Ipmi
from metald.drivers.base import NodeContext, Power
from metald.drivers.ipmi import boot_override, info
from metald.drivers.ipmi.client import Bmc, Control, Transport
from metald.drivers.ipmi.hub import IpmiHub
from metald.drivers.ipmi.info import PROPERTIES, BmcInfo
from metald.drivers.ipmi.refusal import NOT_NOW, CompletionCode
from metald.errors import BmcUnreachable, DeadlineExceeded
from metald.model import PowerState, PowerTarget

_MOST_PARSED = 50_000
_FIRST_POLL = 0.05
"""Seconds until the first look after a command; each pause is twice the last, up to the setting."""


class IpmiPower(Power):
    """Power by chassis commands over some transport."""

    def __init__(self, transport: Transport, settings: Ipmi) -> None:
        self._transport = transport
        self._settings = settings

    def properties(self) -> Mapping[str, str]:
        """See `Interface.properties`."""
        return PROPERTIES

    async def validate(self, ctx: NodeContext) -> None:
        """See `Interface.validate`."""
        self._info(ctx)

    async def get_power_state(self, ctx: NodeContext) -> PowerState:
        """See `Power.get_power_state`."""
        return await _look(self._bmc(ctx))

    async def set_power_state(self, ctx: NodeContext, target: PowerTarget, *, timeout: float | None = None) -> None:
        """See `Power.set_power_state`. For reboots `timeout` bounds each of the two changes.

        A node with `disable_power_off` is rebooted by a reset; one that is off already is only switched on.
        """
        bmc = self._bmc(ctx)
        soft = target in {PowerTarget.SOFT_OFF, PowerTarget.SOFT_REBOOT}
        if target is PowerTarget.REBOOT and ctx.node.disable_power_off and await _look(bmc) is PowerState.ON:
            await boot_override.apply(ctx, bmc)
            await bmc.reset()
            return
        if target is not PowerTarget.ON:
            await self._bring(ctx, bmc, PowerState.OFF, Control.SOFT_OFF if soft else Control.OFF, timeout)
        if target not in {PowerTarget.OFF, PowerTarget.SOFT_OFF}:
            await self._bring(ctx, bmc, PowerState.ON, Control.ON, timeout)

    async def _bring(self, ctx: NodeContext, bmc: Bmc, wanted: PowerState, control: Control, timeout: float | None) -> None:
        if await _look(bmc) is wanted:
            return
        if control is Control.ON:
            await boot_override.apply(ctx, bmc)
        refused = await _not_now(bmc, control)
        if timeout is None:
            timeout = self._settings.soft_power_timeout if control is Control.SOFT_OFF else self._settings.power_timeout
        await self._await_state(ctx, bmc, wanted, control, timeout, refused)

    async def _await_state(
        self, ctx: NodeContext, bmc: Bmc, wanted: PowerState, control: Control, timeout: float, refused: CompletionCode | None
    ) -> None:
        silence: BmcUnreachable | None = None
        pause = min(_FIRST_POLL, self._settings.power_poll)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        if await _look(bmc) is wanted:
                            return
                        if refused is not None:
                            refused = await _not_now(bmc, control)
                        silence = None
                    except BmcUnreachable as error:
                        silence = error
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, self._settings.power_poll)
        except TimeoutError:
            pass
        if silence is not None or refused is not None:
            raise silence or refused  # type: ignore[misc]
        remedy = "Look at the machine's console and at the BMC's event log, then repeat the request."
        if control is Control.SOFT_OFF:
            remedy = "Its operating system does not obey the power button; use a hard power off."
        raise DeadlineExceeded(
            f"Node {ctx.node.label}: {bmc.info.label} accepted the command, but after {timeout:g} s the machine is not at '{wanted}'.",
            remedy=remedy,
        )

    def _bmc(self, ctx: NodeContext) -> Bmc:
        return Bmc(self._transport, self._info(ctx))

    def _info(self, ctx: NodeContext) -> BmcInfo:
        return info.parse(ctx.node)


class PyghmiPower(IpmiPower):
    """Native asyncio IPMI on the hub, with pyghmi's protocol code."""

    name: ClassVar[str] = "pyghmi"

    def __init__(self, hub: IpmiHub, settings: Ipmi) -> None:
        super().__init__(hub, settings)
        self._parsed: dict[str, tuple[object, BmcInfo]] = {}

    def _info(self, ctx: NodeContext) -> BmcInfo:
        # Power sync asks for every node again and again: what was read of a driver_info holds as long as that is the same.
        node = ctx.node
        known = self._parsed.get(node.uuid)
        if known is not None and known[0] is node.driver_info:
            return known[1]
        parsed = super()._info(ctx)
        info.require_plain(parsed, node)
        if len(self._parsed) >= _MOST_PARSED:
            self._parsed.clear()
        self._parsed[node.uuid] = (node.driver_info, parsed)
        return parsed


async def _not_now(bmc: Bmc, control: Control) -> CompletionCode | None:
    """Send a command; returns the refusal of a BMC that cannot do it in its present state, and may a little later."""
    try:
        await bmc.control(control)
    except CompletionCode as error:
        if error.completion != NOT_NOW:
            raise
        return error
    return None


async def _look(bmc: Bmc) -> PowerState:
    return PowerState.ON if await bmc.power_is_on() else PowerState.OFF
