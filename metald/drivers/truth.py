"""What operators mean by true in free fields of a node: command lines write it as text."""

from __future__ import annotations

_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})


def is_true(value: object) -> bool:
    """Whether a value of driver_info or instance_info says yes."""
    return str(value).strip().lower() in _TRUE
