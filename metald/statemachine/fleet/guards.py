"""Who may change or delete what in which state. Pure: a node and what is to change in, an error or nothing out.

Wire: the 409, 403 and 400 rules of PATCH and DELETE that clients of Ironic depend on. What no running workflow
reads (`reads`) may change at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metald.errors import Conflict, Invalid, NotAllowed
from metald.model import INTERFACES, Node, Port
from metald.model import ProvisionState as P
from metald.statemachine.reads import ANY

CONNECTIVITY = frozenset({"portgroup_uuid", "pxe_enabled", "local_link_connection", "physical_network"})
"""Fields of a port that say how it is wired."""

UPDATE_IN_TRANSITION = frozenset(
    {
        P.DEPLOY_FAILED,
        P.INSPECTING,
        P.INSPECT_FAILED,
        P.INSPECT_WAIT,
        P.CLEAN_FAILED,
        P.ERROR,
        P.VERIFYING,
        P.ADOPT_FAILED,
        P.RESCUE_FAILED,
        P.UNRESCUE_FAILED,
        P.SERVICE_HOLD,
        P.SERVICE_FAILED,
    }
)
"""States on the way to another in which a node may be changed all the same."""

_INTERFACE_STATES = (P.ENROLL, P.INSPECTING, P.INSPECT_WAIT, P.MANAGEABLE, P.AVAILABLE)
_CONNECTIVITY_STATES = (P.ENROLL, P.INSPECTING, P.INSPECT_WAIT, P.MANAGEABLE)
_DELETE_STATES = (P.MANAGEABLE, P.ENROLL, P.ADOPT_FAILED, P.AVAILABLE)
_INTERFACE_FIELDS = tuple(f"{kind}_interface" for kind in INTERFACES)


def check_update(node: Node, changes: Mapping[str, Any], *, read: frozenset[str] = ANY, inspecting_is_closed: bool = True) -> None:
    """Whether these fields of the node may change now.

    Args:
        node: as it is.
        changes: the fields that really change, with their new values.
        read: the fields that what is under way reads.
        inspecting_is_closed: whether a node in `inspecting` takes no change (clients that know `inspect wait`).

    Raises:
        Conflict: not in this state.
        Invalid: the fields contradict each other.
    """
    frees_instance = node.maintenance and set(changes) == {"instance_uuid"} and changes["instance_uuid"] is None
    if not frees_instance and not read.isdisjoint(changes):
        _check_transition(node, inspecting_is_closed)
    _check_interfaces(node, changes)
    _check_instance(node, changes)
    _check_flags(node, changes)


def _check_transition(node: Node, inspecting_is_closed: bool) -> None:
    if node.target_provision_state is not None and node.provision_state not in UPDATE_IN_TRANSITION:
        raise Conflict(
            f"Node {node.label} can not be updated while a state transition is in progress.",
            remedy=f"Wait until it has left the state {node.provision_state.value}, or abort.",
        )
    if node.provision_state is P.INSPECTING and inspecting_is_closed:
        raise Conflict(f'Cannot update node "{node.uuid}" while it is in state "{P.INSPECTING.value}".')


def _check_interfaces(node: Node, changes: Mapping[str, Any]) -> None:
    if "driver" in changes and node.console_enabled:
        raise Conflict(
            f"Node {node.label} can not update the driver while the console is enabled. Please stop the console first.", field="driver"
        )
    if node.provision_state in _INTERFACE_STATES or node.maintenance:
        return
    for field in _INTERFACE_FIELDS:
        if field in changes:
            raise Conflict(
                f"Node {node.uuid} can not have {field} updated unless it is in one of allowed "
                f"({', '.join(s.value for s in _INTERFACE_STATES)}) states or in maintenance mode. "
                f"Current state is '{node.provision_state.value}'.",
                field=field,
            )


def _check_instance(node: Node, changes: Mapping[str, Any]) -> None:
    if changes.get("instance_uuid") is not None and node.instance_uuid is not None:
        raise Conflict(f"Node {node.uuid} is associated with instance {node.instance_uuid}.", field="instance_uuid")
    settled = node.provision_state in _INTERFACE_STATES
    if "instance_uuid" in changes and node.allocation_uuid and not settled and not node.maintenance:
        raise Conflict(
            f"Node {node.uuid} with an allocation can not have instance_uuid removed unless it is in one of allowed "
            f"({', '.join(s.value for s in _INTERFACE_STATES)}) states or in maintenance mode. "
            f"Current state is '{node.provision_state.value}'.",
            field="instance_uuid",
        )
    if "resource_class" in changes and node.resource_class and not settled:
        raise Conflict(
            f"Node {node.uuid} can not have resource_class updated unless it is in one of allowed "
            f"({', '.join(s.value for s in _INTERFACE_STATES)}) states. Current state is '{node.provision_state.value}'.",
            field="resource_class",
        )


def _check_flags(node: Node, changes: Mapping[str, Any]) -> None:
    if changes.get("protected") and node.provision_state not in (P.ACTIVE, P.RESCUE):
        raise Conflict(
            f"Node {node.uuid} can only be made protected in provision states 'active' or 'rescue', the current state is "
            f"'{node.provision_state.value}'",
            field="protected",
        )
    if changes.get("protected_reason") and not changes.get("protected", node.protected):
        raise Invalid("The protected_reason field can only be set when protected is True", field="protected_reason")
    if changes.get("retired") and node.provision_state is P.AVAILABLE:
        raise Conflict(
            f"Node {node.uuid} can not have 'retired' set in provision state 'available', the node must be moved to 'manageable' first",
            field="retired",
        )
    if changes.get("retired_reason") and not changes.get("retired", node.retired):
        raise Invalid("The retired_reason field can only be set when retired is True", field="retired_reason")


def check_delete(node: Node) -> None:
    """Whether the node may be deleted now.

    Raises:
        Conflict: it has an instance, or is in the wrong state.
        NotAllowed: it is protected.
    """
    if not node.maintenance and node.instance_uuid is not None:
        raise Conflict(f"Node {node.uuid} is associated with instance {node.instance_uuid}.", remedy="Undeploy it first.")
    if node.protected:
        raise NotAllowed(f"Node {node.uuid} is protected and can not be undeployed, rebuilt or deleted", remedy="Unset protected first.")
    if not node.maintenance and node.provision_state not in _DELETE_STATES:
        valid = ", ".join(s.value for s in _DELETE_STATES)
        raise Conflict(
            f'Can not delete node "{node.uuid}" while it is in provision state "{node.provision_state.value}". Valid provision states to '
            f'perform deletion are: "{valid}", or set the node into maintenance mode'
        )


def check_port_update(node: Node, port: Port, changes: Mapping[str, Any], *, inspecting_is_closed: bool = True) -> None:
    """Whether these fields of a port may change while its node is as it is.

    Raises:
        Conflict: not in this state.
    """
    if node.provision_state is P.INSPECTING and inspecting_is_closed:
        raise Conflict(f'Cannot update port "{port.uuid}" while node "{node.uuid}" is in state "{P.INSPECTING.value}".')
    if node.maintenance:
        return
    if "address" in changes and (node.provision_state is P.ACTIVE or node.instance_uuid):
        raise Conflict(
            f"Cannot update hardware address for port {port.uuid} as node {node.uuid} is active or has instance UUID assigned",
            field="address",
        )
    wired = sorted(CONNECTIVITY & set(changes))
    if wired and node.provision_state not in _CONNECTIVITY_STATES:
        raise Conflict(
            f"Port {port.uuid} can not have any connectivity attributes ({', '.join(sorted(CONNECTIVITY))}) updated unless node "
            f"{node.uuid} is in a {', '.join(s.value for s in _CONNECTIVITY_STATES)} state or in maintenance mode. "
            f"The current state is {node.provision_state.value}.",
            field=wired[0],
        )
