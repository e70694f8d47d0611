"""Chassis: groups of nodes in one enclosure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from metald.errors import Invalid, NotFound
from metald.model import Chassis, Event, Node
from metald.model.caller import Caller
from metald.store.changes import Change
from metald.store.store import Store


class ChassisRoom:
    """The chassis of the fleet.

    Args:
        store: the state.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, uuid: str) -> Chassis:
        """The chassis with this UUID.

        Raises:
            NotFound: there is none.
        """
        found = self._store.table(Chassis).get(uuid)
        if found is None:
            raise NotFound(f"Chassis {uuid} could not be found.", field="chassis")
        return found

    async def create(self, fields: Mapping[str, Any], caller: Caller) -> Chassis:
        """Add a chassis.

        Raises:
            Duplicate: the UUID is taken.
        """
        chassis = Chassis(**{name: value for name, value in fields.items() if value is not None})
        event = Event(type="chassis.create", subject=chassis.uuid, user=caller.user)
        saved: Chassis = (await self._store.commit(Change(save=[chassis], events=[event]))).saved[0]  # type: ignore[assignment]
        return saved

    async def update(self, uuid: str, edit: Callable[[Chassis], Mapping[str, Any]], caller: Caller) -> Chassis:
        """Change a chassis.

        Raises:
            NotFound: there is no such chassis.
        """
        async with self._store.owning(uuid):
            chassis = self.find(uuid)
            wanted = {name: {} if name == "extra" and value is None else value for name, value in edit(chassis).items()}
            changes = {name: value for name, value in wanted.items() if getattr(chassis, name) != value}
            if not changes:
                return chassis
            event = Event(type="chassis.update", subject=uuid, user=caller.user, data={"fields": sorted(changes)})
            committed = await self._store.commit(Change(save=[chassis.changed(**changes)], events=[event]))
            saved: Chassis = committed.saved[0]  # type: ignore[assignment]
            return saved

    async def delete(self, uuid: str, caller: Caller) -> None:
        """Remove an empty chassis.

        Raises:
            NotFound: there is no such chassis.
            Invalid: it holds nodes.
        """
        async with self._store.owning(uuid):
            chassis = self.find(uuid)
            if self._store.table(Node).where("chassis_uuid", uuid):
                raise Invalid(f"Cannot complete the requested action because chassis {uuid} contains nodes.")
            event = Event(type="chassis.delete", subject=uuid, user=caller.user)
            await self._store.commit(Change(delete=[chassis], events=[event]))
