"""Follows the boots of all machines, and tells of those that stop.

It hears every event that is stored, and keeps the boots that are on their way, each with one timer. Of boots that came to their end
the stored events tell; of machines that are no nodes the last boot stays. What is kept is bounded, and after a restart read from
the events of before.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from metald.boot import credentials, instance
from metald.boot.directory import BootDirectory
from metald.boot.doctor.attempt import SIGNS, Attempt, belongs, gather, starts
from metald.boot.doctor.diagnosis import Diagnosis, Finding, Known, diagnose, stage_of
from metald.config import Settings
from metald.drivers.boot_mode import has_secure_boot
from metald.model import Event, Node, now

_MOST = 20_000
"""Machines."""
_ADDRESSES = 65_536
_PATIENCE = {"power": 1.0, "ramdisk": 2.0}
"""Of the setting's time; half of it while something is being loaded."""


@dataclass(slots=True)
class Report:
    """One boot, and what the doctor says of it."""

    attempt: Attempt
    diagnosis: Diagnosis
    stopped_for: float | None
    """Seconds since it was last seen, when it has stopped; None while it is on its way or done."""


@dataclass(slots=True, eq=False)
class _Boot:
    """A boot on its way."""

    attempt: Attempt
    told: set[tuple[str, str]] = field(default_factory=set)
    timer: asyncio.TimerHandle | None = None

    def end(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Doctor:
    """See the module.

    Args:
        directory: knows nodes, and is told what the doctor finds.
    """

    def __init__(self, directory: BootDirectory, settings: Settings) -> None:
        self._directory = directory
        self._quiet = settings.boot.quiet_time
        self._listening = settings.dhcp.provider in ("proxy", "lease") or bool(settings.dhcp.watch)
        self._nodes: OrderedDict[str, _Boot] = OrderedDict()
        self._strangers: OrderedDict[str, _Boot] = OrderedDict()
        self._macs: OrderedDict[str, str] = OrderedDict()  # of strangers, by their address
        self._unknown: tuple[datetime, str] | None = None
        self.stopped: Counter[str] = Counter()
        """Boots that it told of, by the cause."""
        self.warned: Counter[str] = Counter()
        """Its warnings, by the cause."""

    @property
    def boots(self) -> int:
        """How many boots of nodes are on their way."""
        return len(self._nodes)

    # -- what it hears

    def remember(self, events: Iterable[Event]) -> None:
        """Take what happened before the start; nobody is told of it again."""
        for event in events:
            boot = self._take(event)
            if boot is not None:
                self._arm(boot)

    def follow(self, events: Sequence[Event]) -> None:
        """Take what was just stored. Never blocks."""
        for event in events:
            boot = self._take(event)
            if boot is not None:
                self._look(boot, stopped=False)
                self._arm(boot)

    def close(self) -> None:
        """No more timers."""
        for boot in (*self._nodes.values(), *self._strangers.values()):
            boot.end()

    def _take(self, event: Event) -> _Boot | None:
        """Put an event where it belongs; the boot on its way."""
        uuid = event.node_uuid
        if uuid is not None:
            if starts(event):
                return self._started(uuid, event)
            if event.type == "node.delete":
                self._forget(uuid)
            if event.type in SIGNS:
                return self._of_node(uuid, event)
        elif event.type in SIGNS:
            return self._of_stranger(event)
        return None

    def _started(self, uuid: str, event: Event) -> _Boot | None:
        self._forget(uuid)
        node = self._directory.node(uuid)
        if node is None or not _boots(node):
            return None
        macs = [port.address for port in self._directory.ports(uuid) if port.pxe_enabled]
        return _put(self._nodes, uuid, Attempt(event.time, macs, uuid, powered=event.time))

    def _of_node(self, uuid: str, event: Event) -> _Boot | None:
        boot = self._nodes.get(uuid)
        mine = belongs(event, boot.attempt if boot is not None else None)
        if mine is None:
            return None
        if boot is None or not mine:
            self._forget(uuid)
            boot = _put(self._nodes, uuid, Attempt(event.time, node_uuid=uuid))
        boot.attempt.take(event)
        if boot.attempt.called is not None:
            self._forget(uuid)
            return None
        return boot

    def _of_stranger(self, event: Event) -> _Boot | None:
        data, client = event.data, str(event.data.get("client") or "")
        told = data.get("mac")
        macs = [told] if isinstance(told, str) else list(told or [])
        mac = str(macs[0]) if macs else self._macs.get(client, "")
        if not mac or self._directory.node_by_mac(mac) is not None:
            return None
        if client and client != "0.0.0.0":  # noqa: S104  # compared with, not bound
            _bounded(self._macs, client, mac)
        if event.type == "boot.unknown":
            self._unknown = event.time, mac
        boot = self._strangers.get(mac)
        if boot is None or not belongs(event, boot.attempt):
            boot = _put(self._strangers, mac, Attempt(event.time, [mac]))
        boot.attempt.take(event)
        return boot

    def _forget(self, uuid: str) -> None:
        boot = self._nodes.pop(uuid, None)
        if boot is not None:
            boot.end()

    # -- when nothing comes any more

    def _arm(self, boot: _Boot) -> None:
        """One timer for each boot on its way; it goes off when the boot may have stopped, and is not moved by every sign."""
        if boot.timer is None and boot.attempt.node_uuid is not None:
            boot.timer = asyncio.get_running_loop().call_later(self._patience(boot.attempt), self._expired, boot)

    def _expired(self, boot: _Boot) -> None:
        boot.timer = None
        uuid = boot.attempt.node_uuid or ""
        node = self._directory.node(uuid)
        if node is None or not _boots(node):
            self._forget(uuid)  # it has nothing to load any more
            return
        left = self._patience(boot.attempt) - _silence(boot.attempt)
        if left > 0:
            boot.timer = asyncio.get_running_loop().call_later(left + 0.01, self._expired, boot)
        else:
            self._look(boot, stopped=True)

    def _patience(self, attempt: Attempt) -> float:
        return self._quiet * _PATIENCE.get(stage_of(attempt), 0.5)

    def _look(self, boot: _Boot, *, stopped: bool) -> None:
        """Tell what is wrong, each cause once."""
        attempt = boot.attempt
        found = self._diagnose(attempt, stopped=stopped)
        for each in found.warnings:
            self._warn(boot, found.stage, each)
        if not found.cause or (found.stage, found.cause) in boot.told:
            return
        boot.told.add((found.stage, found.cause))
        self.stopped[found.cause] += 1
        data: dict[str, Any] = {
            "stage": found.stage,
            "seconds": round(_silence(attempt), 1) if stopped else 0.0,
            "cause": found.cause,
            "error": found.likely,
            "seen": found.at,
        }
        self._tell("stopped", attempt, data, found.remedy)

    def _warn(self, boot: _Boot, stage: str, found: Finding) -> None:
        """Tell what is wrong beside, each cause once in a boot."""
        if ("", found.cause) in boot.told:
            return
        boot.told.add(("", found.cause))
        self.warned[found.cause] += 1
        self._tell("warning", boot.attempt, {"stage": stage, "cause": found.cause, "warning": found.likely}, found.remedy)

    def _tell(self, what: str, attempt: Attempt, data: dict[str, Any], remedy: str) -> None:
        if remedy:
            data["remedy"] = remedy
        if attempt.macs:
            data["mac"] = attempt.macs[0]
        kind = f"node.boot_{what}" if attempt.node_uuid is not None else f"boot.{what}"
        self._directory.seen(kind, node_uuid=attempt.node_uuid, data=data)

    def _diagnose(self, attempt: Attempt, *, stopped: bool) -> Diagnosis:
        node = self._directory.node(attempt.node_uuid or "")
        known = Known(listening=self._listening)
        if node is not None:
            stranger = self._unknown[1] if self._unknown is not None and self._unknown[0] >= attempt.began else ""
            known = Known(has_secure_boot(node), self._listening, stranger)
        return diagnose(attempt, known, stopped=stopped)

    # -- what it is asked

    def node_by_mac(self, mac: str) -> Node | None:
        """The node that owns a MAC address (lower case, colons), or None."""
        return self._directory.node_by_mac(mac)

    def of_node(self, uuid: str, events: Iterable[Event]) -> list[Report]:
        """A node's boots that its events tell of, the latest first."""
        found = gather(events)
        node = self._directory.node(uuid)
        if found and found[-1].last is None and (node is None or not _boots(node)):
            found.pop()  # it was started from its disk
        return [self._report(attempt, latest=attempt is found[-1]) for attempt in reversed(found)]

    def of_stranger(self, mac: str) -> list[Report]:
        """The last boot of a machine that is no node, by its MAC address (lower case, colons)."""
        boot = self._strangers.get(mac)
        return [self._report(boot.attempt, latest=True)] if boot is not None else []

    def under_way(self) -> list[Report]:
        """Boots that have not come to their end, and the last ones of machines that are no nodes; the latest first."""
        found = [self._report(boot.attempt, latest=True) for boot in (*self._nodes.values(), *self._strangers.values())]
        return sorted(found, key=lambda each: each.attempt.last or each.attempt.began, reverse=True)

    def _report(self, attempt: Attempt, *, latest: bool) -> Report:
        silence = _silence(attempt)
        stopped = attempt.called is None and (silence > self._patience(attempt) or not latest)
        return Report(attempt, self._diagnose(attempt, stopped=stopped), round(silence, 1) if stopped else None)


def _boots(node: Node) -> bool:
    """Whether the node's machine is to load something over the network."""
    return credentials.wants_ramdisk(node) or instance.KEY in node.driver_internal_info


def _silence(attempt: Attempt) -> float:
    """Seconds since anything was seen of it."""
    return max(0.0, (now() - (attempt.last or attempt.powered or attempt.began)).total_seconds())


def _put(boots: OrderedDict[str, _Boot], key: str, attempt: Attempt) -> _Boot:
    found = boots[key] = _Boot(attempt)
    boots.move_to_end(key)
    if len(boots) > _MOST:
        _, oldest = boots.popitem(last=False)
        oldest.end()
    return found


def _bounded(known: OrderedDict[str, str], key: str, value: str) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > _ADDRESSES:
        known.popitem(last=False)
