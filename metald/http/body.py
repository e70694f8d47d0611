"""Reading a JSON body: within its size, its time and its depth, and nothing but JSON."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError

from metald.errors import Invalid
from metald.http.problem import BodyError, RoutingError
from metald.http.route import Route
from metald.http.schema import conform

LONGEST = 10
"""Times the deadline between two pieces that a whole body may take."""
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_LARGEST = 1 << 64
_SMALLEST = -(1 << 63)
_MOST_CONTAINERS = 400_000
_REFUSED_TYPES = ("application/x-www-form-urlencoded", "multipart/", "text/html", "application/xml", "text/xml", "image/")


async def read(request: web.Request, *, limit: int, depth: int, timeout: float, kept: Callable[[int], None], arrays: int = 0) -> Any:
    """The JSON value of a request's body; an empty body is an empty object.

    Args:
        request: whose body.
        limit: most bytes.
        depth: deepest nesting.
        timeout: seconds that a client may take between two pieces of it; the whole may take ten times as long.
        kept: is told how many bytes are in memory.
        arrays: most bytes of an array, where that is more.

    Raises:
        BodyError: too big (413), too deep (400).
        Invalid: not JSON.
        RoutingError: another type of content (415), or too slow (408).
    """
    content_type = request.headers.get("Content-Type", "").lower()
    if content_type.startswith(_REFUSED_TYPES):
        raise RoutingError(415, f"The body must be application/json, not {content_type[:80]}", field="Content-Type")
    data = await _bytes(request, limit, max(limit, arrays), timeout, kept)
    if not data.strip():
        return {}
    if data.count(b"[") + data.count(b"{") > _MOST_CONTAINERS:
        raise BodyError(413, f"The body holds more than {_MOST_CONTAINERS} lists and objects")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "recursion" in str(error).lower():
            raise _too_deep(depth) from None
        raise Invalid(f"The body is not valid JSON: {error.msg}: line {error.lineno} column {error.colno}", field="body") from None
    check_depth(value, depth)
    if _LONG_NUMBER.search(data) is not None:
        _check_numbers(data)
    if b"\\u0000" in data:
        _check_nul(value)
    return value


async def _bytes(request: web.Request, limit: int, arrays: int, timeout: float, kept: Callable[[int], None]) -> bytes:
    if request.content_length is not None and request.content_length > arrays:
        raise _too_big(arrays)
    pieces: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    end = loop.time() + LONGEST * timeout
    try:
        while True:
            async with asyncio.timeout_at(min(end, loop.time() + timeout)):
                piece = await request.content.readany()
            if not piece:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if not pieces and piece.lstrip()[:1] == b"[":
                limit = arrays
            size += len(piece)
            if size > limit or (request.content_length or 0) > limit:
                raise _too_big(limit)
            pieces.append(piece)
            kept(size)
    except TimeoutError:
        raise RoutingError(
            408, f"The body did not come within {timeout:g} seconds for each piece and {LONGEST * timeout:g} for the whole", field="body"
        ) from None
    except (ClientPayloadError, web.HTTPException, ConnectionError) as error:
        raise Invalid(f"The body cannot be read: {error}", field="body") from None


def conformed(value: Any, route: Route) -> Any:
    """The body as the route's schema wants it.

    Raises:
        Invalid: it does not fit; what is missing at the top is called a missing parameter.
    """
    schema = route.body or {}
    if isinstance(value, dict) and route.body_name == "body":
        for name in schema.get("required", ()):
            if name not in value:
                raise Invalid(f"Missing mandatory parameter: {name}", field=name)
        known = schema.get("properties")
        unknown = [name for name in value if known is not None and name not in known and schema.get("additionalProperties") is False]
        if unknown:
            raise Invalid(
                f"Unexpected arguments: {', '.join(unknown)[:200]}", remedy=f"Known are: {', '.join(known or ())}.", field=unknown[0][:80]
            )
    return conform(value, schema, route.body_name)


def _too_big(limit: int) -> BodyError:
    return BodyError(413, f"The body is larger than {limit} bytes")


def _too_deep(depth: int) -> BodyError:
    return BodyError(400, f"The body is nested deeper than {depth}")


def check_depth(value: Any, depth: int) -> None:
    """Refuse what is nested deeper than `depth`; without recursion.

    Raises:
        BodyError: it is.
    """
    level = [value]
    for _ in range(depth + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(v for v in item.values() if isinstance(v, dict | list))
            elif isinstance(item, list):
                below.extend(v for v in item if isinstance(v, dict | list))
        if not below:
            return
        level = below
    raise _too_deep(depth)


def _check_numbers(data: bytes) -> None:
    """Refuse whole numbers beyond 64 bits, which would become rounded ones without a word.

    Raises:
        Invalid: there is one.
    """

    def fits(text: str) -> int:
        if len(text) > 20 or not _SMALLEST <= (number := int(text)) < _LARGEST:
            raise Invalid(f"The number {text[:40]} has more than 64 bits", remedy="Send it as a string.", field="body")
        return number

    json.loads(data, parse_int=fits)


def _check_nul(value: Any) -> None:
    """Refuse the character NUL, which PostgreSQL cannot keep in JSON."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str) and "\0" in item:
            raise Invalid("The body holds the character NUL, which cannot be stored", field="body")
        if isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
