"""Tells apart what is worth telling: machines repeat their questions every few seconds, and a flood has millions."""

from __future__ import annotations

from collections import OrderedDict

_SAME = 30.0
_MOST = 8192


class Once:
    """Remembers what was told lately; bounded. Times are seconds of any clock that only goes on."""

    def __init__(self) -> None:
        self._said: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()

    def fresh(self, key: tuple[str, ...], now: float) -> int:
        """How often it came since it was last told, this time included; 0 while it is the same again within half a minute."""
        told, count = self._said.pop(key, (-_SAME, 0))
        if now - told < _SAME:
            # What keeps coming is told again after a pause only.
            self._said[key] = now, count + 1
            return 0
        self._said[key] = now, 0
        if len(self._said) > _MOST:
            self._said.popitem(last=False)
        return count + 1
