"""Nodes: create, change, delete; traits, maintenance, the wanted RAID.

Changing is read-modify-commit under the node's own lock (`Store.owning`), so that neither a workflow's step nor another
request is overwritten. The lock is held for the moment of the commit only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from metald.config import Settings
from metald.drivers.registry import Registry
from metald.errors import Conflict, Invalid, NotFound
from metald.model import INTERFACES, Chassis, Conductor, Event, Internals, Node, Port, Resource, Workflow, new_uuid
from metald.model.caller import Caller
from metald.model.catalogue import Allocation
from metald.model.inventory import Inventory
from metald.statemachine.admission import busy
from metald.statemachine.fleet import guards
from metald.statemachine.fleet.catalogue import OF_NODES
from metald.statemachine.reads import ANY, read_by
from metald.store.changes import Change
from metald.store.store import Store

Edit = Callable[[Node], Mapping[str, Any]]
"""Looks at a node as it is and returns the fields to set; None for a field without a null form means its default."""

MAX_TRAITS = 50
_DEFAULTS = {f.name: f for f in msgspec.structs.fields(Node)}
_PARTS: tuple[type[Resource], ...] = (Port, Workflow, Internals, Inventory, *OF_NODES)


class Nodes:
    """The nodes of the fleet.

    Args:
        store: the state.
        registry: hardware types and interfaces.
        settings: how long a change waits for a node that is busy.
    """

    def __init__(self, store: Store, registry: Registry, settings: Settings) -> None:
        self._store = store
        self._registry = registry
        self._settings = settings

    def find(self, ident: str) -> Node:
        """The node with this UUID or name.

        Raises:
            NotFound: there is none.
        """
        nodes = self._store.table(Node)
        found = nodes.get(ident) or nodes.by("name", ident)
        if found is None:
            raise NotFound(f"Node {ident} could not be found.", field="node")
        return found

    def prepared(self, fields: Mapping[str, Any]) -> Node:
        """A node that may be added. Interfaces that are not named become the hardware type's defaults.

        Args:
            fields: fields of the node; `driver` at least.

        Raises:
            Invalid: the driver, an interface, the chassis, the parent or the conductor group does not fit.
        """
        node = Node(**{"uuid": new_uuid(), **_filled(fields)})
        self._check_driver(node)
        self._check_relatives(node)
        node = msgspec.structs.replace(node, **self._interfaces(node))
        self._registry.check(node)
        return node

    async def add(self, node: Node, caller: Caller) -> Node:
        """Add a node that was prepared.

        Raises:
            Duplicate: the name, UUID or instance UUID is taken.
        """
        event = Event(type="node.create", node_uuid=node.uuid, user=caller.user, data={"name": node.name, "driver": node.driver})
        committed = await self._store.commit(Change(save=[node], events=[event]))
        return self._node(committed.saved[0])

    async def create(self, fields: Mapping[str, Any], caller: Caller) -> Node:
        """Prepare a node and add it; see there."""
        return await self.add(self.prepared(fields), caller)

    async def update(
        self, uuid: str, edit: Edit, caller: Caller, *, reset_interfaces: bool = False, inspecting_is_closed: bool = True
    ) -> Node:
        """Change fields of a node, all or none.

        Args:
            uuid: which node.
            edit: says what to set, from what is there.
            caller: who asks.
            reset_interfaces: whether a new driver brings its own default interfaces for those that are not set.
            inspecting_is_closed: see `guards.check_update`.

        Raises:
            NotFound: there is no such node.
            Conflict: not in this state; `Busy` while a workflow that reads the fields runs.
            Invalid: the result does not fit together.
            Duplicate: the name or instance UUID is taken.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.api.lock_wait
        while True:
            async with self._store.owning(uuid):
                node = self.find(uuid)
                changes = self._changes(node, edit, reset_interfaces)
                read = self._read(node)
                refusal: Conflict | None = None
                try:
                    guards.check_update(node, changes, read=read, inspecting_is_closed=inspecting_is_closed)
                except Conflict as error:
                    if node.reservation is None:
                        raise
                    refusal = error
                if refusal is None and (node.reservation is None or read.isdisjoint(changes)):
                    return await self._save(node, changes, caller)
            await self._until_free(node, deadline, refusal)

    def _changes(self, node: Node, edit: Edit, reset_interfaces: bool) -> dict[str, Any]:
        wanted = _filled(edit(node))
        changes = {name: value for name, value in wanted.items() if getattr(node, name) != value}
        if changes.get("maintenance") is False:
            changes |= {"maintenance_reason": None, "fault": None}
        for flag in ("protected", "retired"):
            if changes.get(flag) is False:
                changes[f"{flag}_reason"] = None
        if "driver" in changes and reset_interfaces:
            changes |= {f"{kind}_interface": None for kind in INTERFACES if f"{kind}_interface" not in wanted}
        if "instance_info" in changes and "instance_name" not in wanted and not node.instance_name:
            name = changes["instance_info"].get("display_name")
            if isinstance(name, str) and 0 < len(name) <= 255:
                changes["instance_name"] = name
        return changes

    async def _save(self, node: Node, changes: dict[str, Any], caller: Caller) -> Node:
        if not changes:
            return node
        after: Node = node.changed(**changes)
        if "driver" in changes or any(f"{kind}_interface" in changes for kind in INTERFACES):
            self._check_driver(after)
            after = msgspec.structs.replace(after, **self._interfaces(after))
            self._registry.check(after)
        if "conductor_group" in changes:
            self._check_driver(after)
        if "chassis_uuid" in changes or "parent_node" in changes:
            self._check_relatives(after)
        event = Event(type="node.update", node_uuid=node.uuid, user=caller.user, data={"fields": sorted(changes)})
        change = Change(save=[after], events=[event, *([_maintenance(after, caller)] if "maintenance" in changes else [])])
        claim = self._claim(node)
        if claim is not None and after.instance_uuid != claim.uuid:
            # Whoever takes the instance away by hand lets go of the claim that gave it.
            change.save[0] = msgspec.structs.replace(after, allocation_uuid=None)
            change.delete.append(claim)
            change.events.append(Event(type="allocation.delete", node_uuid=node.uuid, subject=claim.uuid, user=caller.user))
        committed = await self._store.commit(change)
        return self._node(committed.saved[0])

    def _claim(self, node: Node) -> Allocation | None:
        return self._store.table(Allocation).get(node.allocation_uuid) if node.allocation_uuid else None

    def _read(self, node: Node) -> frozenset[str]:
        """The fields that what is under way reads; all that any workflow reads where nobody knows what that is."""
        known = read_by(self._store.table(Workflow).where("node_uuid", node.uuid))
        return known or ANY

    async def _until_free(self, node: Node, deadline: float, refusal: Conflict | None = None) -> None:
        """Wait until no workflow owns the node.

        Raises:
            Conflict: one still does at the deadline: the refusal, or `Busy` in Ironic's words.
        """
        loop = asyncio.get_running_loop()
        while True:
            now = self._store.table(Node).get(node.uuid)
            if now is None or now.reservation is None:
                return
            if not await self._store.watches.changed(node.uuid, deadline - loop.time()):
                raise refusal or busy(node, now.reservation)

    async def delete(self, uuid: str, caller: Caller, check: Callable[[Node], None] = lambda _node: None) -> None:
        """Remove a node with its ports, its workflows and its claim.

        Args:
            uuid: which node.
            caller: who asks.
            check: looks at the node as it is, and raises when it shall stay.

        Raises:
            NotFound: there is no such node.
            Conflict: it has an instance, is in the wrong state, or is busy.
            NotAllowed: it is protected.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.api.lock_wait
        while True:
            async with self._store.owning(uuid):
                node = self.find(uuid)
                check(node)
                guards.check_delete(node)
                if node.reservation is None:
                    parts = [part for kind in _PARTS for part in self._store.table(kind).where("node_uuid", uuid)]
                    # whose it was is told with it: nobody can look that up any more
                    data = {"name": node.name, "owner": node.owner, "lessee": node.lessee, "shard": node.shard}
                    events = [Event(type="node.delete", node_uuid=uuid, user=caller.user, data=data)]
                    claim = self._claim(node)
                    if claim is not None:
                        parts.append(claim)
                        events.insert(0, Event(type="allocation.delete", node_uuid=uuid, subject=claim.uuid, user=caller.user))
                    await self._store.commit(Change(delete=[*parts, node], events=events))
                    return
            await self._until_free(node, deadline)

    async def set_maintenance(self, uuid: str, on: bool, reason: str | None, caller: Caller) -> None:
        """Take a node out of service or back; coming back clears the reason and the fault.

        Raises:
            NotFound: there is no such node.
        """
        async with self._store.owning(uuid):
            node = self.find(uuid)
            fields: dict[str, Any] = {"maintenance": on, "maintenance_reason": reason if on else None}
            if not on:
                fields["fault"] = None
            after = node.changed(**fields)
            await self._store.commit(Change(save=[after], events=[_maintenance(after, caller)]))

    async def set_traits(self, uuid: str, edit: Callable[[list[str]], list[str]], caller: Caller) -> Node:
        """Change the traits of a node.

        Args:
            uuid: which node.
            edit: from the traits as they are to the traits as they shall be.
            caller: who asks.

        Raises:
            NotFound: there is no such node.
            Invalid: there would be too many.
            Busy: a workflow drives the node's instance, and still did after a short wait.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.api.lock_wait
        while True:
            async with self._store.owning(uuid):
                node = self.find(uuid)
                traits = sorted(set(edit(list(node.traits))))
                if len(traits) > MAX_TRAITS:
                    raise Invalid(f"Error setting traits: a node may have at most {MAX_TRAITS} of them, not {len(traits)}.", field="traits")
                if node.reservation is None or node.instance_uuid is None:
                    event = Event(type="node.update", node_uuid=uuid, user=caller.user, data={"fields": ["traits"]})
                    committed = await self._store.commit(Change(save=[node.changed(traits=traits)], events=[event]))
                    return self._node(committed.saved[0])
            await self._until_free(node, deadline)

    def _interfaces(self, node: Node) -> dict[str, str | None]:
        """Every interface that is not named, by its default."""
        chosen: dict[str, str | None] = {}
        for kind in INTERFACES:
            if node.interface(kind) is None and self._registry.supported(node.driver, kind):
                chosen[f"{kind}_interface"] = self._registry.default(node.driver, kind)
        return chosen

    def _check_driver(self, node: Node) -> None:
        groups = {c.conductor_group for c in self._store.table(Conductor)} or {""}
        if node.conductor_group not in groups:
            raise Invalid(
                f"No valid host was found. Reason: No conductor service registered which supports driver {node.driver} for conductor "
                f'group "{node.conductor_group}".',
                remedy="Ensure a conductor of that group runs; the groups are under /v1/conductors.",
                field="conductor_group",
            )
        self._registry.hardware_type(node.driver)

    def _check_relatives(self, node: Node) -> None:
        if node.chassis_uuid is not None and self._store.table(Chassis).get(node.chassis_uuid) is None:
            raise Invalid(f"Chassis {node.chassis_uuid} could not be found.", field="chassis_uuid")
        if node.parent_node is not None:
            if node.parent_node == node.uuid:
                raise Invalid(f"Node {node.uuid} can not be its own parent.", field="parent_node")
            if self._store.table(Node).get(node.parent_node) is None:
                raise Invalid(f"Node {node.parent_node} could not be found.", field="parent_node")

    @staticmethod
    def _node(resource: Resource) -> Node:
        if not isinstance(resource, Node):
            raise Conflict("The store returned something that is not a node.")
        return resource


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with null replaced by the default where the field has no null form."""
    found = dict(fields)
    for name, value in fields.items():
        if value is None:
            spec = _DEFAULTS[name]
            default = spec.default if spec.default is not msgspec.NODEFAULT else spec.default_factory()
            found[name] = default if default is not msgspec.NODEFAULT else None
    if "conductor_group" in found:
        found["conductor_group"] = found["conductor_group"].lower()
    return found


def _maintenance(node: Node, caller: Caller) -> Event:
    """What tells of a node that a client has taken out of service, or back."""
    data = {"maintenance": node.maintenance, "reason": node.maintenance_reason, "fault": node.fault}
    return Event(type="node.maintenance", node_uuid=node.uuid, user=caller.user, data=data)
