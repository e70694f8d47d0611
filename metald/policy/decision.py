"""The decision: whether a rule holds for a caller on a target.

Callers differ in few ways that matter here (known roles, scope, whether the target is theirs), so the rules that hold are
worked out once for each such way and remembered: a decision is a set membership.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from metald.errors import NotAllowed, NotFound
from metald.model.caller import Caller
from metald.policy.table import RULES

_IMPLIED = {
    "admin": ("admin", "manager", "member", "reader"),
    "manager": ("manager", "member", "reader"),
    "member": ("member", "reader"),
    "reader": ("reader",),
    "service": ("service",),
}
_WAYS = 1024
"""More than the known roles, scopes and relations make; strange roles of tokens may push older entries out."""


class Owned(Protocol):
    """What a project may own; a target that has a `lessee` too may be leased."""

    @property
    def owner(self) -> str | None:
        """The project that it belongs to."""


@lru_cache(maxsize=_WAYS)
def _held(roles: tuple[str, ...], system: bool, scoped: bool, elevated: bool, owner: bool, lessee: bool) -> frozenset[str]:
    """The names of the rules that hold."""
    known = {implied for role in roles for implied in _IMPLIED.get(role, ())}
    relations = [word for word, holds in (("system", system), ("any", system or scoped), ("owner", owner), ("lessee", lessee)) if holds]
    standings = {f"{relation} {role}" for relation in relations for role in known}
    if elevated and "service" in known:
        standings.add("elevated service")
    return frozenset(rule.name for rule in RULES if rule.who & standings)


def allows(caller: Caller, name: str, target: Owned | None = None) -> bool:
    """Whether the rule `name` holds for `caller` on `target`; never for a name that there is not."""
    project = caller.project
    owner = lessee = False
    if target is not None and project is not None:
        owner = target.owner == project
        lessee = getattr(target, "lessee", None) == project
    return name in _held(caller.roles, caller.system, project is not None, caller.elevated, owner, lessee)


def unrestricted(caller: Caller) -> bool:
    """Whether the caller is the system's administrator, who needs no further question."""
    return caller.system and "admin" in caller.roles


def require(caller: Caller, name: str, target: Owned | None = None) -> None:
    """Refuse what the rule `name` does not let `caller` do with `target`.

    Raises:
        NotAllowed: the rule does not hold.
    """
    if not allows(caller, name, target):
        raise NotAllowed(
            f"Access was denied to the following resource: {name}",
            remedy="docs/reference/policy.md names the roles that it takes.",
        )


def require_visible(caller: Caller, node: Owned, missing: str) -> None:
    """Deny that there is what the caller does not see.

    Args:
        caller: who asks.
        node: the node, or the node of what was asked for.
        missing: the text that answers where there is nothing.

    Raises:
        NotFound: the caller may not see the node.
    """
    if not allows(caller, "baremetal:node:get", node):
        raise NotFound(missing)
