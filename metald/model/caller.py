"""Caller: who asks, as far as the doors of the state machine and the policy need to know."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The authenticated origin of a request. Unless more is known it is the administrator of the whole system."""

    user: str = "anonymous"
    request_id: str | None = None
    roles: tuple[str, ...] = ("admin",)
    project: str | None = None
    """The project that the roles are for; null outside a project."""
    system: bool = True
    """Whether the roles are for the whole system."""
    elevated: bool = False
    """Whether this is a service of the project of services, and such services see all."""


SYSTEM = Caller(user="system")
"""metald itself, when nobody asked."""
