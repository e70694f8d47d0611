"""`/v1/events` and `/v1/events/stream`: what happened, and what happens now.

Both read the one sequence of events, by the same numbers and in the same form. A caller gets the events of the nodes that
it may see, and no word of others.
"""

from __future__ import annotations

from metald.errors import Invalid, NotFound
from metald.http import sight, values, versions
from metald.http.call import Call, Reply
from metald.http.route import BOOLEAN, INTEGER, Arg, Kind, Route
from metald.http.v1 import lookups
from metald.http.watch import past
from metald.http.watch.filters import Filter, Sight
from metald.http.watch.frames import document
from metald.http.watch.stream import Stream
from metald.model import Node, ProvisionState
from metald.model.event import Standing

_MOST_EVENTS = 1000
_MOST_CHARACTERS = 1 << 20
"""Of stored events in one answer, give or take one event."""
_ALWAYS = 1
_MOST_NAMED = 1000
SEVERAL = Kind(lambda name, text: _several(name, text), {"type": "string", "description": "One, or several with commas between."})
FILTERS = (Arg("node", SEVERAL), Arg("type", SEVERAL), Arg("provision_state", SEVERAL), Arg("owner", SEVERAL), Arg("shard", SEVERAL))


def _several(name: str, text: str) -> list[str]:
    found = [word.strip() for word in values.text(name, text).split(",") if word.strip()]
    if not found:
        raise Invalid(f"{name} names nothing", remedy="Leave it out, or give at least one.", field=name)
    if len(found) > _MOST_NAMED:
        raise Invalid(f"{name} names more than {_MOST_NAMED}", remedy="Leave it out, and choose among the events.", field=name)
    return found


def _since(call: Call) -> int | None:
    since: int | None = call.args.get("since")
    if since is not None and since < 0:
        raise Invalid("since must not be negative", field="since")
    return since


async def events(call: Call) -> Reply:
    """Events after a sequence number, in order; `next` is where to go on from, until it is the same again.

    Raises:
        Invalid: an argument is not possible.
        Purged: events after `since` are not kept any more, or it is a number that no event has had yet.
        Unavailable: the database cannot be used now.
    """
    since, limit = _since(call) or 0, call.args.get("limit", _MOST_EVENTS)
    if limit <= 0:
        raise Invalid("Limit must be positive", field="limit")
    hub, wanted = call.services.watch, _wanted(call)
    async with hub.history:
        page = await past.read(hub.store, wanted, since, limit=min(limit, _MOST_EVENTS), size=_MOST_CHARACTERS)
    past.check(page, since)
    shown = [document(event) for event in page.events if wanted.takes(event, hub.standing(event))]
    return Reply.of({"events": shown, "first_seq": page.first, "last_seq": page.last, "next": page.end})


def _wanted(call: Call) -> Filter:
    args = call.args
    seen = Sight.of(call.caller)
    nodes = [_node(call, seen, given) for given in args.get("node", ())]
    types = args.get("type", ())
    for given in types:
        if "*" in given.removesuffix("*"):
            raise Invalid(
                f"type {values.shown(given)} has a * that is not at its end", remedy="Write node.* or a whole type.", field="type"
            )
    return Filter(
        sight=seen,
        nodes=frozenset(nodes),
        types=frozenset(given for given in types if not given.endswith("*")),
        families=tuple(sorted(given[:-1] for given in types if given.endswith("*"))),
        states=frozenset(_state(given) for given in args.get("provision_state", ())),
        owners=frozenset(args.get("owner", ())),
        shards=frozenset(args.get("shard", ())),
    )


def _node(call: Call, seen: Sight, given: str) -> str:
    """The UUID of a node. One that nobody has may be watched too: it may come, or its last events be wanted."""
    uuid = values.as_uuid(given)
    if uuid is not None and call.services.store.table(Node).get(uuid) is None:
        return uuid
    node = lookups.node(call, given, names_since=_ALWAYS)
    if not seen.sees(Standing.of(node)):
        raise NotFound(f"Node {given} could not be found.", field="node")
    return node.uuid


def _state(given: str) -> ProvisionState:
    try:
        return ProvisionState(given)
    except ValueError:
        raise Invalid(f'Provision state "{values.bare(given)}" is not valid', field="provision_state") from None


async def stream(call: Call) -> Stream:
    """Events as they happen: Server-Sent Events, or a WebSocket where the request asks to upgrade."""

    def shown(node: Node) -> bytes:
        return sight.node_view(call, node).one(node, versions.MAX, call.base)

    return Stream(call.services.watch, _wanted(call), since=_since(call), snapshot=shown if call.args.get("snapshot") else None)


ROUTES = (
    Route(
        "GET",
        "/v1/events",
        events,
        "Events in order",
        args=(Arg("since", INTEGER), Arg("limit", INTEGER), *FILTERS),
        policy="baremetal:events:get",
    ),
    Route(
        "GET",
        "/v1/events/stream",
        stream,
        "Events as they happen (Server-Sent Events, WebSocket)",
        args=(Arg("since", INTEGER), Arg("snapshot", BOOLEAN), *FILTERS),
        policy="baremetal:events:get",
        content_type="text/event-stream",
    ),
)
