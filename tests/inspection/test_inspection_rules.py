"""The rule engine without a daemon: operators, templates, loops, actions, order, masking."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metald.errors import InspectionError, Invalid
from metald.model import Node, Port
from metald.model.catalogue import InspectionRule
from metald.statemachine.inspection import nics, operators, rules
from metald.statemachine.inspection.actions import ACTIONS
from metald.statemachine.inspection.operators import OPERATORS
from metald.statemachine.inspection.subject import Subject
from metald.statemachine.inspection.templates import Scope

INVENTORY: dict[str, Any] = {
    "cpu": {"count": 8, "flags": ["vmx", "aes"]},
    "memory": {"physical_mb": 16384},
    "bmc_address": "192.0.2.9",
    "bmc_password": "hush",
    "disks": [{"name": "/dev/sda", "size": 10}, {"name": "/dev/sdb", "size": 20}],
    "nothing": None,
    "empty": [],
}
MAC = "52:54:00:00:00:01"


def subject(**node: Any) -> Subject:
    made = Node(driver="fake-hardware", **node)
    port = Port(node_uuid=made.uuid, address=MAC)
    return Subject(nics.complete(made), [nics.complete(port)], copy.deepcopy(INVENTORY), {"list": [1]})


def rule(*actions: dict[str, Any], conditions: list[dict[str, Any]] | None = None, **more: Any) -> InspectionRule:
    return InspectionRule(actions=list(actions), conditions=conditions or [], **more)


def act(op: str, *args: Any, **more: Any) -> dict[str, Any]:
    return {"op": op, "args": list(args), **more}


def holds(op: str, args: Any, **more: Any) -> bool:
    one = rule(act("set-attribute", "extra/yes", "1"), conditions=[{"op": op, "args": args, **more}])
    return bool(rules.run([one], subject()))


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        ("eq", [["{inventory[cpu][count]}", 8, "8"]], True),
        ("eq", [["a", "b"]], False),
        ("eq", {"values": [1, "1"], "force_strings": True}, True),
        ("eq", [[True, "true"]], True),
        ("lt", [[4, "{inventory[cpu][count]}", "16"]], True),
        ("gt", [["{inventory[memory][physical_mb]}", "9999"]], True),
        ("gt", [["9", "10"]], True),
        ("is-empty", ["{inventory[empty]}"], True),
        ("is-empty", ["{inventory[cpu]}"], False),
        ("is-empty", [""], True),
        ("in-net", ["{inventory[bmc_address]}", "192.0.2.0/24"], True),
        ("in-net", {"address": "2001:db8::1", "subnet": "192.0.2.0/24"}, False),
        ("matches", ["{inventory[bmc_address]}", r"192\..*"], True),
        ("matches", ["abc", "ab"], False),
        ("contains", ["abc", "b"], True),
        ("contains", ["abc", "^b"], False),
        ("one-of", ["{inventory[cpu][count]}", ["4", "8"]], True),
        ("one-of", {"value": "x", "values": ["y"]}, False),
        ("is-none", ["{inventory[nothing]}"], True),
        ("is-none", ["{inventory[missing]}"], False),
        ("is-true", ["Yes"], True),
        ("is-true", ["{inventory[cpu][count]}"], True),
        ("is-true", ["no"], False),
        ("is-false", [0], True),
        ("is-false", ["{inventory[nothing]}"], True),
        ("is-false", ["other"], False),
    ],
)
def test_operators_and_their_negation(op: str, args: Any, expected: bool) -> None:
    assert holds(op, args) is expected
    assert holds(f"!{op}", args) is not expected
    assert holds(f"! {op}", args) is not expected


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("lt", [[{}, 1]]),
        ("eq", ["text"]),
        ("in-net", ["x", "192.0.2.0/24"]),
        ("in-net", ["192.0.2.1", "y"]),
        ("matches", ["a", "("]),
        ("one-of", ["a", "abc"]),
    ],
)
def test_conditions_that_cannot_be_checked_fail_the_inspection(op: str, args: Any) -> None:
    with pytest.raises(InspectionError, match="Inspection rule"):
        holds(op, args)


@pytest.mark.parametrize(
    ("loop", "multiple", "expected"),
    [
        ([1, 8], None, True),
        ([1, 8], "any", True),
        ([1, 8], "all", False),
        ([8, "8"], "all", True),
        ([1, 8], "first", True),
        ([8, 1], "last", False),
        ([1, 8], "last", True),
        ("{inventory[empty]}", "any", False),
        ("{inventory[empty]}", "all", True),
        ("{inventory[empty]}", "last", False),
        ({"a": 8}, "any", False),
    ],
)
def test_loops_of_conditions(loop: Any, multiple: str | None, expected: bool) -> None:
    more = {} if multiple is None else {"multiple": multiple}
    assert holds("eq", [["{item}", "{inventory[cpu][count]}"]], loop=loop, **more) is expected


def test_loops_of_actions_and_their_items() -> None:
    found = subject()
    looped = act("set-attribute", "/extra/{item[name]}", "{item[size]} GB", loop="{inventory[disks]}")
    looped["args"] = {"path": "extra.{item[size]}", "value": "{item[name]}"}
    one = rule(
        looped, act("extend-attribute", "extra/list", "{item}", loop=["a", "b"]), act("set-capability", "{item[k]}", "v", loop={"k": "c"})
    )
    rules.run([one], found)
    assert found.node["extra"] == {"10": "/dev/sda", "20": "/dev/sdb", "list": ["a", "b"]}
    assert found.node["properties"] == {"capabilities": "c:v"}
    with pytest.raises(InspectionError, match="leads to no list"):
        rules.run([rule(act("fail", "x", loop="{inventory[cpu][count]}"))], found)


def test_actions_change_the_node() -> None:
    found = subject(extra={"a": {"b": 1}, "l": [1]}, properties={"capabilities": "x:1,y:2"}, traits=["CUSTOM_OLD"], owner="me")
    rules.run(
        [
            rule(
                act("set-attribute", "/extra/a/c", 2),
                act("del-attribute", "extra.a.b"),
                act("extend-attribute", "extra.l", 1, True),
                act("extend-attribute", "extra.l", 1),
                act("del-attribute", "owner"),
                act("unset-capability", "x"),
                act("unset-capability", "z"),
                act("set-capability", "y", "3"),
                act("add-trait", "CUSTOM_NEW"),
                act("remove-trait", "CUSTOM_OLD"),
                act("remove-trait", "CUSTOM_NONE"),
                act("set-plugin-data", "a.b", "{inventory[cpu][count]}"),
                act("extend-plugin-data", "list", 2),
                act("extend-plugin-data", "fresh.list", 2),
                act("unset-plugin-data", "a.none"),
                act("set-port-attribute", MAC, "local_link_connection/port_id", "p1"),
                act("extend-port-attribute", MAC, "extra/tags", "t"),
                act("del-port-attribute", MAC, "physical_network"),
                act("log", "hello {inventory[bmc_password]}", "WARNING"),
            )
        ],
        found,
    )
    assert found.node["extra"] == {"a": {"c": 2}, "l": [1, 1]}
    assert found.node["owner"] is None
    assert found.node["properties"]["capabilities"] == "y:3"
    assert found.node["traits"] == ["CUSTOM_NEW"]
    assert found.plugin_data == {"a": {"b": "8"}, "list": [1, 2], "fresh": {"list": [2]}}
    assert found.ports[0]["local_link_connection"] == {"port_id": "p1"}
    assert found.ports[0]["extra"] == {"tags": ["t"]}
    assert found.said == [("warning", "hello ***")]


@pytest.mark.parametrize(
    "action",
    [
        act("fail", "stop"),
        act("log", "x", "loud"),
        act("set-attribute", "uuid", "x"),
        act("set-attribute", "provision_state", "active"),
        act("set-attribute", "traits", ["x"]),
        act("set-attribute", "extra//x", 1),
        act("set-attribute", "owner/x/y", 1),
        act("extend-attribute", "extra/a", 1),
        act("del-attribute", "extra/none/x"),
        act("del-attribute", "extra/none"),
        act("add-trait", "bogus"),
        act("set-port-attribute", "nobody", "extra/a", 1),
        act("set-port-attribute", MAC, "address", "x"),
        act("del-port-attribute", MAC, "extra/none"),
        act("api-call", "http://192.0.2.1/"),
        act("set-attribute", "x"),
    ],
)
def test_actions_that_cannot_be_done_fail_the_inspection(action: dict[str, Any]) -> None:
    with pytest.raises(InspectionError, match="Inspection rule"):
        rules.run([rule(action)], subject(extra={"a": 1}, owner="text"))


def test_a_whole_field_of_the_wrong_kind_does_not_break_the_rules_after_it() -> None:
    with pytest.raises(InspectionError, match="not an object"):
        rules.run([rule(act("set-attribute", "properties", "x"), act("set-capability", "a", "b"))], subject())


def test_priority_age_and_phase_decide_the_order() -> None:
    found = subject()
    order = [
        rule(act("extend-attribute", "extra/o", "low"), priority=1, id=1),
        rule(act("extend-attribute", "extra/o", "young"), priority=5, id=3),
        rule(act("extend-attribute", "extra/o", "old"), priority=5, id=2, phase=None),
        rule(act("fail", "x"), phase="early", id=4),
    ]
    applied = rules.run(order, found)
    assert found.node["extra"]["o"] == ["old", "young", "low"]
    assert applied == [order[2].uuid, order[1].uuid, order[0].uuid]


def test_a_rule_sees_what_the_ones_before_it_did() -> None:
    found = subject()
    first = rule(act("set-plugin-data", "a", "1"), priority=2)
    second = rule(act("set-attribute", "extra/a", "{plugin_data[a]}{node.extra[b]}"), priority=1)
    rules.run([second, first], found)
    assert found.node["extra"]["a"] == "{plugin_data[a]}{node.extra[b]}"
    found.node["extra"]["b"] = "2"
    rules.run([second, first], found)
    assert found.node["extra"]["a"] == "12"


@pytest.mark.parametrize(
    ("mask", "sensitive", "seen"),
    [("always", True, "***"), ("sensitive", False, "***"), ("sensitive", True, "hush"), ("never", False, "hush")],
)
def test_who_sees_secrets(mask: str, sensitive: bool, seen: str) -> None:
    found = subject()
    one = rule(
        act("set-attribute", "extra/a", "{inventory[bmc_password]}"),
        act("set-attribute", "extra/b", "{inventory}"),
        act("set-attribute", "extra/c", "{item[bmc_password]}", loop=["{inventory}"]),
        sensitive=sensitive,
    )
    rules.run([one], found, mask=mask)
    assert found.node["extra"]["a"] == found.node["extra"]["c"] == seen
    assert ("hush" in found.node["extra"]["b"]) is (seen == "hush")


def test_what_went_wrong_in_a_sensitive_rule_is_not_told() -> None:
    found = subject()
    with pytest.raises(InspectionError) as caught:
        rules.run([rule(act("fail", "it was {inventory[bmc_address]}"), sensitive=True)], found)
    assert "192.0.2.9" not in str(caught.value)
    rules.run([rule(act("log", "it was {inventory[bmc_address]}"), sensitive=True)], found)
    assert "192.0.2.9" not in str(found.said)
    with pytest.raises(InspectionError, match=r"password=\*+"):
        rules.run([rule(act("fail", "password=hush"))], found)


def test_rules_are_checked_before_they_are_kept() -> None:
    rules.check([{"op": "! eq", "args": [[1, 2]]}], [act("fail", "x")])
    for conditions, actions in (
        ([{"op": "!!eq", "args": [[]]}], [act("fail", "x")]),
        ([{"op": "near", "args": [[]]}], [act("fail", "x")]),
        ([{"op": "eq", "args": [[], False, 3]}], [act("fail", "x")]),
        ([], [act("explode")]),
        ([], [act("fail")]),
    ):
        with pytest.raises(Invalid):
            rules.check(conditions, actions)


def test_places_never_lead_into_objects() -> None:
    scope = Scope({"node": {"a": [1]}, "inventory": {}}, mask=True)
    for text in (
        "{node.__class__}",
        "{node[a].append}",
        "{node.a.__len__}",
        "{node[a][x]}",
        "{node[a][9]}",
        "{}",
        "{0}",
        "{node!r}",
        "{node:>9}",
        "{",
        "}",
        "{a.b",
        "{node..a}",
    ):
        assert scope.value(text) == text
        assert scope.text(text) == text
    assert scope.value("{node[a]}") == [1]
    assert scope.text("{node[a][0]}-{node.a[0]}") == "1-1"
    assert scope.text("{{x}}") == "{x}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=8,
)
PLACES = st.sampled_from(
    [
        "{inventory}",
        "{inventory[cpu][count]}",
        "{item}",
        "{plugin_data[list]}",
        "{node.extra}",
        "{",
        "extra/a",
        "extra.a.b",
        MAC,
        "CUSTOM_A",
        "properties",
    ]
)
VALUES = st.one_of(PLACES, st.text(max_size=12), JSON)


@st.composite
def deeds(draw: st.DrawFn, table: Any) -> dict[str, Any]:
    op = draw(st.sampled_from(sorted(table)))
    signature = table[op][0]
    names = [*signature.required, *(n for n in signature.optional if draw(st.booleans()))]
    return {
        "op": op,
        "args": {name: draw(VALUES) for name in names},
        **({"loop": draw(st.one_of(PLACES, st.lists(VALUES, max_size=3)))} if draw(st.booleans()) else {}),
    }


@settings(max_examples=300)
@given(
    st.lists(deeds(OPERATORS), max_size=2),
    st.lists(deeds(ACTIONS), min_size=1, max_size=4),
    st.sampled_from(["always", "sensitive", "never"]),
)
def test_whatever_a_rule_says_it_applies_or_fails_the_inspection(conditions: list[Any], actions: list[Any], mask: str) -> None:
    found = subject(extra={"a": 1})
    told = copy.deepcopy(found.inventory)
    one = rule(*actions, conditions=conditions)
    before = copy.deepcopy(one)
    try:
        applied = rules.run([one], found, mask=mask)
    except InspectionError:
        applied = []
    assert applied in ([], [one.uuid])
    assert found.inventory == told
    assert json.dumps([one.actions, one.conditions]) == json.dumps([before.actions, before.conditions])
    assert found.node["uuid"] == found.ports[0]["node_uuid"]


@settings(max_examples=300)
@given(st.text(alphabet="{}[].!:_abinventory0 ", max_size=30))
def test_any_text_can_be_filled(text: str) -> None:
    scope = Scope({"inventory": INVENTORY, "a": [1]}, mask=True)
    assert isinstance(scope.text(text), str)
    assert "hush" not in str(scope.value(text))


@settings(max_examples=200)
@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_how_results_of_loops_count(results: list[bool]) -> None:
    loop = [str(one) for one in results]
    for multiple, expected in (("any", any(results)), ("all", all(results)), ("first", any(results)), ("last", results[-1])):
        assert holds("is-true", ["{item}"], loop=loop, multiple=multiple) is expected


@pytest.mark.parametrize("op", ["matches", "contains"])
@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "([a-zA-Z]+)+$", "(.*a){25}$", "x" * 5000])
def test_a_pattern_without_end_fails_its_inspection_only(op: str, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "MATCH_TIMEOUT", 0.05)
    text = "a" * 60 + "!"
    with contextlib.suppress(InspectionError):  # either end is good, none at all is not
        assert holds(op, [text, pattern]) is False


def test_a_deadline_ends_a_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "MATCH_TIMEOUT", 0.05)
    with pytest.raises(InspectionError, match="found no end within"):
        holds("matches", ["a" * 200 + "!", "(?:a?){200}(?:a|aa|aaa)+b"])
