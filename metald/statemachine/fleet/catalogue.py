"""Port groups, volumes, templates, runbooks and rules: what each admits."""

from __future__ import annotations

from typing import Any

from metald.errors import Conflict, Invalid
from metald.model import Node, Port, PowerState, ProvisionState, Resource
from metald.model.catalogue import DeployTemplate, InspectionRule, Portgroup, Runbook, VolumeConnector, VolumeTarget
from metald.statemachine.fleet.things import R, Things
from metald.store.changes import Change
from metald.store.store import Store

_MOVABLE = (ProvisionState.ENROLL, ProvisionState.INSPECTING, ProvisionState.INSPECT_WAIT, ProvisionState.MANAGEABLE)


def _owner(store: Store, thing: Any) -> Node:
    node = store.table(Node).get(thing.node_uuid)
    if node is None:
        raise Invalid(f"Node {thing.node_uuid} could not be found.", field="node_uuid")
    return node


class Portgroups(Things[Portgroup]):
    """The port groups of the fleet."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, Portgroup, "Portgroup", "portgroup")

    def admit(self, before: Portgroup | None, after: Portgroup | None) -> Change:
        """See Things."""
        ports = self._store.table(Port).where("portgroup_uuid", before.uuid) if before is not None else []
        if after is None:
            if ports:
                raise Invalid(f"Cannot complete the requested action because portgroup {before and before.uuid} contains ports.")
            return Change()
        node = _owner(self._store, after)
        if before is not None and before.node_uuid != after.node_uuid:
            if ports:
                raise Invalid(f"Portgroup {after.uuid} can not be associated with node {node.uuid} because there are ports in it.")
            if node.provision_state not in _MOVABLE and not node.maintenance:
                raise Conflict(
                    f"Portgroup {after.uuid} can not be associated to node {node.uuid} unless the node is in a "
                    f"{', '.join(_MOVABLE)} state or in maintenance mode. Current state is '{node.provision_state.value}'.",
                    field="node_uuid",
                )
        if after.standalone_ports_supported is False and any(port.pxe_enabled for port in ports):
            raise Conflict(f"Portgroup {after.uuid} has ports that boot, so standalone ports must be supported.")
        return Change(save=_moved(before, after, ports))


def _moved(before: Portgroup | None, after: Portgroup, ports: list[Port]) -> list[Resource]:
    """The ports that come along when their group is put on another physical network."""
    if before is None or before.physical_network == after.physical_network:
        return []
    return [port.changed(physical_network=after.physical_network) for port in ports]


class Volumes(Things[R]):
    """Volume connectors or targets. They change while their node is off."""

    def admit(self, before: R | None, after: R | None) -> Change:
        """See Things."""
        node = _owner(self._store, after if after is not None else before)
        if before is not None and node.power_state is not PowerState.OFF:
            action = "deletion" if after is None else "update"
            raise Invalid(
                f'The requested action "{self._noun.lower()} {action}" can not be performed on node "{node.uuid}" while it is in state '
                f'"{node.power_state.value if node.power_state else None}".',
                remedy="Power the node off first.",
            )
        return Change()


class Stepped(Things[R]):
    """Templates and runbooks: no step twice."""

    def admit(self, before: R | None, after: R | None) -> Change:
        """See Things."""
        del before
        seen = set()
        for step in getattr(after, "steps", ()):
            name = (step["interface"], step["step"])
            if name in seen:
                raise Invalid(
                    "Duplicate deploy steps. A template cannot have multiple deploy steps with the same interface and step. "
                    f"Duplicates: interface: {name[0]}, step: {name[1]}.",
                    field="steps",
                )
            seen.add(name)
        return Change()


class Catalogue:
    """Everything that is kept beside machines.

    Args:
        store: the state.
    """

    def __init__(self, store: Store) -> None:
        self.portgroups = Portgroups(store)
        self.connectors: Volumes[VolumeConnector] = Volumes(store, VolumeConnector, "Volume connector", "volume_connector")
        self.targets: Volumes[VolumeTarget] = Volumes(store, VolumeTarget, "Volume target", "volume_target")
        self.templates: Stepped[DeployTemplate] = Stepped(store, DeployTemplate, "Deploy template", "deploy_template")
        self.runbooks: Stepped[Runbook] = Stepped(store, Runbook, "Runbook", "runbook")
        self.rules: Things[InspectionRule] = Things(store, InspectionRule, "Inspection rule", "inspection_rule")


OF_NODES: tuple[type[Resource], ...] = (Portgroup, VolumeConnector, VolumeTarget)
"""What goes away with its node."""
