"""The time-line of one deployment: what metald recorded, what the rack saw, in one order; and metald's own share of it.

Own share: the time between the request and the machine's last power-on in which metald waited for nothing outside: no
BMC, no boot, no ramdisk. What is left is its own work, its database and its loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lab.machine import Happening

_MIB = 1 << 20
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/")
_OUTSIDE = {
    "power": "BMC",
    "management": "BMC",
}
_IN_RAMDISK = frozenset({"write_image", "write_configdrive", "prepare_instance_boot", "tear_down_agent", "erase_devices_metadata"})


@dataclass(frozen=True, slots=True)
class Moment:
    """One line. `at` is `time.time()`."""

    at: float
    who: str
    what: str


def seconds_of(event: Mapping[str, Any]) -> float:
    """The time of an event of the API, as `time.time()`."""
    return datetime.fromisoformat(event["time"]).timestamp()


def size(count: float) -> str:
    """Bytes for people."""
    if count >= _MIB:
        return f"{count / _MIB:.1f} MiB"
    return f"{count / 1024:.1f} KiB" if count >= 1024 else f"{count:.0f} B"


def _step(event: Mapping[str, Any]) -> Moment | None:
    data = event["data"]
    name = f"{data['interface']}.{data['step']}"
    if data["outcome"] == "wait":
        return None
    who = _OUTSIDE.get(data["interface"], "ramdisk" if data["step"] in _IN_RAMDISK else "metald")
    if data["step"] == "write_image":
        who = "write"
    detail = f": {data['detail']}" if data["detail"] else ""
    outcome = "" if data["outcome"] == "done" else f" {data['outcome']}"
    return Moment(seconds_of(event), who, f"{name}{outcome} in {data['seconds']:.2f} s{detail}")


def _transfer(event: Mapping[str, Any], who: str) -> Moment | None:
    data = event["data"]
    name = _UUID.sub("", str(data.get("file", "?")))
    if data.get("error"):
        return Moment(seconds_of(event), who, f"{name}: {data['error']}")
    if who == "HTTP" and data.get("status", 200) >= 400:
        return None
    extra = f", window {data['windowsize']}" if data.get("windowsize") else ""
    lost = f", {data['retransmits']} sent again" if data.get("retransmits") else ""
    return Moment(seconds_of(event), who, f"{name}, {size(data.get('bytes', 0))} in {data.get('seconds', 0):.2f} s{extra}{lost}")


def moment(event: Mapping[str, Any]) -> Moment | None:
    """The line for an event; None for one that tells nothing new."""
    data = event["data"]
    match event["type"]:
        case "node.step":
            return _step(event)
        case "node.tftp":
            return _transfer(event, "TFTP")
        case "node.http":
            return _transfer(event, "HTTP")
        case "node.ramdisk":
            up = f", {data['uptime']:.1f} s after its kernel started" if data.get("uptime") else ""
            return Moment(seconds_of(event), "ramdisk", f"its SSH is up at {data.get('address')}{up}")
        case "node.provision":
            return Moment(seconds_of(event), "metald", f"{data['from']} -> {data['to']}")
    return None


def of_power(happening: Happening) -> Moment:
    """The line for what the rack saw of a machine's power."""
    if happening.what == "boot":
        device = f" from {happening.device}" if happening.device else ""
        return Moment(happening.at, "machine", f"boots{device} ({happening.why})")
    return Moment(happening.at, "machine", f"{happening.what} ({happening.why})")


def tell(moments: Iterable[Moment], since: float, until: float) -> list[str]:
    """The lines between two times, in order."""
    chosen = sorted((one for one in moments if since - 0.05 <= one.at <= until), key=lambda one: one.at)
    return [f"  {max(0.0, one.at - since):6.2f}  {one.who:<8} {one.what}" for one in chosen]


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the seconds of a deployment went."""

    bmc: float
    boot: float
    ramdisk: float
    own: float
    instance: float

    @property
    def total(self) -> float:
        """From the request to the login."""
        return self.bmc + self.boot + self.ramdisk + self.own + self.instance


def shares(events: Iterable[Mapping[str, Any]], since: float, active: float, login: float) -> Shares:
    """Divide a deployment's seconds.

    Args:
        events: the node's.
        since: when the deployment was asked for.
        active: when metald said that it is done.
        login: when the SSH login had succeeded.
    """
    spans: list[tuple[float, float, str]] = []
    waiting: float | None = None
    for event in events:
        at = seconds_of(event)
        if not since <= at <= active:
            continue
        if event["type"] == "node.step":
            data = event["data"]
            began = at - data["seconds"]
            if data["outcome"] == "wait":
                waiting = at
            elif data["interface"] in _OUTSIDE:
                spans.append((began, at, "bmc"))
            elif data["step"] in _IN_RAMDISK:
                spans.append((began, at, "ramdisk"))
        elif event["type"] == "node.ramdisk" and waiting is not None:
            spans.append((waiting, at, "boot"))
            waiting = None
    found = {kind: sum(end - begin for begin, end, k in spans if k == kind) for kind in ("bmc", "boot", "ramdisk")}
    own = max(0.0, active - since - sum(found.values()))
    return Shares(found["bmc"], found["boot"], found["ramdisk"], own, login - active)
