"""What of a resource is shown: which fields, since which version, in which form, and the bytes of it.

Rendering is cached: a resource is frozen, and its id and version are never used again for anything else. So the bytes for
one microversion, base and choice of fields are made once and joined into lists afterwards. The cache is bounded by the
number of such variants and by its size in bytes; what is over is thrown away as a whole, which costs one rendering of each
resource that is asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar

import orjson

from metald.errors import Invalid, NotAcceptable
from metald.http.versions import MAX
from metald.model import Resource

R = TypeVar("R", bound=Resource)

_BUDGET = 48 << 20
_OVERHEAD = 150
"""What an entry takes beside its bytes."""
_MOST_VARIANTS = 16


@dataclass(frozen=True, slots=True)
class Field(Generic[R]):
    """One field of a resource as clients see it."""

    name: str
    since: int = 1
    get: Callable[[R, int], Any] | None = None
    """Its value for a version; by default the attribute of that name."""
    sortable: bool = True
    """Whether lists may be sorted by it: plain columns may."""
    schema: Any = None
    """Its JSON Schema, for the OpenAPI document."""


_Key = tuple[int, str, tuple[str, ...] | None]


class View(Generic[R]):
    """How one kind of resource is shown.

    Args:
        resource: the path of its collection below `/v1/`.
        key: the name of the array in a collection.
        fields: every field, in the order of answers.
        default: what a plain list shows.
        links: link arrays for the full form beside `links`: name, since, sub-path.
        ident: what the URL of one resource ends with.
        unknown: how a field that there is not is refused.
        newer_is_unknown: whether a field that is newer than the version is refused as if there were none.
    """

    def __init__(
        self,
        resource: str,
        key: str,
        fields: Sequence[Field[R]],
        default: Sequence[str],
        *,
        links: Sequence[tuple[str, int, str]] = (),
        ident: Callable[[R], str] = attrgetter("uuid"),
        unknown: str = 'Field(s) "{}" are not valid',
        newer_is_unknown: bool = False,
    ) -> None:
        self.resource = resource
        self.key = key
        self.fields = {f.name: f for f in fields}
        self.default = tuple(default)
        self.links = tuple(links)
        self.ident = ident
        self.unknown = unknown
        self.newer_is_unknown = newer_is_unknown
        self._variants: dict[_Key, dict[int, tuple[int, bytes]]] = {}
        self._size = 0
        self._plans: dict[tuple[int, tuple[str, ...] | None], list[tuple[str, Callable[[R], Any]]]] = {}

    def check(self, names: Iterable[str], version: int) -> tuple[str, ...]:
        """The chosen fields, with each known and not newer than the version.

        Raises:
            Invalid: a field does not exist.
            NotAcceptable: a field is newer.
        """
        chosen = tuple(name for name in names if name != "links")
        for name in chosen:
            if name not in self.fields or (self.newer_is_unknown and self.fields[name].since > version):
                raise Invalid(self.unknown.format(name[:80]), remedy=f"Known are: {', '.join(self.fields)}.", field="fields")
        for name in chosen:
            if self.fields[name].since > version:
                raise NotAcceptable(
                    "Request not acceptable.", remedy=f"Field {name} needs version 1.{self.fields[name].since}.", field="fields"
                )
        return chosen

    def one(self, thing: R, version: int, base: str, names: tuple[str, ...] | None = None) -> bytes:
        """The JSON of one resource.

        Args:
            thing: the resource, as the store gave it.
            version: the request's version.
            base: what links begin with.
            names: the fields to show, None for all that the version knows.
        """
        return self.many((thing,), version, base, names)[0]

    def many(self, things: Sequence[R], version: int, base: str, names: tuple[str, ...] | None) -> list[bytes]:
        """The JSON of each of some resources; see `one`."""
        kept = self._variant((version, base, names))
        bodies: list[bytes] = []
        for thing in things:
            entry = kept.get(thing.id)
            if entry is None or entry[0] != thing.version:
                # Copied, because orjson's own object keeps the memory of its buffer, which is several times as large.
                body = bytes(memoryview(orjson.dumps(self.document(thing, version, base, names))))
                self._size += len(body) + _OVERHEAD - (len(entry[1]) + _OVERHEAD if entry is not None else 0)
                entry = kept[thing.id] = (thing.version, body)
            bodies.append(entry[1])
        if self._size > _BUDGET:
            self._variants.clear()
            self._size = 0
        return bodies

    def _variant(self, key: _Key) -> dict[int, tuple[int, bytes]]:
        kept = self._variants.get(key)
        if kept is None:
            if len(self._variants) >= _MOST_VARIANTS:
                oldest = self._variants.pop(next(iter(self._variants)))
                self._size -= sum(len(body) + _OVERHEAD for _, body in oldest.values())
            kept = self._variants[key] = {}
        return kept

    def forget(self, thing: R) -> None:
        """Drop what is kept of a resource that is gone."""
        for kept in self._variants.values():
            entry = kept.pop(thing.id, None)
            if entry is not None:
                self._size -= len(entry[1]) + _OVERHEAD

    def document(self, thing: R, version: int, base: str, names: tuple[str, ...] | None = None) -> dict[str, Any]:
        """What `one` makes into JSON."""
        found = {name: get(thing) for name, get in self._plan(version, names)}
        ident = self.ident(thing)
        found["links"] = self.link(base, ident)
        if names is None:
            for name, since, path in self.links:
                if version >= since:
                    found[name] = self.link(base, f"{ident}/{path}")
        return found

    def link(self, base: str, ident: str) -> list[dict[str, str]]:
        """The `links` of one resource."""
        return [
            {"href": f"{base}/v1/{self.resource}/{ident}", "rel": "self"},
            {"href": f"{base}/{self.resource}/{ident}", "rel": "bookmark"},
        ]

    def _plan(self, version: int, names: tuple[str, ...] | None) -> list[tuple[str, Callable[[R], Any]]]:
        plan = self._plans.get((version, names))
        if plan is None:
            chosen = self.fields if names is None else names
            plan = [(name, self._getter(self.fields[name], version)) for name in chosen if self.fields[name].since <= version <= MAX]
            if len(self._plans) < 1000:
                self._plans[version, names] = plan
        return plan

    @staticmethod
    def _getter(field: Field[R], version: int) -> Callable[[R], Any]:
        get = field.get
        if get is None:
            return attrgetter(field.name)
        return lambda thing: get(thing, version)
