"""The AsyncAPI 3 document of events and commands, made of the registries of their types; and the schema of their envelope."""

from __future__ import annotations

from typing import Any

from metald.model import asyncapi_commands
from metald.model.eventtypes import EVENT_TYPES, EventType, schemas

_REF = "#/components/schemas/{name}"
_UUID = {"type": "string", "format": "uuid"}

_OF_NODES = frozenset({"port", "portgroup", "volume_connector", "volume_target"})
"""Resources that belong to a node always."""
_OF_NONE = frozenset({"boot", "command", "events"})
"""What is about no thing that has a UUID."""

ENVELOPE: dict[str, Any] = {
    "type": "object",
    "title": "CloudEvent",
    "description": "What every event has: CloudEvents 1.0, structured mode.",
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {
            "type": "string",
            "pattern": "^[1-9][0-9]*$",
            "description": "Number in the sequence; an event keeps it when it comes twice.",
        },
        "source": {"type": "string", "minLength": 1, "description": "The installation (`events.source`)."},
        "type": {"type": "string"},
        "time": {"type": "string", "format": "date-time", "description": "When it happened, in UTC."},
        "datacontenttype": {"const": "application/json"},
        "subject": {**_UUID, "description": "The node; or the thing that the event is about, when no node is concerned."},
        "object": {**_UUID, "description": "The thing that the event is about, when a node is concerned too."},
        "sequence": {
            "type": "string",
            "pattern": "^[0-9]{20}$",
            "description": "The number with zeros before it: it sorts as text.",
        },
        "severity": {"enum": ["INFO", "WARNING", "ERROR"]},
        "user": {"type": "string", "description": "Who asked, when somebody did."},
        "data": {"type": "object"},
    },
    "required": ["specversion", "id", "source", "type", "time", "datacontenttype", "sequence", "severity", "data"],
}


def document(version: str, exchange: str = "metald.events", commands: str = "metald.commands") -> dict[str, Any]:
    """The whole document.

    Args:
        version: metald's.
        exchange: the topic exchange of events.
        commands: the topic exchange of commands.
    """
    payloads, definitions = schemas(_REF)
    types = list(EVENT_TYPES.values())
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "metald: events and commands of bare metal provisioning",
            "version": version,
            "description": "Every event of one sequence without gaps, at least once, in order. A consumer keeps the last `id` it has seen.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/cloudevents+json",
        "servers": {"broker": {"host": "localhost:5672", "protocol": "amqp", "protocolVersion": "0.9.1", "description": "`amqp.url`"}},
        "channels": {one.name: _channel(one, exchange) for one in types} | asyncapi_commands.channels(commands),
        "operations": {
            f"send.{one.name}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{one.name}"},
                "summary": f"Tells of {one.text}.",
                "messages": [{"$ref": f"#/channels/{one.name}/messages/{one.name}"}],
                "bindings": {"amqp": {"deliveryMode": 2, "mandatory": True, "ack": True, "bindingVersion": "0.3.0"}},
            }
            for one in types
        }
        | asyncapi_commands.operations(),
        "components": {
            "messages": {one.name: _message(one, payloads[one.name]) for one in types} | asyncapi_commands.messages(),
            "schemas": {"CloudEvent": ENVELOPE, **definitions, **asyncapi_commands.schemas()},
        },
    }


def addresses(one: EventType) -> list[str]:
    """The routing keys of an event type, with `{uuid}` where a UUID, or `-`, is."""
    resource, _, what = one.name.partition(".")
    if one.of_node:
        return [f"node.{{uuid}}.{what}"]
    if resource in _OF_NODES:
        return [f"node.{{uuid}}.{one.name}"]
    alone = f"{resource}.{'-' if resource in _OF_NONE else '{uuid}'}.{what}"
    return [alone, f"node.{{uuid}}.{one.name}"] if resource == "allocation" else [alone]


def _channel(one: EventType, exchange: str) -> dict[str, Any]:
    first, *others = addresses(one)
    channel: dict[str, Any] = {
        "address": first,
        "title": one.name,
        "messages": {one.name: {"$ref": f"#/components/messages/{one.name}"}},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }
    if others:
        channel["description"] = f"With the routing key `{others[0]}` when it belongs to a node."
    if "{uuid}" in first:
        channel["parameters"] = {"uuid": {"description": "UUID of the node, or of the thing when no node is concerned."}}
    return channel


def _message(one: EventType, payload: dict[str, Any]) -> dict[str, Any]:
    more = {"required": ["subject"]} if one.of_node else {}
    return {
        "name": one.name,
        "title": one.name,
        "summary": f"Tells of {one.text}.",
        "contentType": "application/cloudevents+json",
        "payload": {
            "allOf": [
                {"$ref": "#/components/schemas/CloudEvent"},
                {"type": "object", "properties": {"type": {"const": one.name}, "data": payload}, **more},
            ]
        },
    }
