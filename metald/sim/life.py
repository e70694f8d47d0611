"""What every simulated machine shares: power by its BMC alone, the firmware's boot order, one life at a time.

Rules:

- A life begins when the power comes on or the machine is reset, and ends dead when the power goes; ending leaves no task.
- The firmware obeys the BMC's boot flags (a one-time choice is used up), then its own order: disk, network. When no device
  leads anywhere it tries again.
- Time passes by `pace`: a second of the machine's own waiting takes so many seconds.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Final

from metald.sim.chassis import BOOT_SELECTORS, SimBmc
from metald.sim.faults import MachineCounters

FIRMWARE_RETRY: Final = 10.0
"""Seconds after which the firmware tries its boot devices again when none led anywhere."""


class Life(ABC):
    """See the module.

    Args:
        bmc: the machine's BMC, whose `on_change` is taken by `attach`.
        name: what the machine's tasks are called.
        pace: seconds that one second of the machine's own waiting takes.
    """

    def __init__(self, bmc: SimBmc, name: str, pace: float) -> None:
        self.bmc = bmc
        self.counters = MachineCounters()
        self.running = ""
        """What runs: nothing, `firmware`, `ramdisk` or `instance`."""
        self.defects: list[BaseException] = []
        """Errors of the simulation itself; a test that ends with any has failed."""
        self._name = name
        self._pace = pace
        self._change = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self) -> None:
        """Obey the BMC from now on."""
        self.bmc.on_change = self._effect

    async def detach(self) -> None:
        """End: obey nobody, and leave no task."""
        self.bmc.on_change = None
        self._stop()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what a kind of machine brings

    @abstractmethod
    async def _power_on_self_test(self) -> bool:
        """Let the firmware start; false when it hangs for good."""

    @abstractmethod
    async def _boot_disk(self) -> bool:
        """Start what the disk holds; whether anything runs."""

    @abstractmethod
    async def _boot_network(self) -> bool:
        """Boot over the network; whether anything runs."""

    @abstractmethod
    def _cut(self) -> None:
        """The power is gone: end what runs beside the life itself, at once."""

    # -- what the outside asks

    async def until(self, predicate: Callable[[Any], object], timeout: float = 30.0) -> None:
        """Wait until `predicate(self)` holds; it is looked at after each change of the machine.

        Raises:
            TimeoutError: it did not come true.
        """
        async with asyncio.timeout(timeout):
            while not predicate(self):
                self._change.clear()
                await self._change.wait()

    def _changed(self) -> None:
        self._change.set()

    # -- power

    def _effect(self, _bmc: SimBmc, effect: str) -> None:
        if effect in ("power_off", "reset"):
            self._stop()
        if effect in ("power_on", "reset"):
            self._start()
        self._changed()

    def _start(self) -> None:
        self.counters.starts += 1
        self.running = "firmware"
        self._task = self._own(self._live())

    def _own(self, life: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(life, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._gone)
        return task

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.defects.append(error)

    def _stop(self) -> None:
        self._cut()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.running = ""

    # -- life

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._pace)

    async def _live(self) -> None:
        if not await self._power_on_self_test():
            self.counters.hung += 1
            self._changed()
            return
        while True:
            for device in self._boot_order():
                if await (self._boot_disk() if device == "disk" else self._boot_network()):
                    self._changed()
                    return
            self.counters.nothing_to_boot += 1
            self._changed()
            await self._pause(FIRMWARE_RETRY)

    def _boot_order(self) -> list[str]:
        """The device that the BMC asks for, then the firmware's own order: disk, network."""
        flags = self.bmc.take_boot_device()
        chosen = BOOT_SELECTORS.get(flags[1] >> 2 & 0x0F) if flags else None
        return [*([chosen] if chosen in ("pxe", "disk") else []), *(device for device in ("disk", "pxe") if device != chosen)]
