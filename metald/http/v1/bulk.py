"""Many nodes in one request: `POST /v1/nodes` with an array. metald's own.

The contract: each item is a node as one request would bring it, and is made or refused for itself; what is refused keeps
nothing else from being made. The answer names every item in order: 201 when all were made, else 207. A request that is cut
off may have made some: repeat it with UUIDs or names of your own, and those that exist answer 409.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from metald.errors import Invalid, MetaldError
from metald.http import body, problem
from metald.http.call import Call, Reply
from metald.http.route import Route
from metald.http.v1 import nodes
from metald.http.v1.node_schema import CREATE
from metald.model import Node
from metald.store.batch import MAX_CHANGES

_log = logging.getLogger(__name__)

_CHECKED = 20
"""Items that are checked before others get their turn."""


async def create(call: Call) -> Reply:
    """Create a node, or each of an array of nodes."""
    if not isinstance(call.body, list):
        return await nodes.create(call)
    items: list[Any] = call.body
    most = call.services.settings.api.max_bulk
    if not 1 <= len(items) <= most:
        raise Invalid(f"The array holds {len(items)} nodes", remedy=f"Send 1 to {most} in one request.", field="body")
    done: dict[int, dict[str, Any]] = {}
    ready: list[tuple[int, Node]] = []
    for index, item in enumerate(items):
        with _answering(call, done, index, item):
            ready.append((index, _prepared(call, index, item)))
        if index % _CHECKED == _CHECKED - 1:
            await asyncio.sleep(0)
    for at in range(0, len(ready), MAX_CHANGES):
        async with asyncio.TaskGroup() as group:
            for index, node in ready[at : at + MAX_CHANGES]:
                group.create_task(_add(call, done, index, node))
    return _answer([done[index] for index in range(len(items))])


def _prepared(call: Call, index: int, item: Any) -> Node:
    if not isinstance(item, dict):
        raise Invalid("A node is an object", field=str(index))
    return nodes.prepared(call, body.conformed(item, call.route))


async def _add(call: Call, done: dict[int, dict[str, Any]], index: int, node: Node) -> None:
    with _answering(call, done, index, {"name": node.name}):
        made = await call.services.fleet.nodes.add(node, call.caller)
        location = call.url(f"nodes/{made.uuid}")
        done[index] = {"index": index, "status": 201, "uuid": made.uuid, "name": made.name, "location": location}


@contextlib.contextmanager
def _answering(call: Call, done: dict[int, dict[str, Any]], index: int, item: Any) -> Iterator[None]:
    """What goes wrong with an item is its answer, and nobody else's."""
    try:
        yield
    except MetaldError as error:
        done[index] = _refused(index, item, error.status, {"message": problem.text_of(error), **problem.structured(error)})
    except Exception:
        _log.exception("item %d of %s", index, call.caller.request_id)
        text = f"Internal error; the log knows it as item {index} of {call.caller.request_id}."
        own = problem.own(problem.INTERNAL, "Report it with those log lines.")
        done[index] = _refused(index, item, 500, {"message": text, **own})


def _refused(index: int, item: Any, status: int, error: dict[str, Any]) -> dict[str, Any]:
    name = item.get("name") if isinstance(item, dict) else None
    return {"index": index, "status": status, "name": name if isinstance(name, str) else None, "error": error}


def _answer(items: Sequence[dict[str, Any]]) -> Reply:
    made = sum(item["status"] == 201 for item in items)
    failed = len(items) - made
    return Reply.of({"nodes": items, "created": made, "failed": failed}, status=207 if failed else 201)


ROUTES = (
    Route(
        "POST",
        "/v1/nodes",
        create,
        "Create a node, or each of an array of nodes",
        body=CREATE,
        body_name="node",
        status=201,
        also=(207,),
        policy="baremetal:node:create",
        answer="node",
        bulk=True,
    ),
)
