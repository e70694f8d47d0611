"""What can go wrong with a simulated machine, and what it counts. The BMC's own faults are in `chassis.py`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True)
class MachineFaults:
    """Plain fields that may change at any time; they matter from the next moment they are looked at."""

    never_boots: bool = False
    """The firmware hangs after the power came on."""
    boot_time: float = 0.05
    """Seconds from power on to the firmware's first request."""
    posted: asyncio.Event = field(default_factory=_set)
    """What the firmware waits for after that; set, unless a test wants the machine to take its time."""
    no_network: bool = False
    """The network boot gets no address."""
    panics: bool = False
    """The kernel from the network ends in a panic; the power stays on."""
    sshd_refuses: bool = False
    """The ramdisk calls metald although nothing listens for SSH."""
    dies_at: int | None = None
    """The ramdisk dies, and with it all it did, once so many bytes have come in; the power stays on. Happens once."""
    dies_restarting: bool = False
    """What died starts again from the firmware, as by a watchdog."""
    holds_at: int | None = None
    """The network stands still once so many bytes have come in, until `SimMachine.go_on`. Happens once."""
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the network stands still."""


@dataclass(slots=True)
class MachineCounters:
    """Effects on one machine."""

    starts: int = 0
    """Times the firmware began: power on, reset, restart."""
    hung: int = 0
    """Times the firmware hung in its self-test."""
    network_boots: int = 0
    """Times a boot script was run to its end."""
    ramdisks: int = 0
    """Times a kernel was started from the network."""
    ready_calls: int = 0
    """Calls of the ramdisk that metald accepted."""
    commands: int = 0
    """SSH commands."""
    writes_started: int = 0
    """Writers of an image or a config drive that began."""
    writes_done: int = 0
    """Those that wrote everything and proved it; known once the ramdisk has ended."""
    bytes_written: int = 0
    """By those that were done."""
    disk_boots: int = 0
    """Times something bootable was started from the disk."""
    nothing_to_boot: int = 0
    """Times no boot device led anywhere."""
