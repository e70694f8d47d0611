"""Power of virtual machines: the interface `ssh`.

Rules:

- Look first: a target that is reached causes no command. REBOOT is off, then on; each part looks again, so that a second run
  after a crash does only what is left.
- A command counts when the host says that the machine is there, not when it accepted it.
- Nothing is remembered between calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar, Final

from metald.drivers.base import NodeContext, Power
from metald.drivers.ssh_host.hosts import Hosts, addresses
from metald.drivers.ssh_host.info import PROPERTIES, QEMU, check_key, parse
from metald.drivers.ssh_host.platforms import Action
from metald.errors import DeadlineExceeded, HostUnreachable
from metald.model import PowerState, PowerTarget

_FIRST_POLL: Final = 0.05
"""Seconds until the second look after a command; each pause is twice the last, up to the setting."""


def validate(ctx: NodeContext) -> None:
    """Check a node's driver_info.

    Raises:
        Invalid: a key is missing or wrong.
    """
    info = parse(ctx.node)
    check_key(info)
    if info.virt_type != QEMU:
        addresses(ctx, info)


class SshPower(Power):
    """Power by commands on the host."""

    name: ClassVar[str] = "ssh"

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def properties(self) -> Mapping[str, str]:
        """See `Interface.properties`."""
        return PROPERTIES

    async def validate(self, ctx: NodeContext) -> None:
        """See `Interface.validate`."""
        validate(ctx)

    async def get_power_state(self, ctx: NodeContext) -> PowerState:
        """See `Power.get_power_state`."""
        return PowerState.ON if await self._hosts.is_on(ctx) else PowerState.OFF

    async def set_power_state(self, ctx: NodeContext, target: PowerTarget, *, timeout: float | None = None) -> None:
        """See `Power.set_power_state`. For reboots `timeout` bounds each of the two changes.

        A node with `disable_power_off` is rebooted by a reset; one that is off already is only switched on.
        """
        soft = target in {PowerTarget.SOFT_OFF, PowerTarget.SOFT_REBOOT}
        if target is PowerTarget.REBOOT and ctx.node.disable_power_off and await self._hosts.is_on(ctx):
            await self._act(ctx, Action.RESET)
            return
        if target is not PowerTarget.ON:
            await self._bring(ctx, PowerState.OFF, Action.SHUTDOWN if soft else Action.STOP, timeout)
        if target not in {PowerTarget.OFF, PowerTarget.SOFT_OFF}:
            await self._bring(ctx, PowerState.ON, Action.START, timeout)

    async def _act(self, ctx: NodeContext, action: Action) -> None:
        place = await self._hosts.place(ctx)
        await self._hosts.platform(place.info).act(place, action)

    async def _bring(self, ctx: NodeContext, wanted: PowerState, action: Action, timeout: float | None) -> None:
        if await self.get_power_state(ctx) is wanted:
            return
        await self._act(ctx, action)
        if timeout is None:
            settings = self._hosts.settings
            timeout = settings.soft_power_timeout if action is Action.SHUTDOWN else settings.power_timeout
        await self._await_state(ctx, wanted, action, timeout)

    async def _await_state(self, ctx: NodeContext, wanted: PowerState, action: Action, timeout: float) -> None:
        silence: HostUnreachable | None = None
        pause = min(_FIRST_POLL, self._hosts.settings.power_poll)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        if await self.get_power_state(ctx) is wanted:
                            return
                        silence = None
                    except HostUnreachable as error:
                        silence = error
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, self._hosts.settings.power_poll)
        except TimeoutError:
            pass
        if silence is not None:
            raise silence
        remedy = "Look at the machine's console and at the host's log, then repeat the request."
        if action is Action.SHUTDOWN:
            remedy = "Its operating system does not obey the power button; use a hard power off."
        raise DeadlineExceeded(
            f"Node {ctx.node.label}: the host took the command, but after {timeout:g} s the machine is not at '{wanted}'.", remedy=remedy
        )
