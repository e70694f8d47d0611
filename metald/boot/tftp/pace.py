"""How fast windows leave: a rate for all transfers together, and one for each client.

Switches with small buffers drop what a fast server sends to a slow port in one burst. With a rate set, a window leaves in
pieces of a few milliseconds each, in the order in which they were asked for.
"""

from __future__ import annotations

_PIECE = 0.01
"""Seconds' worth of the rate that leave at once."""
_BURST = 0.02
"""Seconds' worth of unused time that somebody who was silent may make up for."""


class Pace:
    """Says when bytes may leave. Times are those of the loop.

    Args:
        rate: bytes a second of all clients together; 0: no limit.
        per_client: bytes a second of one client; 0: no limit.
    """

    def __init__(self, rate: int, per_client: int) -> None:
        self._rate = rate
        self._per_client = per_client
        self._free_at = 0.0
        self._clients: dict[str, float] = {}
        self._slowest = min(filter(None, (rate, per_client)), default=0)

    @property
    def limited(self) -> bool:
        """Whether there is any rate."""
        return self._slowest > 0

    def piece(self, segment: int) -> int:
        """Bytes that leave at once: whole datagrams of `segment` bytes, at least one."""
        return max(1, int(self._slowest * _PIECE) // segment) * segment

    def take(self, client: str, size: int, now: float) -> float:
        """When `size` bytes to a client may leave; they count from now on."""
        at = now
        if self._rate:
            at = max(self._free_at, now - _BURST)
            self._free_at = at + size / self._rate
        if self._per_client:
            own = max(self._clients.get(client, 0.0), now - _BURST)
            self._clients[client] = own + size / self._per_client
            at = max(at, own)
        return max(at, now)

    def forget(self, client: str) -> None:
        """Nothing is sent to this client any more."""
        self._clients.pop(client, None)
