"""Collections of plain resources: a description in, six to eight routes out.

A kind of resource is described once (`Collection`); listing, showing, creating, changing and deleting are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from metald.errors import Invalid, NotAcceptable
from metald.http import conditional, listing, patch, sight, values
from metald.http.call import Call, Reply
from metald.http.fields import View
from metald.http.problem import RoutingError
from metald.http.route import DETAIL, FIELDS, IDENTIFIER, PAGING, Arg, Route
from metald.http.schema import Schema, conform
from metald.http.views import Views
from metald.model import Node, Resource
from metald.statemachine.fleet import Fleet
from metald.statemachine.fleet.things import Things

R = TypeVar("R", bound=Resource)


def _as_it_is(_call: Call, fields: dict[str, Any], _before: Any) -> dict[str, Any]:
    return fields


@dataclass(frozen=True, kw_only=True)
class Collection(Generic[R]):
    """How one kind of resource is served."""

    kind: type[R]
    path: str
    """Below `/v1/`, such as `deploy_templates`."""
    noun: str
    """Name of the path's parameter, and of the body in error texts."""
    policy: str
    view: Callable[[Views], View[R]]
    room: Callable[[Fleet], Things[R]]
    create: Schema
    patchable: Mapping[str, Schema]
    since: int
    named: bool = True
    """Whether a name serves as an identifier."""
    too_old: int = 405
    """How writes of older versions are answered; reads are 404."""
    detail_since: int = 43
    filters: tuple[Arg, ...] = ()
    filtered: Callable[[Call, Iterable[R]], Iterable[R]] = field(default=lambda _call, things: things)
    checked: Callable[[Call, dict[str, Any], R | None], dict[str, Any]] = _as_it_is
    """Looks at the fields of a body, and at the resource that they change, and returns what to store."""
    listed_in_detail: bool = False
    """Whether there is a `/detail` list."""
    reduced: Callable[[Call], View[R] | None] = lambda _call: None
    """The view for callers who do not see all of one; None: the view of everybody."""
    list_policy: str = "get"
    """The last word of the rule for lists."""
    markers_are_names: bool = False
    """Whether a page begins after a name, too; one that there is not is then answered 404 and not 400."""
    full_by_default: bool = False
    """Whether a plain list shows every field."""

    def shown(self, call: Call) -> View[R]:
        """The view for the caller."""
        return self.reduced(call) or self.view(call.services.views)

    def find(self, call: Call) -> R:
        """The resource that the path names.

        Raises:
            NotFound: there is none.
            RoutingError: it is no identifier.
        """
        given = call.path[self.noun]
        uuid = values.as_uuid(given)
        if uuid is None and not (self.named and values.is_name(given)):
            raise RoutingError(
                400, f"Expected UUID{' or name' if self.named else ''} for {self.noun}: {values.bare(given)}", field=self.noun
            )
        found = self.room(call.services.fleet).find(uuid or given)
        if not sight.sees(call, found):
            raise self.room(call.services.fleet).missing(uuid or given)
        return found

    def stamp(self, call: Call) -> str:
        """The state of the resource that the path names."""
        return conditional.stamp_of(self.find(call))

    def refuse_newer(self, call: Call, names: Iterable[str]) -> None:
        """Refuse fields that the version does not know (406)."""
        known = self.view(call.services.views).fields
        for name in names:
            if name in known and known[name].since > call.version:
                raise NotAcceptable("Request not acceptable.", remedy=f"Field {name} needs version 1.{known[name].since}.", field=name)

    async def post(self, call: Call) -> Reply:
        """Create one."""
        body = {name: value for name, value in call.body.items() if not (name == "uuid" and value is None)}
        self.refuse_newer(call, [name for name, value in body.items() if value not in (None, "", [], {})])
        thing = await self.room(call.services.fleet).create(self.checked(call, body, None), call.caller)
        body_bytes = self.shown(call).one(thing, call.version, call.base)
        return Reply(body_bytes, location=call.url(f"{self.path}/{thing.uuid}"))

    async def index(self, call: Call) -> bytes:
        """List them."""
        view = self.shown(call)
        names = listing.chosen_fields(call, view, detail=call.args.get("detail"), since_detail=self.detail_since)
        if self.full_by_default and "fields" not in call.args:
            names = None
        return self.page(call, call.services.store.table(self.kind), names)

    async def index_details(self, call: Call) -> bytes:
        """List them with every field."""
        return self.page(call, call.services.store.table(self.kind), None, f"{self.path}/detail")

    def page(self, call: Call, things: Iterable[R], names: tuple[str, ...] | None, path: str | None = None) -> bytes:
        """One page of those that pass the filters of the request."""
        marker = listing.find_marker(call, self.kind, self.noun.replace("_", " ").capitalize(), named=self.named and self.markers_are_names)
        view = self.shown(call)
        shown = sight.seen(call, self.filtered(call, things), self.kind)
        return listing.page(call, view, shown, names, path=path or self.path, marker=marker)

    async def show(self, call: Call) -> bytes:
        """Show one."""
        thing = self.find(call)
        view = self.shown(call)
        names = view.check(call.args["fields"], call.version) if call.args else None
        return view.one(thing, call.version, call.base, names)

    async def patch(self, call: Call) -> bytes:
        """Change one by a JSON patch."""
        changes = patch.read(call.body, tuple(sorted(self.patchable)))
        self.refuse_newer(call, changes.roots)
        thing = self.find(call)
        required = self.create.get("required", ())

        def edit(current: R) -> dict[str, Any]:
            conditional.expect(call, current)
            after = changes.apply({root: getattr(current, root, None) for root in changes.roots})
            gone = [root for root in changes.roots if root in required and after.get(root) is None]
            if gone:
                raise Invalid(f"'{gone[0]}' is a mandatory attribute and can not be removed", field=gone[0])
            wanted = {root: conform(after.get(root), self.patchable[root], root) for root in changes.roots if root in after}
            wanted |= {root: None for root in changes.roots if root not in after}
            return self.checked(call, wanted, current)

        saved = await self.room(call.services.fleet).update(thing.uuid, edit, call.caller)
        return self.shown(call).one(saved, call.version, call.base)

    async def delete(self, call: Call) -> None:
        """Delete one."""
        thing = self.find(call)
        await self.room(call.services.fleet).delete(thing.uuid, call.caller, lambda current: conditional.expect(call, current))
        self.view(call.services.views).forget(thing)

    def routes(self) -> tuple[Route, ...]:
        """The routes of the collection."""
        return (*self._lists(), *self._changes(), *self._of_one())

    @property
    def _paging(self) -> tuple[Arg, ...]:
        if not self.markers_are_names:
            return PAGING
        return tuple(replace(arg, kind=IDENTIFIER) if arg.name == "marker" else arg for arg in PAGING)

    def _lists(self) -> list[Route]:
        many, words = f"/v1/{self.path}", self.noun.replace("_", " ")
        plain = Route(
            "GET",
            many,
            self.index,
            f"List {words}s",
            since=self.since,
            args=(*self._paging, FIELDS, DETAIL, *self.filters),
            policy=f"{self.policy}:{self.list_policy}",
            answer=f"{self.noun}_list",
            stamp=conditional.Tables(self.kind, Node),
        )
        if not self.listed_in_detail:
            return [plain]
        summary, args = f"List {words}s with all fields", (*self._paging, *self.filters)
        return [plain, replace(plain, path=f"{many}/detail", handler=self.index_details, summary=summary, args=args)]

    def _of_one(self) -> list[Route]:
        return [
            Route(
                "GET",
                f"/v1/{self.path}/{{{self.noun}}}",
                self.show,
                f"Show a {self.noun.replace('_', ' ')}",
                since=self.since,
                args=(FIELDS,),
                policy=f"{self.policy}:get",
                answer=self.noun,
                stamp=self.stamp,
            )
        ]

    def _changes(self) -> list[Route]:
        many, words = f"/v1/{self.path}", self.noun.replace("_", " ")
        one = f"{many}/{{{self.noun}}}"
        create = Route(
            "POST",
            many,
            self.post,
            f"Create a {words}",
            since=self.since,
            too_old=self.too_old,
            body=self.create,
            body_name=self.noun,
            status=201,
            policy=f"{self.policy}:create",
            answer=self.noun,
        )
        delete = Route(
            "DELETE",
            one,
            self.delete,
            f"Delete a {words}",
            since=self.since,
            too_old=self.too_old,
            status=204,
            policy=f"{self.policy}:delete",
            honours=("If-Match",),
        )
        change = replace(
            delete,
            method="PATCH",
            handler=self.patch,
            summary=f"Change a {words}",
            body=patch.SCHEMA,
            body_name="patch",
            status=200,
            policy=f"{self.policy}:update",
            answer=self.noun,
        )
        return [create, change, delete]
