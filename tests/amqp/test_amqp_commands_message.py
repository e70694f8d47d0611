"""Reading messages: every form, and whatever else may come."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.amqp.commands.callers import Callers
from metald.amqp.commands.door import about, parts, request
from metald.amqp.commands.message import Incoming, named, read
from metald.config import Commands, ConfigError
from metald.errors import Invalid, NotAllowed
from metald.model.commandtypes import COMMAND_TYPES

PLAIN = Incoming(
    body=b'{"node": "n"}', routing_key="node.deploy", content_type="application/json", headers={}, message_id="1", correlation_id=None,
    reply_to=None, expiration=None, timestamp=None,
)  # fmt: skip


def _read(sender: str = "", **fields: Any) -> Any:
    return read(PLAIN._replace(**fields), sender=sender, urgent_prefix="urgent.")


def test_the_three_forms_mean_the_same() -> None:
    attributes = {"specversion": "1.0", "id": "1", "source": "/s", "type": "metald.command.node.deploy"}
    structured = _read(
        body=json.dumps({**attributes, "data": {"node": "n"}}).encode(), content_type="application/cloudevents+json; charset=utf-8"
    )
    binary = _read(headers={f"cloudEvents:{name}": value for name, value in attributes.items()})
    assert structured == binary
    for prefix in ("cloudEvents_", "ce-", "ce_"):
        assert _read(headers={f"{prefix}{name}": value.encode() for name, value in attributes.items()}) == binary
    plain = _read()
    assert (plain.verb, plain.arguments, plain.digest) == (structured.verb, structured.arguments, structured.digest)
    assert plain.uuid != structured.uuid, "the source is part of who the command is"


@pytest.mark.parametrize(
    ("headers", "field", "words"),
    [
        ({"ce-id": "1", "ce-type": "node.deploy"}, "specversion", "'ce-id' is an attribute of a CloudEvent, and specversion is missing"),
        ({"cloudEvents_type": "node.deploy"}, "specversion", "'cloudEvents_type'"),
        ({"ce-specversion": "1.0", "ce-id": "1", "cloudEvents:id": "2", "ce-source": "/s", "ce-type": "node.deploy"}, "id", "comes twice"),
        ({"ce-specversion": "0.3", "ce-id": "1"}, "specversion", "must be 1.0"),
    ],
)
def test_what_was_meant_as_an_event_is_not_read_as_plain_json(headers: dict[str, str], field: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as raised:
        _read(headers=headers)
    assert raised.value.field == field


def test_a_batch_is_refused_with_the_way_to_send_many() -> None:
    with pytest.raises(Invalid, match="Batches of CloudEvents are not read") as raised:
        _read(body=b"[]", content_type="application/cloudevents-batch+json")
    assert raised.value.field == "content_type"


def test_who_sends_is_part_of_the_identity() -> None:
    assert _read(sender="a").uuid != _read(sender="b").uuid
    assert _read(sender="a").uuid == _read(sender="a", reply_to="elsewhere").uuid


def test_times() -> None:
    order = _read(headers={"notbefore": "2026-11-22T21:00:00Z", "expirytime": "2026-11-22T23:00:00+01:00"})
    assert order.not_before == datetime(2026, 11, 22, 21, tzinfo=UTC)
    assert order.expires_at == datetime(2026, 11, 22, 22, tzinfo=UTC)
    sent = datetime(2026, 11, 22, 21, tzinfo=UTC)
    assert _read(expiration=60.0, timestamp=sent).expires_at == datetime(2026, 11, 22, 21, 1, tzinfo=UTC)
    with pytest.raises(Invalid, match="offset"):
        _read(headers={"notbefore": "2026-11-22T21:00:00"})


def test_urgent_is_said_by_the_routing_key() -> None:
    order = _read(routing_key="urgent.node.abort")
    assert (order.verb, order.urgent) == ("node.abort", True)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
_BODIES = st.binary(max_size=200) | _VALUES.map(lambda value: json.dumps(value).encode())
_NAMES = st.sampled_from(["cloudEvents:id", "ce-id", "cloudEvents:specversion", "cloudEvents:type", "notbefore", "x"])
_HEADERS = st.dictionaries(_NAMES, st.none() | st.text(max_size=8) | st.integers() | st.binary(max_size=8), max_size=4)
_TYPES = st.sampled_from([None, "", "application/json", "application/cloudevents+json", "text/plain", ";"])


@given(body=_BODIES, content_type=_TYPES, headers=_HEADERS, message_id=st.none() | st.text(max_size=300))
def test_whatever_comes_is_read_or_refused(body: bytes, content_type: str | None, headers: dict[str, Any], message_id: str | None) -> None:
    fields: dict[str, Any] = {"body": body, "content_type": content_type, "headers": headers, "message_id": message_id}
    assert all(isinstance(text, str) for text in named(PLAIN._replace(**fields), urgent_prefix="urgent."))
    with contextlib.suppress(Invalid):
        order = _read(**fields)
        assert (order.sender_id, order.verb) == named(PLAIN._replace(**fields), urgent_prefix="urgent.")
        for one in parts(order.verb, order.arguments) or [order.arguments]:
            request(order.verb, one)
            about(order.verb, one)


@pytest.mark.parametrize("verb", COMMAND_TYPES)
def test_every_registered_command_is_a_request(verb: str) -> None:
    kind = COMMAND_TYPES[verb]
    found = request(verb, dict.fromkeys(kind.required, "x"))
    method, path = kind.request.split()
    assert found.method == method
    assert "/v1/" + "/".join(found.path) == path.replace("{node}", "x").replace("{port}", "x")


def test_the_file_of_users(tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    path.write_text('[a]\nroles = ["member"]\nproject = "p"\n')
    callers = Callers(Commands(users=str(path)))
    caller = callers.of("a", "r")
    assert (caller.user, caller.roles, caller.project, caller.system) == ("a", ("member",), "p", False)
    for unknown in (None, "b"):
        with pytest.raises(NotAllowed):
            callers.of(unknown, "r")
    assert Callers(Commands()).of(None, "r").system
    path.write_text("[a]\nrole = 1\n")
    for wrong in (path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"amqp\.commands\.users"):
            Callers(Commands(users=str(wrong)))
