"""Ports: the network cards of nodes. A MAC address belongs to one port of the whole fleet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from metald.errors import Conflict, Invalid, NotFound
from metald.model import Event, Node, Port
from metald.model.caller import Caller
from metald.model.catalogue import Portgroup
from metald.statemachine.fleet import guards
from metald.statemachine.fleet.nodes import Nodes
from metald.store.changes import Change
from metald.store.store import Store

_DEFAULTS = {f.name: f for f in msgspec.structs.fields(Port)}


class Ports:
    """The ports of the fleet.

    Args:
        store: the state.
        nodes: whose they are.
    """

    def __init__(self, store: Store, nodes: Nodes) -> None:
        self._store = store
        self._nodes = nodes

    def find(self, ident: str) -> Port:
        """The port with this UUID or name.

        Raises:
            NotFound: there is none.
        """
        ports = self._store.table(Port)
        found = ports.get(ident) or ports.by("name", ident)
        if found is None:
            raise NotFound(f"Port {ident} could not be found.", field="port")
        return found

    async def create(self, fields: Mapping[str, Any], caller: Caller) -> Port:
        """Add a port to a node.

        Args:
            fields: fields of the port; `node_uuid` and `address` at least.
            caller: who asks.

        Raises:
            Invalid: there is no such node, or the fields do not fit together.
            Duplicate: the address, the name or the UUID is taken.
        """
        port = Port(**_filled(fields))
        async with self._store.owning(port.node_uuid):
            self._owner(port)
            self._check(port)
            event = Event(type="port.create", node_uuid=port.node_uuid, subject=port.uuid, user=caller.user, data={"address": port.address})
            change = Change(save=[port, *self._joined(port)], events=[event])
            saved: Port = (await self._store.commit(change)).saved[0]  # type: ignore[assignment]
            return saved

    async def update(
        self, uuid: str, edit: Callable[[Port], Mapping[str, Any]], caller: Caller, *, inspecting_is_closed: bool = True
    ) -> Port:
        """Change a port.

        Raises:
            NotFound: there is no such port.
            Conflict: not while its node is in this state.
            Invalid: the result does not fit together.
            Duplicate: the address or the name is taken.
        """
        async with self._store.owning(self.find(uuid).node_uuid):
            port = self.find(uuid)
            changes = {name: value for name, value in _filled(edit(port)).items() if getattr(port, name) != value}
            if not changes:
                return port
            guards.check_port_update(self._owner(port), port, changes, inspecting_is_closed=inspecting_is_closed)
            after: Port = port.changed(**changes)
            self._owner(after)
            self._check(after)
            event = Event(type="port.update", node_uuid=after.node_uuid, subject=uuid, user=caller.user, data={"fields": sorted(changes)})
            joined = self._joined(after) if changes.keys() & {"portgroup_uuid", "physical_network"} else []
            saved: Port = (await self._store.commit(Change(save=[after, *joined], events=[event]))).saved[0]  # type: ignore[assignment]
            return saved

    async def delete(self, uuid: str, caller: Caller, check: Callable[[Port], None] = lambda _port: None) -> None:
        """Remove a port.

        Args:
            uuid: which port.
            caller: who asks.
            check: looks at the port as it is, and raises when it shall stay.

        Raises:
            NotFound: there is no such port.
            Conflict: a tenant network is attached to it.
        """
        async with self._store.owning(self.find(uuid).node_uuid):
            port = self.find(uuid)
            check(port)
            node = self._owner(port)
            if port.internal_info.get("tenant_vif_port_id") and not node.maintenance:
                raise Conflict(
                    f"Cannot delete the port {uuid} as node {node.uuid} has the VIF {port.internal_info['tenant_vif_port_id']} "
                    "attached to it."
                )
            event = Event(type="port.delete", node_uuid=node.uuid, subject=uuid, user=caller.user, data={"address": port.address})
            await self._store.commit(Change(delete=[port], events=[event]))

    def _check(self, port: Port) -> None:
        if port.is_smartnic and port.local_link_connection and not {"port_id", "hostname"} <= set(port.local_link_connection):
            raise Invalid("Smart NIC ports must have port_id and hostname in local_link_connection", field="local_link_connection")
        if port.portgroup_uuid is None:
            return
        group = self._store.table(Portgroup).get(port.portgroup_uuid)
        if group is None:
            raise Invalid(f"Portgroup {port.portgroup_uuid} could not be found.", field="portgroup_uuid")
        if group.node_uuid != port.node_uuid:
            raise Invalid(f"Port {port.uuid} and its portgroup {group.uuid} must be of the same node.", field="portgroup_uuid")
        if port.pxe_enabled and not group.standalone_ports_supported:
            raise Conflict(
                f"Port {port.uuid} can not boot as a member of portgroup {group.uuid}, which does not support standalone ports.",
                remedy="Set pxe_enabled to false.",
                field="pxe_enabled",
            )
        self._check_network(port, group)

    def _others(self, port: Port) -> list[Port]:
        return [p for p in self._store.table(Port).where("portgroup_uuid", port.portgroup_uuid) if p.uuid != port.uuid]

    def _check_network(self, port: Port, group: Portgroup) -> None:
        networks = {other.physical_network for other in self._others(port)}
        if not networks and group.physical_network is not None:
            networks = {group.physical_network}
        if networks and networks != {port.physical_network}:
            raise Conflict(
                f"Port with physical network {port.physical_network} cannot become a member of port group {group.uuid} which has ports "
                f"in physical network {', '.join(sorted(map(str, networks)))}.",
                remedy="All ports of a port group are on one physical network.",
                field="physical_network",
            )

    def _joined(self, port: Port) -> list[Portgroup]:
        """The group that takes on the network of its first port."""
        group = self._store.table(Portgroup).get(port.portgroup_uuid) if port.portgroup_uuid else None
        if group is None or group.physical_network is not None or port.physical_network is None or self._others(port):
            return []
        return [group.changed(physical_network=port.physical_network)]

    def _owner(self, port: Port) -> Node:
        try:
            return self._nodes.find(port.node_uuid)
        except NotFound as error:
            raise Invalid(error.message, field="node_uuid") from None


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(fields)
    for name, value in fields.items():
        if value is None:
            spec = _DEFAULTS[name]
            if spec.default is not msgspec.NODEFAULT:
                found[name] = spec.default
            elif spec.default_factory is not msgspec.NODEFAULT:
                found[name] = spec.default_factory()
    return found
