"""Consoles of a pretended machine: `fake` can be opened and closed, and leads nowhere; `fake-graphical` shows a screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metald.console.consoles import Consoles
from metald.console.screens import HOST
from metald.drivers.base import NodeContext
from metald.drivers.fake.hardware import FakeHardware
from metald.drivers.optional import Console

_HOST, _PORT = "vnc_host", "vnc_port"
"""Where the screen is served, in driver_internal_info, as Ironic has it."""


class FakeConsole(Console):
    """Takes its time."""

    name = "fake"

    def __init__(self, hardware: FakeHardware) -> None:
        self._hardware = hardware

    async def start(self, ctx: NodeContext) -> None:
        """See Console."""
        await self._hardware.call(ctx.node, "console")

    async def stop(self, ctx: NodeContext) -> None:
        """See Console."""
        await self._hardware.call(ctx.node, "console")

    async def info(self, ctx: NodeContext) -> Mapping[str, Any]:  # noqa: ARG002
        """Nothing: there is no way in."""
        return {}


class FakeGraphicalConsole(Console):
    """A screen of one colour, by RFB, on the machine that metald runs on."""

    name = "fake-graphical"

    def __init__(self, hardware: FakeHardware, consoles: Consoles) -> None:
        self._hardware = hardware
        self._consoles = consoles

    async def start(self, ctx: NodeContext) -> None:
        """See Console."""
        node = ctx.node
        await self._hardware.call(node, "console")
        before = node.driver_internal_info.get(_PORT)
        port = await self._consoles.screens.open(node.uuid, node.label, prefer=before if isinstance(before, int) else 0)
        keep = getattr(ctx, "set", None)
        if keep is not None:
            keep(driver_internal_info={**node.driver_internal_info, _HOST: HOST, _PORT: port})

    async def stop(self, ctx: NodeContext) -> None:
        """See Console."""
        node = ctx.node
        await self._hardware.call(node, "console")
        await self._consoles.screens.close(node.uuid)
        keep = getattr(ctx, "set", None)
        if keep is not None:
            keep(driver_internal_info={key: value for key, value in node.driver_internal_info.items() if key not in (_HOST, _PORT)})

    async def info(self, ctx: NodeContext) -> Mapping[str, Any]:
        """A page that shows the screen."""
        return {"type": "vnc", "url": self._consoles.screen_path(ctx.node.uuid)}
