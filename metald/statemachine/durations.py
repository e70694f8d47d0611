"""How long steps usually take, from the journal: medians over nodes of the same driver and resource class.

A step that waited, or that was tried again, counts from its first try to its end: that is what somebody who waits sees.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from metald.model import Node, PlannedStep, StepRecord
from metald.store.store import Store

RECENT = 3000
"""Journal lines that are looked at."""


@dataclass(frozen=True, slots=True)
class Typical:
    """How long a step takes."""

    seconds: float
    """The median."""
    samples: int
    basis: str
    """Whose it is: `driver and resource class`, or `driver` where that class has none yet."""


class Durations:
    """What the journal tells for one node.

    Args:
        node: whose driver and resource class count.
        nodes: every node, by its UUID.
        records: journal lines, oldest first.
    """

    def __init__(self, node: Node, nodes: Any, records: Iterable[StepRecord]) -> None:
        self._alike: dict[tuple[str, str], list[float]] = {}
        self._driver: dict[tuple[str, str], list[float]] = {}
        began: dict[tuple[str, int], StepRecord] = {}
        for record in records:
            first = began.setdefault((record.workflow_uuid, record.cursor), record)
            owner = nodes.get(record.node_uuid)
            if record.outcome != "done" or owner is None or owner.driver != node.driver:
                continue
            seconds = (record.ended_at - first.started_at).total_seconds()
            key = (record.interface, record.step)
            self._driver.setdefault(key, []).append(seconds)
            if owner.resource_class == node.resource_class:
                self._alike.setdefault(key, []).append(seconds)

    @classmethod
    async def of(cls, store: Store, node: Node) -> Durations:
        """What the newest lines of the journal tell.

        Raises:
            Unavailable: the database cannot be used now.
        """
        return cls(node, store.table(Node), await store.journal(limit=RECENT))

    def typical(self, step: PlannedStep) -> Typical | None:
        """How long this step takes; None when nobody knows yet."""
        key = (step.interface, step.step)
        found = ((self._alike, "driver and resource class"), (self._driver, "driver"))
        for samples, basis in found:
            if key in samples:
                return Typical(round(statistics.median(samples[key]), 3), len(samples[key]), basis)
        return None

    def total(self, steps: Sequence[PlannedStep]) -> tuple[float, list[str]]:
        """The sum over the steps that are known, and the names of the others."""
        known = [(step, self.typical(step)) for step in steps]
        unknown = [f"{step.interface}.{step.step}" for step, typical in known if typical is None]
        return round(sum(typical.seconds for _, typical in known if typical is not None), 3), unknown
