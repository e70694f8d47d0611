"""Traits: what a node can do, in the words of the field (`os-traits`), or in an operator's own (`CUSTOM_...`)."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_CUSTOM = re.compile(r"CUSTOM_[A-Z0-9_]+")
MAX_LENGTH = 255


@cache
def standard() -> frozenset[str]:
    """The names that os-traits defines."""
    return frozenset((files("metald.model") / "standard_traits.txt").read_text(encoding="ascii").split())


def is_trait(name: object) -> bool:
    """Whether it is a standard trait or a well-formed custom one."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_LENGTH:
        return False
    return _CUSTOM.fullmatch(name) is not None or name in standard()
