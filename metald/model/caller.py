"""Caller: who asks, as far as the doors of the state machine need to know."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The authenticated origin of a request."""

    user: str = "anonymous"
    request_id: str | None = None
    roles: tuple[str, ...] = ("admin",)
    project: str | None = None
    system: bool = True


SYSTEM = Caller(user="system")
"""metald itself, when nobody asked."""
