"""What of a resource is shown: which fields, since which version, in which form, and the bytes of it.

Rendering is cached: a resource is frozen, so the bytes for one version, base and choice of fields are made once and
joined into lists afterwards. The cache is bounded by its size in bytes; what is over is thrown away as a whole, which
costs one rendering of each resource that is asked for again.
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

_BUDGET = 64 << 20


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
    ) -> None:
        self.resource = resource
        self.key = key
        self.fields = {f.name: f for f in fields}
        self.default = tuple(default)
        self.links = tuple(links)
        self.ident = ident
        self._unknown = unknown
        self._cache: dict[str, tuple[R, dict[_Key, bytes]]] = {}
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
            if name not in self.fields:
                raise Invalid(self._unknown.format(name[:80]), remedy=f"Known are: {', '.join(self.fields)}.", field="fields")
        for name in chosen:
            if self.fields[name].since > version:
                raise NotAcceptable(
                    "Request not acceptable.", remedy=f"Field {name} needs version 1.{self.fields[name].since}.", field="fields"
                )
        return chosen

    def one(self, thing: R, version: int, base: str, names: tuple[str, ...] | None = None) -> bytes:
        """The JSON of one resource.

        Args:
            thing: the resource.
            version: the request's version.
            base: what links begin with.
            names: the fields to show, None for all that the version knows.
        """
        cached = self._cache.get(thing.uuid)
        if cached is None or cached[0] is not thing:
            if cached is not None:
                self._size -= sum(map(len, cached[1].values()))
            cached = self._cache[thing.uuid] = (thing, {})
        key = (version, base, names)
        body = cached[1].get(key)
        if body is None:
            body = orjson.dumps(self.document(thing, version, base, names))
            self._keep(cached[1], key, body)
        return body

    def _keep(self, variants: dict[_Key, bytes], key: _Key, body: bytes) -> None:
        self._size += len(body)
        if self._size > _BUDGET:
            self._cache.clear()
            self._size = 0
            return
        variants[key] = body
        if len(variants) > 4:
            oldest = next(iter(variants))
            self._size -= len(variants.pop(oldest))

    def forget(self, uuid: str) -> None:
        """Drop what is kept of a resource that is gone."""
        cached = self._cache.pop(uuid, None)
        if cached is not None:
            self._size -= sum(map(len, cached[1].values()))

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
