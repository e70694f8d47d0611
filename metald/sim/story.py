"""What happened in a simulated fleet: a log of faults and effects that can be read, queried and run again.

A line is a JSON object: `t` (seconds since the start), `node`, `event`, and what else there is to say. The first line tells
the fleet (its size, seed and faults), and injected faults say so: together they are all that `--replay` needs.

Rules: a story is bounded in memory; the file gets everything. What each machine was told by chance is in its own lines in
its own order, which is what stays the same from run to run.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

_KEPT = 100_000


class Injection(NamedTuple):
    """A fault from outside: when, whom, which."""

    at: float
    nodes: str
    fault: dict[str, Any]
    seconds: float = 0.0
    """For how long; 0 is for good."""


class StoryError(Exception):
    """A file is no log of a simulated fleet."""


class Story:
    """See the module.

    Args:
        path: where the lines go; None keeps them in memory alone.
        kept: how many lines memory holds.
    """

    def __init__(self, path: Path | None = None, *, kept: int = _KEPT) -> None:
        self.count = 0
        self._lines: deque[dict[str, Any]] = deque(maxlen=kept)
        self._file: TextIO | None = path.open("w", encoding="utf-8") if path is not None else None
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self._began

    def tell(self, node: str, event: str, **detail: Any) -> None:
        """Something happened."""
        line = {"t": round(self.now, 3), "node": node, "event": event, **detail}
        self.count += 1
        self._lines.append(line)
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")

    def since(self, number: int, limit: int = 1000) -> tuple[list[dict[str, Any]], int]:
        """Lines from the `number`th on that memory still has, and the number to go on with."""
        first = self.count - len(self._lines)
        start = max(0, number - first)
        lines = [self._lines[at] for at in range(start, min(start + limit, len(self._lines)))]
        return lines, first + start + len(lines)

    def of(self, node: str) -> list[dict[str, Any]]:
        """What memory has of one machine."""
        return [line for line in self._lines if line["node"] == node]

    def close(self) -> None:
        """Write everything out."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read(path: Path) -> tuple[dict[str, Any], list[Injection]]:
    """The fleet that a log tells of, and the faults that were injected, by time.

    Raises:
        StoryError: the file cannot be read or is none.
    """
    try:
        lines: Iterable[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        first, *rest = lines
        if first.get("event") != "fleet":
            raise ValueError("its first line does not tell a fleet")
        injections = [
            Injection(line["at"], line["nodes"], line["fault"], line.get("seconds", 0.0)) for line in rest if line["event"] == "injected"
        ]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise StoryError(f"{path} is no log of a simulated fleet: {error}.") from None
    return first, injections
