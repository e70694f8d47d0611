"""Console of a pretended machine: it can be opened and closed, and leads nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metald.drivers.base import NodeContext
from metald.drivers.fake.hardware import FakeHardware
from metald.drivers.optional import Console


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
