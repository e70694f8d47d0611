"""What of the fleet a caller sees, and in which form.

What is not seen is not there: look-ups answer 404 in the words for what does not exist, lists leave it out. What belongs to
a node is seen with its node. A project that leases a node sees a reduced form of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from metald import policy
from metald.http.call import Call
from metald.http.fields import View
from metald.model import Node, Resource
from metald.model.catalogue import Allocation, Runbook, VolumeTarget

R = TypeVar("R", bound=Resource)


class _Mine(NamedTuple):
    owner: str | None
    lessee: str | None


def everything(call: Call) -> bool:
    """Whether no question needs to be asked: of administrators, and where nobody is asked who they are."""
    return call.route.public or policy.unrestricted(call.caller)


def node_of(call: Call, thing: Any) -> Node | None:
    """The node that something belongs to."""
    return call.services.store.table(Node).get(thing.node_uuid) if thing.node_uuid is not None else None


def sees(call: Call, thing: Resource) -> bool:
    """Whether the caller may know that there is this thing.

    Runbooks, and what is not of a node, are no secret: the rules of their routes refuse with 403.
    """
    if everything(call):
        return True
    if isinstance(thing, Node):
        return policy.allows(call.caller, "baremetal:node:get", thing)
    if isinstance(thing, Allocation):
        return policy.allows(call.caller, "baremetal:allocation:get", thing)
    if not hasattr(thing, "node_uuid"):
        return True
    node = node_of(call, thing)
    return node is not None and policy.allows(call.caller, "baremetal:node:get", node)


def seen(call: Call, things: Iterable[R], kind: type[R]) -> Iterable[R]:
    """Those of some things of one kind that the caller's lists show."""
    if everything(call):
        return things
    if kind is Node:
        return _nodes(call, things)
    if kind is Runbook:
        listed = policy.allows(call.caller, "baremetal:runbook:list_all")
        return things if listed else (book for book in things if _runbook(call, book))
    return (thing for thing in things if sees(call, thing))


def _runbook(call: Call, book: Any) -> bool:
    return book.public or (book.owner is not None and book.owner == call.caller.project)


def _nodes(call: Call, nodes: Iterable[Any]) -> Iterable[Any]:
    """By the project alone, so that thousands cost a comparison each."""
    caller = call.caller
    if policy.allows(caller, "baremetal:node:list_all"):
        return nodes
    mine = caller.project
    if mine is None:
        return ()
    owned = mine if policy.allows(caller, "baremetal:node:get", _Mine(mine, None)) else object()
    leased = mine if policy.allows(caller, "baremetal:node:get", _Mine(None, mine)) else object()
    return (node for node in nodes if node.owner == owned or node.lessee == leased)


def whole(call: Call, node: Node) -> bool:
    """Whether the caller sees every field of a node that it sees."""
    return everything(call) or policy.allows(call.caller, "baremetal:node:get:driver_info", node)


def whole_list(call: Call) -> bool:
    """Whether the caller sees every field of every node, so that lists need no look at each."""
    return everything(call) or policy.allows(call.caller, "baremetal:node:get:filter_threshold")


def node_view(call: Call, node: Node) -> View[Node]:
    """The form in which the caller sees a node."""
    views = call.services.views
    return views.nodes if whole(call, node) else views.leased_nodes


def target_view(call: Call) -> View[VolumeTarget]:
    """The form in which the caller sees volume targets: how they are reached may be hidden."""
    views = call.services.views
    shown = everything(call) or policy.allows(call.caller, "baremetal:volume:view_target_properties")
    return views.targets if shown else views.hidden_targets
