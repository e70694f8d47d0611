"""The dispatcher: every request over the one route table, to its handler and back.

Rules: whatever a client sends is answered with 4xx, a field and a remedy; what is not foreseen is answered 500 with the
request's id alone and logged once with everything. Every answer carries the version headers and the id. Versions are
negotiated, callers authenticated, arguments and bodies checked here and nowhere else.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from aiohttp import web
from multidict import CIMultiDict, MultiDict, MultiMapping

from metald.entropy import new_uuid
from metald.errors import Busy, MetaldError, NotFound, Unavailable, WorldError
from metald.http import auth, body, conditional, door, old_paths, problem, versions
from metald.http.call import Call, Reply, Services
from metald.http.gate import Gate
from metald.http.problem import BadCredentials, RoutingError
from metald.http.route import Route, Router
from metald.http.routes import ROUTES
from metald.http.traffic import Traffic
from metald.http.watch.stream import Stream
from metald.model.caller import Caller

_log = logging.getLogger(__name__)

_SUFFIX_UNTIL = 91
_HOST = re.compile(r"[A-Za-z0-9._~-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_GLOBAL_ID = re.compile(r"req-[0-9a-fA-F-]{36}")
_EXPOSED = f"{versions.OLD_HEADER}, {versions.MIN_HEADER}, {versions.MAX_HEADER}, ETag"
_RETRY_AFTER = "2"
_MOST_BASES = 100


class _Answer(web.Response):
    """A response that lets go of its body once it is sent: an idle connection holds on to its last response."""

    sent: Callable[[], None]
    """What to call then."""

    async def write_eof(self, data: bytes = b"") -> None:
        """See Response."""
        try:
            await super().write_eof(data)
        finally:
            self.body = None
            self.sent()


@dataclass(slots=True)
class _Incoming:
    """A request on its way to a handler. Its body is read once, also where two paths are tried."""

    request: web.Request
    version: int
    request_id: str
    named: str | None = None
    """The query argument that named the node and is read already."""
    body: Any = None
    has_body: bool = False


class Dispatcher:
    """Turns requests into calls of handlers, and what comes of them into answers.

    Args:
        services: what handlers work with.
        authenticator: finds out who calls.
        gate: is told how far each request is.
    """

    def __init__(self, services: Services, authenticator: auth.Authenticator, gate: Gate) -> None:
        self._gate = gate
        self._services = services
        self._authenticator = authenticator
        self._router = Router(ROUTES)
        self.traffic = Traffic()
        self._headers = CIMultiDict(
            {
                "Content-Type": "application/json",
                "Server": "metald",
                versions.MIN_HEADER: f"1.{versions.MIN}",
                versions.MAX_HEADER: f"1.{versions.MAX}",
            }
        )
        self._bases: dict[tuple[str, str], str] = {}
        self._forms = conditional.Forms()
        self._roots = {route.path.split("/")[2] for route in ROUTES if route.path.startswith("/v1/")}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        begun = time.perf_counter()
        protocol = request.protocol
        self._gate.taken(protocol)
        request_id = f"req-{new_uuid()}"
        headers = self._headers.copy()
        headers["x-openstack-request-id"] = headers["openstack-request-id"] = request_id
        try:
            found = await self._answer(request, headers, request_id)
            if isinstance(found, Stream):
                return await found.respond(request, headers)
            status, content = found
        except MetaldError as error:
            status, content = self._refusal(request, headers, error, request_id)
        except Exception:
            _log.exception("%s %s failed (%s)", request.method, request.path, request_id)
            status, content = 500, problem.internal(request_id)
        self.traffic.count(request.method, status, time.perf_counter() - begun)
        if not content:
            del headers["Content-Type"]
        answer = _Answer(status=status, body=content, headers=headers)
        answer.sent = partial(self._gate.answered, protocol)
        return answer

    def _refusal(self, request: web.Request, headers: CIMultiDict[str], error: MetaldError, request_id: str) -> tuple[int, bytes]:
        text = problem.text_of(error)
        level = logging.ERROR if error.status >= 500 and not isinstance(error, WorldError) else logging.INFO
        _log.log(level, "%s %s -> %d %s (%s)", request.method, request.path[:200], error.status, text[:500], request_id)
        if isinstance(error, Busy | Unavailable):
            headers["Retry-After"] = _RETRY_AFTER
        if isinstance(error, RoutingError) and error.allow:
            headers["Allow"] = error.allow
        if isinstance(error, BadCredentials):
            headers["WWW-Authenticate"] = error.challenge
            told = {"message": text, "code": error.status, "title": "Unauthorized"}
            return error.status, orjson.dumps({"error": told, "metald": problem.structured(error)})
        if error.status in (408, 413):
            headers["Connection"] = "close"
        return error.status, problem.encode(error)

    async def _answer(self, request: web.Request, headers: CIMultiDict[str], request_id: str) -> tuple[int, bytes] | Stream:
        segments = self._segments(request)
        version = versions.negotiate(request.headers)
        headers[versions.OLD_HEADER] = f"1.{version}"
        if "Origin" in request.headers:
            headers["Access-Control-Expose-Headers"] = _EXPOSED
        literal = None
        if segments and version < _SUFFIX_UNTIL and segments[-1].endswith(".json") and segments[-1] != ".json" and len(segments) > 1:
            literal = segments
            segments = [*segments[:-1], segments[-1].removesuffix(".json")]
        segments, named = old_paths.canonical(segments, request.query)
        incoming = _Incoming(request, version, request_id, named)
        try:
            return await self._run(incoming, segments, headers)
        except (NotFound, RoutingError) as error:
            if literal is None or error.status != 404:
                raise
        return await self._run(incoming, literal, headers)

    def _segments(self, request: web.Request) -> list[str]:
        raw = request.rel_url.raw_path
        if "%" in raw:
            try:
                segments = [unquote_to_bytes(part).decode() for part in raw.split("/")[1:]]
            except UnicodeDecodeError:
                raise RoutingError(400, "The path is not UTF-8", field="path") from None
        else:
            segments = raw.split("/")[1:]
        while segments and not segments[-1]:
            segments.pop()
        if segments and segments[0] != "v1" and segments[0] in self._roots:
            segments.insert(0, "v1")
        return segments

    def _route(self, request: web.Request, segments: list[str], version: int) -> tuple[Route | Mapping[str, Route], dict[str, str]]:
        found = self._router.find(segments)
        if found is None:
            if request.method != "GET" and len(segments) == 5 and segments[1] == "nodes" and segments[3] == "states":
                # Ironic's states take PUT for what they know, and its clients' suites want 405 for what they do not.
                raise RoutingError(405, remedy="The node has no such state to set.", field="path", allow=("OPTIONS",))
            raise RoutingError(404, remedy="There is no such path.", field="path")
        methods, parameters = found
        method = request.method
        if method == "OPTIONS":
            return methods, parameters
        route = methods.get("GET" if method == "HEAD" and len(segments) < 2 else method)
        if route is None:
            since = min(known.since for known in methods.values())
            if version < since:
                raise RoutingError(404, remedy=f"It needs version 1.{since}.", field=versions.OLD_HEADER)
            raise RoutingError(405, remedy=f"The path takes {', '.join(methods)}.", field="method", allow=(*methods, "OPTIONS"))
        if version < route.since and not route.policy_first:
            self._refuse_older(route, version, methods)
        return route, parameters

    @staticmethod
    def _refuse_older(route: Route, version: int, methods: Iterable[str]) -> None:
        if route.too_old == 406:
            versions.require(version, route.since)
        allow = (*methods, "OPTIONS") if route.too_old == 405 else ()
        raise RoutingError(route.too_old, remedy=f"It needs version 1.{route.since}.", field=versions.OLD_HEADER, allow=allow)

    async def _run(self, incoming: _Incoming, segments: list[str], headers: CIMultiDict[str]) -> tuple[int, bytes] | Stream:
        request, version = incoming.request, incoming.version
        route, parameters = self._route(request, segments, version)
        if not isinstance(route, Route):
            headers["Allow"] = ", ".join((*route, "OPTIONS"))
            return 200, b""
        caller = auth.PUBLIC
        if not route.public:
            caller = await self._authenticator.authenticate(request.headers, self._caller_id(request, incoming.request_id))
        args: Mapping[str, Any] = {}
        if request.rel_url.raw_query_string or route.needs_args:
            query: MultiMapping[str] = request.query
            if incoming.named is not None:
                query = MultiDict(query)
                del query[incoming.named]
            args = route.read_args(query, version)
        call = Call(self._services, route, version, self._base(request), parameters, args, caller, request.method, None, request.headers)
        call.client = request.remote or ""
        call.gone = lambda: request.transport is None or request.transport.is_closing()
        if route.body is not None:
            await self._read_body(incoming, call)
        self._gate.whole(request.protocol)
        door.check(call)
        if version < route.since:
            self._refuse_older(route, version, ())
        tag = None
        if route.stamp is not None:
            tag = self._forms.tag(call, request.rel_url.raw_query_string, route.stamp(call))
            if conditional.unchanged(call, tag):
                headers["ETag"] = tag
                return 304, b""
        result = await route.handler(call)
        if tag is not None:
            headers["ETag"] = tag
        return result if isinstance(result, Stream) else self._reply(route, result, headers)

    async def _read_body(self, incoming: _Incoming, call: Call) -> None:
        request, route, settings = incoming.request, call.route, self._services.settings.api
        if not incoming.has_body:
            incoming.body = await body.read(
                request,
                limit=getattr(settings, route.limit),
                arrays=settings.max_bulk_body if route.bulk else 0,
                depth=settings.max_depth,
                timeout=settings.body_timeout,
                kept=partial(self._gate.read, request.protocol),
            )
            incoming.has_body = True
        many = route.bulk and isinstance(incoming.body, list)
        call.body = incoming.body if many else body.conformed(incoming.body, route)

    async def perform(self, method: str, path: Sequence[str], body_: Any, caller: Caller) -> None:
        """Do what a request of the newest version would, for who brings commands by another way.

        Args:
            method: the request's method.
            path: the segments below `/v1`.
            body_: the decoded body; None where there is none.
            caller: who asks.

        Raises:
            MetaldError: what the request would be refused with.
        """
        found = self._router.find(["v1", *path])
        route = None if found is None else found[0].get(method)
        if found is None or route is None:
            raise RoutingError(404, remedy="There is no such path.", field="path")
        call = Call(self._services, route, versions.MAX, "", found[1], {}, caller, method)
        if route.body is not None:
            given = {} if body_ is None else body_
            body.check_depth(given, self._services.settings.api.max_depth)
            call.body = body.conformed(given, route)
        door.check(call)
        await route.handler(call)

    @staticmethod
    def problem(error: MetaldError) -> bytes:
        """The JSON object that a request would be refused with."""
        return problem.encode(error)

    @staticmethod
    def _reply(route: Route, result: Any, headers: CIMultiDict[str]) -> tuple[int, bytes]:
        if isinstance(result, bytes):
            return route.status, result
        if isinstance(result, Reply):
            if result.location is not None:
                headers["Location"] = result.location
            headers.update(result.headers)
            return result.status or route.status, result.body
        return route.status, b"" if result is None else orjson.dumps(result)

    def _base(self, request: web.Request) -> str:
        if self._services.settings.api.public_url:
            return self._services.settings.api.public_url.rstrip("/")
        host = request.host
        base = self._bases.get((request.scheme, host))
        if base is not None:
            return base
        if _HOST.fullmatch(host) is None or len(host) > 255:
            raise RoutingError(400, "The Host header is not a host", field="Host")
        if len(self._bases) > _MOST_BASES:
            self._bases.clear()
        base = self._bases[request.scheme, host] = f"{request.scheme}://{host}"
        return base

    @staticmethod
    def _caller_id(request: web.Request, request_id: str) -> str:
        given = request.headers.get("X-OpenStack-Request-ID", "")
        return given if _GLOBAL_ID.fullmatch(given) else request_id


DISPATCHER = web.AppKey("dispatcher", Dispatcher)
"""Where an application keeps its dispatcher, for other ways in than HTTP."""
