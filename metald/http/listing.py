"""Lists: choosing fields, filtering, sorting, paging, and the `next` link, the same for every collection.

A list is a join of cached bytes. Filters are given by the caller as an iterable that is already narrowed by an index where
one fits; paging walks it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from metald.errors import Invalid, NotAcceptable, NotFound
from metald.http import sight
from metald.http.call import Call
from metald.http.fields import View
from metald.model import Resource

R = TypeVar("R", bound=Resource)


def chosen_fields(call: Call, view: View[Any], *, detail: bool | None, since_detail: int = 43) -> tuple[str, ...] | None:
    """The fields that a list shows: those asked for, all (None), or the default ones.

    Raises:
        Invalid: a field does not exist, `fields` and `detail` are both given, or `detail` is too new.
        NotAcceptable: a field, or the choosing of fields, is newer than the version.
    """
    names = call.args.get("fields")
    if names is not None:
        call.require(8)
        if detail:
            raise Invalid("Can not specify ?detail=True and fields in the same request.", field="fields")
        return view.check(names, call.version)
    if detail is not None and call.version < since_detail:
        raise Invalid(f"Invalid query parameter ?detail={detail} received.", remedy=f"It needs version 1.{since_detail}.", field="detail")
    return None if detail else view.default


def page(
    call: Call,
    view: View[R],
    things: Iterable[R],
    names: tuple[str, ...] | None,
    *,
    path: str | None = None,
    endless: bool = False,
    marker: R | None = None,
    render: Callable[[Sequence[R]], list[bytes]] | None = None,
) -> bytes:
    """One page of a collection as JSON.

    Args:
        call: the request, with its paging arguments.
        view: how the resources are shown.
        things: what the filters let through, in order of insertion.
        names: fields to show, None for all.
        path: the collection's path, where it is not the view's own.
        endless: whether to leave the `next` link away.
        marker: the resource after which the page begins.
        render: how they are made into JSON, where not all have the form of the view.
    """
    limit = _limit(call)
    selected = _slice(call, view, things, marker, limit)
    bodies = view.many(selected, call.version, call.base, names) if render is None else render(selected)
    out = b'{"' + view.key.encode() + b'":[' + b",".join(bodies) + b"]"
    if len(selected) == limit and not endless:
        out += b',"next":' + orjson.dumps(_next(call, path or view.resource, names, limit, view.ident(selected[-1])))
    return out + b"}"


def _limit(call: Call) -> int:
    most = call.services.settings.api.max_limit
    limit = call.args.get("limit")
    if limit is None:
        return most
    if limit <= 0:
        raise Invalid("Limit must be positive", field="limit")
    return min(int(limit), most)


def find_marker(call: Call, kind: type[R], noun: str, *, named: bool = False) -> R | None:
    """The resource that the argument `marker` names.

    Args:
        kind: what is listed.
        noun: how an error calls it.
        named: whether a name serves too.

    Raises:
        NotFound: there is none.
    """
    uuid = call.args.get("marker")
    if uuid is None:
        return None
    table = call.services.store.table(kind)
    found = table.get(uuid) or (table.by("name", uuid) if named else None)
    if found is None or not sight.sees(call, found):
        raise NotFound(f"{noun} {uuid} could not be found.", field="marker")
    return found


def _slice(call: Call, view: View[R], things: Iterable[R], marker: R | None, limit: int) -> list[R]:
    key = call.args.get("sort_key") or "id"
    direction = call.args.get("sort_dir") or "asc"
    if direction not in ("asc", "desc"):
        raise Invalid(f"Invalid sort direction: {direction[:80]}. Acceptable values are 'asc' or 'desc'", field="sort_dir")
    _check_sort(call, view, key)
    if key == "id" and direction == "asc":
        found: list[R] = []
        after = marker.id if marker is not None else -1
        for thing in things:
            if thing.id > after:
                found.append(thing)
                if len(found) == limit:
                    break
        return found
    ordered = sorted(things, key=lambda thing: thing.id)
    ordered.sort(key=lambda thing: _sort_value(thing, key), reverse=direction == "desc")
    start = 0
    if marker is not None:
        start = next((i + 1 for i, thing in enumerate(ordered) if thing.uuid == marker.uuid), len(ordered))
    return ordered[start : start + limit]


def _check_sort(call: Call, view: View[Any], key: str) -> None:
    if key == "id":
        return
    field = view.fields.get(key)
    if field is not None and field.since > call.version:
        raise NotAcceptable("Request not acceptable.", remedy=f"Sorting by {key} needs version 1.{field.since}.", field="sort_key")
    if field is None or not field.sortable:
        # Ironic quotes what its tables do not have, and does not quote what they have as a document
        a_document = field is not None and field.schema.get("type") in ("object", "array")
        shown = key[:80] if a_document else f'"{key[:80]}"'
        raise Invalid(f"The sort_key value {shown} is an invalid field for sorting", field="sort_key")


def _sort_value(thing: Any, key: str) -> tuple[bool, Any]:
    if key == "id":
        return True, thing.id
    value = getattr(thing, key, None)
    if isinstance(value, datetime):
        value = value.timestamp()
    return value is not None, "" if value is None else value


def _next(call: Call, path: str, names: tuple[str, ...] | None, limit: int, marker: str) -> str:
    args = dict(call.args)
    parts = [f"sort_key={args.pop('sort_key', None) or 'id'}", f"sort_dir={args.pop('sort_dir', None) or 'asc'}"]
    for name in ("limit", "marker"):
        args.pop(name, None)
    fields = args.pop("fields", None) or names
    for name, value in args.items():
        text = ",".join(quote(item) for item in value) if isinstance(value, list) else quote(str(value))
        parts.append(f"{name}={text}")
    if fields:
        parts.append(f"fields={','.join(quote(f) for f in fields)}")
    return f"{call.base}/v1/{path}?{'&'.join(parts)}&limit={limit}&marker={quote(marker)}"
