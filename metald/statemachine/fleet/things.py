"""Plain resources: create, change and delete with one check each, one transaction each, and the event that tells of it.

A kind of resource is a subclass that says its words and what it admits. Whatever belongs to a node is changed while
holding that node, everything else while holding itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from metald.errors import NotFound
from metald.model import Event, Resource
from metald.model.caller import Caller
from metald.store.changes import Change
from metald.store.store import Store

R = TypeVar("R", bound=Resource)


class Things(Generic[R]):
    """All resources of one kind.

    Args:
        store: the state.
        kind: their class.
        noun: what error texts call one of them.
        word: what the types of their events begin with.
    """

    def __init__(self, store: Store, kind: type[R], noun: str, word: str) -> None:
        self._store = store
        self._kind = kind
        self._noun = noun
        self._word = word
        self._specs = {field.name: field for field in msgspec.structs.fields(kind)}

    def find(self, ident: str) -> R:
        """The one with this UUID, or this name where they have names.

        Raises:
            NotFound: there is none.
        """
        table = self._store.table(self._kind)
        found = table.get(ident)
        if found is None and "name" in self._specs:
            found = table.by("name", ident)
        if found is None:
            raise self.missing(ident)
        return found

    def missing(self, ident: str) -> NotFound:
        """What is said where there is none of this name."""
        return NotFound(f"{self._noun} {ident} could not be found.", field=self._word)

    def admit(self, before: R | None, after: R | None) -> Change:
        """Whether `before` may become `after` (None: it is made, or goes away).

        Returns:
            What else is to change in the same transaction.

        Raises:
            Conflict: not now.
            Invalid: never.
        """
        del before, after
        return Change()

    async def create(self, fields: Mapping[str, Any], caller: Caller) -> R:
        """Add one.

        Raises:
            Duplicate: a unique value is taken.
            Invalid: it is not admitted.
        """
        thing = self._kind(**self.filled(fields))
        async with self._store.owning(self._lock(thing)):
            return await self._commit(None, thing, caller, {})

    async def update(self, uuid: str, edit: Callable[[R], Mapping[str, Any]], caller: Caller) -> R:
        """Change fields, all or none.

        Raises:
            NotFound: there is none of this UUID.
            Conflict: not now.
            Invalid: the result is not admitted.
            Duplicate: a unique value is taken.
        """
        async with self._store.owning(self._lock(self.find(uuid))):
            before = self.find(uuid)
            wanted = self.filled(edit(before))
            changes = {name: value for name, value in wanted.items() if getattr(before, name) != value}
            if not changes:
                return before
            return await self._commit(before, before.changed(**changes), caller, {"fields": sorted(changes)})

    async def delete(self, uuid: str, caller: Caller, check: Callable[[R], None] = lambda _thing: None) -> None:
        """Remove one.

        Args:
            uuid: which one.
            caller: who asks.
            check: looks at it as it is, and raises when it shall stay.

        Raises:
            NotFound: there is none of this UUID.
            Conflict: not now.
            Invalid: something depends on it.
        """
        async with self._store.owning(self._lock(self.find(uuid))):
            thing = self.find(uuid)
            check(thing)
            change = self.admit(thing, None)
            change.delete.append(thing)
            change.events.append(self._event("delete", thing, caller, {}))
            await self._store.commit(change)

    async def _commit(self, before: R | None, after: R, caller: Caller, data: dict[str, Any]) -> R:
        change = self.admit(before, after)
        change.save.insert(0, after)
        change.events.append(self._event("create" if before is None else "update", after, caller, data))
        saved: R = (await self._store.commit(change)).saved[0]  # type: ignore[assignment]
        return saved

    def _event(self, verb: str, thing: R, caller: Caller, data: dict[str, Any]) -> Event:
        owner = getattr(thing, "node_uuid", None)
        return Event(type=f"{self._word}.{verb}", node_uuid=owner, subject=thing.uuid, user=caller.user, data=data)

    @staticmethod
    def _lock(thing: R) -> str:
        owner: str | None = getattr(thing, "node_uuid", None)
        return owner or thing.uuid

    def filled(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Fields with null replaced by the default where there is one."""
        found = dict(fields)
        for name, value in fields.items():
            if value is None:
                spec = self._specs[name]
                if spec.default is not msgspec.NODEFAULT:
                    found[name] = spec.default
                elif spec.default_factory is not msgspec.NODEFAULT:
                    found[name] = spec.default_factory()
        return found
