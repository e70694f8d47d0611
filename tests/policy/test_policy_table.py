"""The table of rules against what Ironic 39's own rules answer (evaluated with oslo.policy; `ironic39.json` holds the answers)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from metald import policy
from metald.errors import NotAllowed, NotFound
from metald.model.caller import Caller

FACTS = json.loads((Path(__file__).parent / "ironic39.json").read_text())


class Thing(NamedTuple):
    owner: str | None = None
    lessee: str | None = None


def persona(label: str) -> tuple[Caller, Thing]:
    relation, role = label.split()
    roles = () if role == "none" else ("service",) if role == "elevated" else (role,)
    caller = Caller(roles=roles, system=relation == "system", project=None if relation == "system" else "mine", elevated=role == "elevated")
    return caller, Thing("mine" if relation == "owner" else "theirs", "mine" if relation == "lessee" else "others")


@pytest.mark.parametrize("label", FACTS["callers"])
def test_each_rule_answers_as_ironic_does(label: str) -> None:
    caller, thing = persona(label)
    column = FACTS["callers"].index(label)
    ours = {rule.name: policy.allows(caller, rule.name, thing) for rule in policy.RULES if rule.name in FACTS["rules"]}
    theirs = {name: row[column] == "1" for name, row in FACTS["rules"].items()}
    assert ours == theirs


def test_every_rule_is_ironics_but_what_is_said_to_be_our_own() -> None:
    own = {rule.name for rule in policy.RULES} - set(FACTS["rules"])
    assert own == {"baremetal:events:get", "metald:boots:get", "metald:metrics:get"}
    assert len({rule.name for rule in policy.RULES}) == len(policy.RULES)


def test_what_the_table_does_not_know_is_refused() -> None:
    assert not policy.allows(Caller(), "baremetal:node:fly")
    assert not policy.allows(Caller(), "")


def test_nobody_owns_what_has_no_owner() -> None:
    for caller in (Caller(roles=("admin",), system=False), Caller(roles=("admin",), system=False, project="mine")):
        assert not policy.allows(caller, "baremetal:node:get", Thing())
        assert not policy.allows(caller, "baremetal:node:get")


def test_without_a_scope_roles_are_nothing() -> None:
    caller = Caller(roles=("admin", "service"), system=False)
    assert not any(policy.allows(caller, rule.name, Thing("mine")) for rule in policy.RULES)


def test_the_administrator_may_do_all_that_anybody_may() -> None:
    narrow = {"show_password", "show_instance_secrets", "baremetal:node:delete:self_owned_node"}
    assert {rule.name for rule in policy.RULES if not policy.allows(Caller(), rule.name)} == narrow
    assert policy.unrestricted(Caller())
    assert not policy.unrestricted(Caller(roles=("member",)))
    assert not policy.unrestricted(Caller(system=False, project="mine"))


def test_refusals_speak_ironics_words() -> None:
    with pytest.raises(NotAllowed, match="Access was denied to the following resource: baremetal:node:delete"):
        policy.require(Caller(system=False, project="mine"), "baremetal:node:delete", Thing("mine"))
    with pytest.raises(NotFound, match="Node n could not be found"):
        policy.require_visible(Caller(system=False, project="mine"), Thing("theirs"), "Node n could not be found.")


def test_the_four_guarded_fields_of_a_node_are_guarded_alike() -> None:
    """Answers know one reduced form of a node, so these rules may not part."""
    rules = {rule.name: rule.who for rule in policy.RULES}
    fields = ("last_error", "reservation", "driver_info", "driver_internal_info")
    assert len({rules[f"baremetal:node:get:{name}"] for name in fields}) == 1


def test_changes_of_fields_take_their_rules() -> None:
    assert policy.node_rules([]) == ["baremetal:node:update"]
    assert policy.node_rules(["extra", "name"]) == ["baremetal:node:update_extra", "baremetal:node:update:name"]
    assert policy.node_rules(["driver", "boot_interface"]) == ["baremetal:node:update:driver_interfaces"]
    assert policy.node_rules(["automated_clean"]) == ["baremetal:node:update"]
    assert policy.node_rules(["automated_clean"], disables_cleaning=True) == ["baremetal:node:disable_cleaning"]
    assert policy.runbook_rules(["owner", "name"]) == ["baremetal:runbook:update:owner", "baremetal:runbook:update"]
    names = {rule.name for rule in policy.RULES}
    fields = ["extra", "shard", "owner", "description", "instance_name", "retired_reason", "parent_node", "disable_power_off"]
    assert set(policy.node_rules(fields)) <= names
