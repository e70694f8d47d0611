"""How many requests were answered with what, and how long that took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from metald.metrics import Family, Histogram

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Traffic:
    """Counts answers."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, Histogram] = {}

    def count(self, method: str, status: int, seconds: float) -> None:
        """One more answer, so many seconds after the head of its request."""
        if method not in _METHODS:
            method = "other"
        self._answers[method, status] += 1
        histogram = self._seconds.get(method)
        if histogram is None:
            histogram = self._seconds[method] = Histogram()
        histogram.add(seconds)

    def families(self) -> Iterator[Family]:
        """The metrics."""
        answers = [({"method": method, "status": str(status)}, float(count)) for (method, status), count in sorted(self._answers.items())]
        yield Family("api_requests", "counter", "Requests of the API that were answered.", answers)
        took = [({"method": method}, histogram) for method, histogram in sorted(self._seconds.items())]
        yield Family("api_request_seconds", "histogram", "Seconds from a request's head to its answer.", took)
