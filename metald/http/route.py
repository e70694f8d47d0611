"""Routes: the one declaration from which routing, version rules, argument and body checks, policy and OpenAPI are made.

A path is matched segment by segment; a fixed segment wins over a parameter. Nothing here knows a resource.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from multidict import MultiMapping

from metald.errors import Invalid
from metald.http import values, versions
from metald.http.call import Call
from metald.http.schema import Schema

Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a query argument is read, and how OpenAPI tells of it."""

    read: Callable[[str, str], Any]
    schema: Schema


TEXT = Kind(values.text, {"type": "string"})
BOOLEAN = Kind(values.boolean, {"type": "boolean"})
INTEGER = Kind(values.integer, {"type": "integer"})
UUID = Kind(values.uuid_text, {"type": "string", "format": "uuid"})
IDENTIFIER = Kind(values.identifier, {"type": "string"})
MAC = Kind(values.mac, {"type": "string"})
WORDS = Kind(values.words, {"type": "array", "items": {"type": "string"}})


@dataclass(frozen=True, slots=True)
class Arg:
    """A query argument."""

    name: str
    kind: Kind = TEXT
    since: int = versions.MIN
    """Older versions answer 406."""
    required: bool = False


PAGING: tuple[Arg, ...] = (Arg("limit", INTEGER), Arg("marker", UUID), Arg("sort_key"), Arg("sort_dir"))
FIELDS = Arg("fields", WORDS)
DETAIL = Arg("detail", BOOLEAN)


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path."""

    method: str
    path: str
    """Template below the root, such as `/v1/nodes/{node}`."""
    handler: Handler
    summary: str
    since: int = versions.MIN
    too_old: int = 404
    """How a request with an older version is answered: 404, 405 or 406."""
    policy_first: bool = False
    """Whether who may not call is told so before the version is looked at."""
    args: tuple[Arg, ...] = ()
    body: Schema | None = None
    body_name: str = "body"
    status: int = 200
    also: tuple[int, ...] = ()
    """Other statuses of a success, which the handler chooses."""
    policy: str = ""
    """Name of the rule that says who may call, in Ironic's words."""
    public: bool = False
    """Whether nobody is asked who they are."""
    versioned: bool = True
    """Whether it answers to microversions (everything of Ironic's does)."""
    limit: str = "max_body"
    """The setting of `api` that says how many bytes the body may have."""
    answer: str = ""
    """Name of the answer's schema in the OpenAPI document, where it is a resource or a list of them; others are in `answers`."""
    stamp: Callable[[Call], str] | None = None
    """Names the state that the answer shows; makes its entity tag (see `conditional`)."""
    bulk: bool = False
    """Whether the body may also be an array of what `body` describes, which the handler checks item by item."""
    honours: tuple[str, ...] = ()
    """Further request headers that the handler heeds, such as `If-Match`."""
    content_type: str = "application/json"
    """What the answer is, for the OpenAPI document; another one than JSON the handler sets itself."""
    by_name: Mapping[str, Arg] = field(init=False, repr=False)
    needs_args: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {arg.name: arg for arg in self.args})
        object.__setattr__(self, "needs_args", any(arg.required for arg in self.args))

    def read_args(self, query: MultiMapping[str], version: int) -> dict[str, Any]:
        """The query arguments in their types.

        Raises:
            Invalid: one is unknown, given twice, missing or wrong.
            NotAcceptable: one is newer than the version.
        """
        found: dict[str, Any] = {}
        unknown = [name for name in query if name not in self.by_name]
        if unknown:
            known = ", ".join(self.by_name)
            raise Invalid(
                f"Unexpected arguments: {values.shown(', '.join(dict.fromkeys(unknown)))[1:-1]}",
                remedy=f"Known are: {known}." if known else "It takes none.",
                field=unknown[0][:80],
            )
        for name in dict.fromkeys(query):
            arg = self.by_name[name]
            given = query.getall(name)
            if len(given) > 1 and arg.kind is not WORDS:
                raise Invalid(f"Argument {name} is given {len(given)} times", field=name)
            versions.require(version, arg.since)
            found[name] = arg.kind.read(name, ",".join(given))
        for arg in self.args:
            if arg.required and arg.name not in found:
                raise Invalid(f"Missing mandatory parameter: {arg.name}", field=arg.name)
        return found


class _Place:
    """A position in the tree of paths."""

    __slots__ = ("fixed", "methods", "parameter")

    def __init__(self) -> None:
        self.fixed: dict[str, _Place] = {}
        self.parameter: tuple[str, _Place] | None = None
        self.methods: dict[str, Route] = {}


class Router:
    """Finds the routes of a path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Place()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        place = self._root
        for segment in route.path.strip("/").split("/") if route.path != "/" else ():
            if segment.startswith("{"):
                if place.parameter is None:
                    place.parameter = (segment[1:-1], _Place())
                if place.parameter[0] != segment[1:-1]:
                    raise ValueError(f"{route.path}: the parameter is called {place.parameter[0]} elsewhere")
                place = place.parameter[1]
            else:
                place = place.fixed.setdefault(segment, _Place())
        if route.method in place.methods:
            raise ValueError(f"{route.method} {route.path} is declared twice")
        place.methods[route.method] = route

    def find(self, segments: list[str]) -> tuple[Mapping[str, Route], dict[str, str]] | None:
        """The routes of a path by method, and the path's parameters; None when there is no such path."""
        place = self._root
        parameters: dict[str, str] = {}
        for segment in segments:
            following = place.fixed.get(segment)
            if following is None:
                if place.parameter is None:
                    return None
                name, following = place.parameter
                parameters[name] = segment
            place = following
        return (place.methods, parameters) if place.methods else None
