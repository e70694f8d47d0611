"""The AsyncAPI document as a document: held to AsyncAPI's own schema, and to those rules of AsyncAPI that a schema cannot say."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from metald.model.asyncapi import document
from metald.model.commandtypes import COMMAND_TYPES
from metald.model.eventtypes import EVENT_TYPES

DOCUMENT = document("1.2.3")
SCHEMA = jsonschema_rs.validator_for(json.loads((Path(__file__).parents[1] / "support/asyncapi/3.0.0.json").read_text()))


def test_it_is_as_asyncapi_wants_it() -> None:
    assert [f"{list(fault.instance_path)}: {fault.message[:200]}" for fault in SCHEMA.iter_errors(DOCUMENT)] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("asyncapi",), "2.6.0"),
        (("info",), {"title": "no version"}),
        (("operations", "receive.node.deploy", "action"), "take"),
        (("channels", "node.provision", "bindings", "amqp", "is"), "exchange"),
        (("channels", "command.dead", "parameters"), ["key"]),
        (("components", "messages", "command.reply", "payload"), {"type": "nonsense"}),
        (("components", "messages", "node.nmi", "contentTypes"), "text/plain"),
        (("servers", "broker"), {"host": "localhost"}),
    ],
)
def test_the_schema_finds_what_is_wrong(path: tuple[str, ...], value: Any) -> None:
    spoilt = copy.deepcopy(DOCUMENT)
    place = spoilt
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    assert not SCHEMA.is_valid(spoilt)


def _at(reference: dict[str, str]) -> tuple[str, ...]:
    return tuple(reference["$ref"].removeprefix("#/").split("/"))


def test_addresses_have_their_parameters() -> None:
    for name, channel in DOCUMENT["channels"].items():
        assert set(re.findall(r"\{(\w+)\}", channel["address"] or "")) == set(channel.get("parameters", ())), name


def test_operations_name_messages_of_their_channels() -> None:
    for name, operation in DOCUMENT["operations"].items():
        for one in (operation, *([operation["reply"]] if "reply" in operation else [])):
            channel = _at(one["channel"])
            assert channel[0] == "channels"
            for message in one["messages"]:
                assert _at(message)[:3] == (*channel, "messages"), name
                assert _at(message)[3] in DOCUMENT["channels"][channel[1]]["messages"], name


def test_every_channel_is_used_and_every_message_is_on_one() -> None:
    operations = DOCUMENT["operations"].values()
    used = {_at(one["channel"])[1] for one in operations} | {_at(one["reply"]["channel"])[1] for one in operations if "reply" in one}
    assert used == set(DOCUMENT["channels"])
    carried = {_at(message)[2] for channel in DOCUMENT["channels"].values() for message in channel["messages"].values()}
    assert carried == set(DOCUMENT["components"]["messages"])


def test_events_and_commands_are_all_there() -> None:
    wanted = {*EVENT_TYPES, "command.reply", "command.dead"}
    wanted |= {f"command.{name}{form}" for name in COMMAND_TYPES for form in ("", ".binary", ".plain")}
    assert set(DOCUMENT["components"]["messages"]) == wanted


def test_a_broken_reply_and_dead_letter_are_found() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    reply = jsonschema_rs.validator_for(schemas["ReplyHeaders"])
    assert reply.is_valid({})
    assert not reply.is_valid({"cloudEvents:specversion": "1.0", "cloudEvents:id": "x"})
    dead = jsonschema_rs.validator_for(schemas["DeadLetterHeaders"])
    assert not dead.is_valid({"metald-reason": "why"})
    assert dead.is_valid({"metald-reason": "why", "metald-code": "invalid"})
    assert dead.is_valid({"x-death": [{"reason": "expired"}]})
