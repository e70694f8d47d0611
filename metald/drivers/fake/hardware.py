"""The condition of the pretended machines, and the delays and failures of every call to them."""

from __future__ import annotations

import asyncio
import random

from metald.config import Fake
from metald.errors import DriverError
from metald.model import BootDevice, Node, PowerState


class FakeHardware:
    """All pretended machines of this daemon.

    Args:
        settings: delays in seconds per interface type, and the share of calls that fail.
        seed: makes the failures repeatable.
    """

    def __init__(self, settings: Fake, seed: int | None = None) -> None:
        self._settings = settings
        self._random = random.Random(seed)  # noqa: S311
        self._power: dict[str, PowerState] = {}
        self._boot: dict[str, tuple[BootDevice, bool]] = {}

    async def call(self, node: Node, kind: str) -> None:
        """Take the time that a call to this interface type takes, and fail now and then.

        Raises:
            DriverError: at the configured rate, for power and deploy.
        """
        delay: float = getattr(self._settings, f"{kind}_delay")
        if delay:
            await asyncio.sleep(delay)
        if self._settings.failure_rate and kind in ("power", "deploy") and self._random.random() < self._settings.failure_rate:
            raise DriverError(f"Node {node.label}: the fake {kind} interface failed, as its failure_rate setting asks.")

    def power(self, node: Node) -> PowerState:
        """The machine's power."""
        known = node.power_state if node.power_state in (PowerState.ON, PowerState.OFF) else PowerState.OFF
        return self._power.get(node.uuid, known or PowerState.OFF)

    def set_power(self, node: Node, state: PowerState) -> None:
        """Turn the machine on or off."""
        self._power[node.uuid] = state

    def boot_device(self, node: Node) -> tuple[BootDevice, bool]:
        """The machine's boot device and whether it is persistent."""
        return self._boot.get(node.uuid, (BootDevice.PXE, False))

    def set_boot_device(self, node: Node, device: BootDevice, persistent: bool) -> None:
        """Change the machine's boot device."""
        self._boot[node.uuid] = (device, persistent)
