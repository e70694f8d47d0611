"""Chassis: groups of nodes in one enclosure."""

from __future__ import annotations

from metald.errors import Invalid
from metald.model import Chassis, Node
from metald.statemachine.fleet.things import Things
from metald.store.changes import Change
from metald.store.store import Store


class ChassisRoom(Things[Chassis]):
    """The chassis of the fleet."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, Chassis, "Chassis", "chassis")

    def admit(self, before: Chassis | None, after: Chassis | None) -> Change:
        """See Things."""
        if before is not None and after is None and self._store.table(Node).where("chassis_uuid", before.uuid):
            raise Invalid(f"Cannot complete the requested action because chassis {before.uuid} contains nodes.")
        return Change()
