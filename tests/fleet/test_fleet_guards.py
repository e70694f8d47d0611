"""Who may change or delete what in which state."""

from __future__ import annotations

from typing import Any

import pytest

from metald.errors import Conflict, Invalid, NotAllowed
from metald.model import Node, Port, ProvisionState
from metald.statemachine.fleet import guards
from metald.statemachine.table import STABLE

P = ProvisionState
TRANSIENT = [s for s in P if s not in STABLE]
OPEN = {
    P.DEPLOY_FAILED, P.INSPECTING, P.INSPECT_FAILED, P.INSPECT_WAIT, P.CLEAN_FAILED, P.ERROR, P.VERIFYING,
    P.ADOPT_FAILED, P.RESCUE_FAILED, P.UNRESCUE_FAILED, P.SERVICE_HOLD, P.SERVICE_FAILED,
}  # fmt: skip


def node(state: ProvisionState = P.AVAILABLE, **fields: Any) -> Node:
    target = None if state in STABLE else P.ACTIVE
    return Node(driver="d", provision_state=state, **{"target_provision_state": target, **fields})


def refused(subject: Node, changes: dict[str, Any], **more: Any) -> type[Exception] | None:
    try:
        guards.check_update(subject, changes, **more)
    except (Conflict, Invalid) as error:
        return type(error)
    return None


@pytest.mark.parametrize("state", list(P))
def test_what_a_workflow_reads_changes_only_outside_transitions(state: ProvisionState) -> None:
    closed = state not in STABLE and state not in OPEN
    for field in ("driver_info", "instance_info", "properties", "network_data", "instance_uuid"):
        expected = Conflict if closed or state is P.INSPECTING else None
        assert refused(node(state), {field: {"a": 1}}) is expected
    assert refused(node(state), {"driver_info": {}}, inspecting_is_closed=False) is (Conflict if closed else None)
    for field in ("extra", "description", "owner", "name", "maintenance", "shard", "automated_clean"):
        assert refused(node(state), {field: "x"}) is None, field


def test_an_instance_is_freed_in_maintenance_whatever_happens() -> None:
    stuck = node(P.DEPLOYING, maintenance=True, instance_uuid="i")
    assert refused(stuck, {"instance_uuid": None}) is None
    assert refused(stuck, {"instance_uuid": None, "instance_info": {}}) is Conflict
    assert refused(node(P.DEPLOYING, instance_uuid="i"), {"instance_uuid": None}) is Conflict


def test_an_instance_is_not_replaced() -> None:
    assert refused(node(instance_uuid="i"), {"instance_uuid": "j"}) is Conflict
    assert refused(node(instance_uuid="i"), {"instance_uuid": None}) is None
    assert refused(node(P.ACTIVE, instance_uuid="i", allocation_uuid="i"), {"instance_uuid": None}) is Conflict


@pytest.mark.parametrize("state", [P.ENROLL, P.MANAGEABLE, P.AVAILABLE, P.ACTIVE, P.ERROR, P.CLEAN_FAILED, P.INSPECT_WAIT])
def test_interfaces_and_class_change_early_in_life(state: ProvisionState) -> None:
    early = state in (P.ENROLL, P.MANAGEABLE, P.AVAILABLE, P.INSPECT_WAIT)
    assert refused(node(state), {"boot_interface": "x"}) is (None if early else Conflict)
    assert refused(node(state, maintenance=True), {"boot_interface": "x"}) is None
    assert refused(node(state, resource_class="a"), {"resource_class": "b"}) is (None if early else Conflict)
    assert refused(node(state), {"resource_class": "b"}) is None


def test_flags_and_their_reasons() -> None:
    assert refused(node(P.ACTIVE), {"protected": True, "protected_reason": "x"}) is None
    assert refused(node(P.MANAGEABLE), {"protected": True}) is Conflict
    assert refused(node(P.ACTIVE), {"protected_reason": "x"}) is Invalid
    assert refused(node(P.ACTIVE, protected=True), {"protected_reason": "x"}) is None
    assert refused(node(P.AVAILABLE), {"retired": True}) is Conflict
    assert refused(node(P.ACTIVE), {"retired": True, "retired_reason": "x"}) is None
    assert refused(node(P.ACTIVE), {"retired_reason": "x"}) is Invalid
    assert refused(node(P.MANAGEABLE, console_enabled=True), {"driver": "x"}) is Conflict


@pytest.mark.parametrize("state", list(P))
def test_nodes_are_deleted_in_four_states_or_in_maintenance(state: ProvisionState) -> None:
    if state in (P.ENROLL, P.MANAGEABLE, P.AVAILABLE, P.ADOPT_FAILED):
        guards.check_delete(node(state))
    else:
        with pytest.raises(Conflict, match="Can not delete node"):
            guards.check_delete(node(state))
    guards.check_delete(node(state, maintenance=True, instance_uuid="i"))
    with pytest.raises(NotAllowed):
        guards.check_delete(node(state, maintenance=True, protected=True))
    with pytest.raises(Conflict, match="associated"):
        guards.check_delete(node(state, instance_uuid="i"))


@pytest.mark.parametrize("state", list(P))
def test_ports_are_rewired_only_before_a_node_is_handed_out(state: ProvisionState) -> None:
    port = Port(node_uuid="n", address="m")
    for field in guards.CONNECTIVITY:
        early = state in (P.ENROLL, P.INSPECT_WAIT, P.MANAGEABLE)
        try:
            guards.check_port_update(node(state), port, {field: "x"})
            assert early
        except Conflict:
            assert not early
    guards.check_port_update(node(state, maintenance=True), port, {"address": "x"}, inspecting_is_closed=False)
    if state is not P.INSPECTING:
        guards.check_port_update(node(state), port, {"extra": {}})
