"""One boot of one machine, as far as anybody saw it: gathered from the events of the boot servers. Pure.

Rule: it is bounded. The same question asked again only counts; of more files than are kept, those in the middle go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from metald.model import Event

_QUESTIONS = frozenset({"node.dhcp", "boot.dhcp"})
_FILES = frozenset({"node.tftp", "node.http", "boot.tftp", "boot.http"})
_CALLS = frozenset({"node.ramdisk", "node.agent_lookup", "node.heartbeat"})
SIGNS = _QUESTIONS | _FILES | _CALLS | {"boot.unknown"}
"""Events that are signs of life of a booting machine; with `boot.` where it is not known to be a node."""
_STARTS = frozenset({("power", "power_on"), ("power", "reboot"), ("power", "change"), ("inspect", "boot")})

_MOST_QUESTIONS = 24
_MOST_FILES = 40
_MOST_NAMES = 16
_ANEW = timedelta(minutes=10)
"""Silence after which a machine has begun another boot, where nobody knows its power."""


@dataclass(slots=True)
class Question:
    """What a machine asked a DHCP server, and what it was told."""

    time: datetime
    asked: str
    answer: str = ""
    server: str = ""
    """Who answered, or whom the machine chose; empty: we do."""
    firmware: str = ""
    architecture: str = ""
    file: str = ""
    address: str = ""
    """The address that it was offered or given."""
    machine: bool | None = None
    """Whether it told its UUID (option 97); None when nobody looked."""
    error: str = ""
    overheard: bool = False
    count: int = 1


@dataclass(slots=True)
class Loaded:
    """A file that it asked for."""

    time: datetime
    """When it ended."""
    by: str
    """`tftp` or `http`."""
    file: str
    client: str = ""
    bytes: int = 0
    seconds: float = 0.0
    status: int | None = None
    blksize: int | None = None
    windowsize: int | None = None
    retransmits: int = 0
    probe: str = ""
    """`size` or `absent` when it was not asked for to be loaded."""
    error: str = ""

    @property
    def whole(self) -> bool:
        """Whether all of it arrived."""
        return not self.error and not self.probe and (self.status or 200) < 400


@dataclass(slots=True)
class Attempt:
    """What was seen of one boot."""

    began: datetime
    macs: list[str] = field(default_factory=list)
    node_uuid: str | None = None
    powered: datetime | None = None
    """When its power came on, where we did that."""
    last: datetime | None = None
    """When it was last seen."""
    questions: list[Question] = field(default_factory=list)
    files: list[Loaded] = field(default_factory=list)
    dropped: int = 0
    """Files that are not kept."""
    addresses: list[str] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)
    """UUIDs that it told by DHCP; more than one means two machines."""
    called: datetime | None = None
    """When its ramdisk, or the agent in it, called: the boot is done."""

    def take(self, event: Event) -> None:
        """One more sign."""
        data = event.data
        self.last = max(self.last or event.time, event.time)
        for mac in _macs(data):
            _remember(self.macs, mac)
        if data.get("client") and data["client"] != "0.0.0.0":  # noqa: S104  # compared with, not bound
            _remember(self.addresses, str(data["client"]))
        if event.type in _CALLS:
            self.called = self.called or event.time
        elif event.type in _QUESTIONS:
            self._asked(event.time, data)
        elif event.type in _FILES:
            self._loaded(event, data)

    def _asked(self, time: datetime, data: Mapping[str, Any]) -> None:
        if data.get("machine"):
            _remember(self.machines, str(data["machine"]))
        found = Question(
            time,
            str(data.get("asked") or ""),
            str(data.get("answer") or ""),
            str(data.get("server") or ""),
            str(data.get("firmware") or ""),
            str(data.get("architecture") or ""),
            str(data.get("file") or ""),
            str(data.get("client") or ""),
            data.get("machine_id"),
            str(data.get("error") or ""),
            bool(data.get("overheard")),
            int(data.get("count") or 1),
        )
        for before in self.questions:
            if _same(before, found):
                before.time, before.count = time, before.count + found.count
                return
        self.questions.append(found)
        if len(self.questions) > _MOST_QUESTIONS:
            del self.questions[_MOST_QUESTIONS // 2]

    def _loaded(self, event: Event, data: Mapping[str, Any]) -> None:
        if data.get("method", "HEAD") != "HEAD":
            return
        self.files.append(
            Loaded(
                event.time,
                event.type.rpartition(".")[2],
                str(data.get("file") or ""),
                str(data.get("client") or ""),
                int(data.get("bytes") or 0),
                float(data.get("seconds") or 0.0),
                data.get("status"),
                data.get("blksize"),
                data.get("windowsize"),
                int(data.get("retransmits") or 0),
                str(data.get("probe") or ("size" if data.get("method") else "")),
                str(data.get("error") or ""),
            )
        )
        if len(self.files) > _MOST_FILES:
            del self.files[_MOST_FILES // 2]
            self.dropped += 1

    # -- what the rest asks

    @property
    def firmware(self) -> list[Question]:
        """What its firmware asked, in order; not what iPXE or an operating system did."""
        return [each for each in self.questions if each.firmware in ("pxe", "http")]

    @property
    def architecture(self) -> str:
        """Of its firmware, in words; empty when nobody told."""
        return next((each.architecture for each in reversed(self.questions) if each.architecture), "")

    @property
    def retransmits(self) -> int:
        """Datagrams that TFTP had to send again."""
        return sum(each.retransmits for each in self.files)


def starts(event: Event) -> bool:
    """Whether a machine was started with it."""
    data = event.data
    return event.type == "node.step" and (data.get("interface"), data.get("step")) in _STARTS and data.get("outcome") in ("done", "wait")


def belongs(event: Event, attempt: Attempt | None) -> bool | None:
    """Whether a sign is of the boot that was on its way; None when it is of no boot at all, False when it begins another one."""
    if attempt is not None and attempt.called is None and event.time - (attempt.last or attempt.began) <= _ANEW:
        return True
    return False if _begins(event) else None


def gather(events: Iterable[Event]) -> list[Attempt]:
    """The boots that a node's events tell of, in order. One of which nothing was seen is told only when it is the last."""
    found: list[Attempt] = []
    for event in events:
        if starts(event):
            found.append(Attempt(event.time, node_uuid=event.node_uuid, powered=event.time))
        elif event.type in SIGNS:
            mine = belongs(event, found[-1] if found else None)
            if mine is False:
                found.append(Attempt(event.time, node_uuid=event.node_uuid))
            if mine is not None:
                found[-1].take(event)
    return [each for each in found if each.last is not None or each is found[-1]]


def _begins(event: Event) -> bool:
    """Whether an event is of a boot from the network; heartbeats and renewals of running systems are not."""
    if event.type in _QUESTIONS:
        return event.data.get("firmware") in ("pxe", "http", "ipxe")
    return event.type == "boot.unknown" or (event.type in _FILES and not event.data.get("method"))


def _same(one: Question, other: Question) -> bool:
    """Whether only their times differ."""
    names = ("asked", "answer", "server", "firmware", "file", "error")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _macs(data: Mapping[str, Any]) -> list[str]:
    told = data.get("mac")
    return [told] if isinstance(told, str) else [each for each in told if isinstance(each, str)] if isinstance(told, list) else []


def _remember(known: list[str], word: str) -> None:
    if word not in known and len(known) < _MOST_NAMES:
        known.append(word)
