"""Numbers about the daemon, in Prometheus' words, gathered when somebody asks.

Rules: nothing here is paid for on the way of a request or a step but an addition. No label holds a node, a user or a path
that a client chose, so that the number of series stays small however large the fleet is.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from prometheus_client.core import Metric

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

_LATE = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds that a loop is late, finer where it begins to be felt."""


class Histogram:
    """Counts values by their size.

    Args:
        bounds: the buckets' upper bounds, growing.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def below(self, share: float) -> float:
        """The bucket's bound that this share of the values does not exceed; infinity where there is none, 0 without values."""
        wanted, found = share * sum(self.counts), 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            found += count
            if found >= wanted:
                return bound if found else 0.0
        return float("inf")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its samples.

    Args:
        name: without `metald_` and without `_total`.
        kind: what it is.
        text: its meaning, with its unit.
        samples: labels and value; of a histogram the `Histogram`.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    samples: Sequence[tuple[Mapping[str, str], float | Histogram]] = field(default_factory=tuple)

    @classmethod
    def one(cls, name: str, kind: Literal["counter", "gauge", "histogram"], text: str, value: float | Histogram) -> Family:
        """A metric without labels."""
        return cls(name, kind, text, (({}, value),))


Source = Callable[[], Iterable[Family]]


class Metrics:
    """What every part has to tell; each is asked at each scrape."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        """Ask this one too from now on."""
        self._sources.append(source)

    def families(self) -> Iterator[Family]:
        """Every metric there is now."""
        for source in self._sources:
            yield from source()

    async def render(self) -> tuple[bytes, str]:
        """Prometheus' text format and its content type."""
        # its import takes tens of milliseconds, once
        from_library = await asyncio.to_thread(_library)
        return from_library(list(self.families()))


def _library() -> Callable[[list[Family]], tuple[bytes, str]]:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.registry import Collector

    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}

    def metric(found: Family) -> Metric:
        names = list(found.samples[0][0]) if found.samples else []
        made = kinds[found.kind](f"metald_{found.name}", found.text, labels=names)
        for labels, value in found.samples:
            if isinstance(value, Histogram):
                made.add_metric(list(labels.values()), buckets=_buckets(value), sum_value=value.total)
            else:
                made.add_metric(list(labels.values()), value)
        found_metric: Metric = made
        return found_metric

    def render(families: list[Family]) -> tuple[bytes, str]:
        class Now(Collector):
            def collect(self) -> Iterable[Metric]:
                return map(metric, families)

        registry = CollectorRegistry(auto_describe=False)
        registry.register(Now())
        return generate_latest(registry), CONTENT_TYPE_LATEST

    return render


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    below = 0
    found: list[tuple[str, float]] = []
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += count
        found.append(("+Inf" if bound == float("inf") else f"{bound:g}", below))
    return found


class LoopLag:
    """How late the event loop is: how long what became ready had to wait.

    Args:
        every: seconds between two looks.
    """

    def __init__(self, every: float = 0.05) -> None:
        self._every = every
        self.late = Histogram(_LATE)

    async def run(self) -> None:
        """Look for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._every
            await asyncio.sleep(self._every)
            self.late.add(max(0.0, loop.time() - due))

    def families(self) -> Iterator[Family]:
        """Its metric, and the process's own."""
        yield Family.one("loop_lag_seconds", "histogram", "Seconds that what was ready waited for the event loop.", self.late)
        yield Family.one("cpu_seconds", "counter", "Seconds of CPU that the daemon has used.", time.process_time())
