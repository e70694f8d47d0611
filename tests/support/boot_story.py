"""Stories of booting machines, as the boot servers tell them: signs go in, events and attempts come out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from metald.boot.doctor import Attempt, gather
from metald.model import Event
from tests.support.boot_fleet import MAC

START = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
NODE = "2d0f2a40-0000-4000-8000-000000000001"
Sign = tuple[str, dict[str, Any]]

ON: Sign = ("step", {"interface": "power", "step": "power_on", "outcome": "done"})
CALLED: Sign = ("ramdisk", {"address": "10.0.0.5"})


def dhcp(**facts: Any) -> Sign:
    return "dhcp", {"mac": MAC, "asked": "discover", "answer": "offer", "firmware": "pxe", "architecture": "UEFI x86-64", **facts}


def ack(file: str, **facts: Any) -> Sign:
    return dhcp(asked="request", answer="ack", file=file, client="10.0.0.5", **facts)


def tftp(file: str, size: int = 1000, **facts: Any) -> Sign:
    return "tftp", {"client": "10.0.0.5", "file": file, "bytes": size, "seconds": 0.1, "blksize": 1468, "windowsize": 1, **facts}


def http(file: str, size: int = 1000, **facts: Any) -> Sign:
    return "http", {"client": "10.0.0.5", "file": file, "bytes": size, "seconds": 0.1, "status": 200, **facts}


def story(*signs: Sign) -> list[Event]:
    return [
        Event(type=f"node.{kind}", node_uuid=NODE, data=data, time=START + timedelta(seconds=at)) for at, (kind, data) in enumerate(signs)
    ]


def boot(*signs: Sign) -> Attempt:
    return gather(story(ON, *signs))[-1]


LOADED = [ack("ipxe.efi"), tftp("ipxe.efi", 1_000_000)]
SCRIPT = [*LOADED, http("boot.ipxe"), http("boot/ipxe")]
KERNEL = [*SCRIPT, http(f"boot/{NODE}/kernel"), http(f"boot/{NODE}/initramfs")]
