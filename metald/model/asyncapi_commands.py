"""The part of the AsyncAPI document that tells of commands, made of the registry of command types.

Each command is there in the three forms in which it is read: CloudEvents in structured mode and in binary mode, and plain JSON.
Headers are those of AMQP's headers table; a message's properties (`message_id`, `reply_to`) are named in words.
"""

from __future__ import annotations

from typing import Any

from metald.model.commandtypes import COMMAND_TYPES, REPLY, CommandType, arguments

_REPLIES = "command.reply"
_DEAD = "command.dead"
_FORMS = ("", ".binary", ".plain")
_TIMES: dict[str, Any] = {
    "notbefore": {"type": "string", "format": "date-time", "description": "Not to be carried out earlier."},
    "expirytime": {"type": "string", "format": "date-time", "description": "Not to be carried out later."},
}
_CLAIM: dict[str, Any] = {"metald-claim": {"type": "string", "description": "A JSON Web Token that says who sends (`amqp.commands.keys`)."}}
_ID = {"type": "string", "minLength": 1, "maxLength": 255, "description": "The same id from the same source is the same command."}
_SOURCE = {"type": "string", "minLength": 1, "maxLength": 255}


def channels(exchange: str) -> dict[str, Any]:
    """The channels of all commands, that of their replies, and that of what was put aside."""
    found = {f"command.{one.name}": _channel(one, exchange) for one in COMMAND_TYPES.values()}
    found[_REPLIES] = {
        "address": None,
        "title": "Replies",
        "description": "The queue that the command's `reply_to` names, by the default exchange.",
        "messages": {_REPLIES: {"$ref": f"#/components/messages/{_REPLIES}"}},
    }
    found[_DEAD] = {
        "address": "{key}",
        "title": "Put aside",
        "description": f"The queue `{exchange}.dead` keeps them.",
        "parameters": {"key": {"description": "The routing key that the message had."}},
        "messages": {_DEAD: {"$ref": f"#/components/messages/{_DEAD}"}},
        "bindings": _bindings(f"{exchange}.dead"),
    }
    return found


def operations() -> dict[str, Any]:
    """What metald does with commands."""
    found: dict[str, Any] = {
        f"receive.{one.name}": {
            "action": "receive",
            "channel": {"$ref": f"#/channels/command.{one.name}"},
            "summary": f"{one.text}.",
            "messages": [{"$ref": f"#/channels/command.{one.name}/messages/{one.name}{form}"} for form in _FORMS],
            "reply": {
                "address": {"location": "$message.header#/replyTo"},
                "channel": {"$ref": f"#/channels/{_REPLIES}"},
                "messages": [{"$ref": f"#/channels/{_REPLIES}/messages/{_REPLIES}"}],
            },
        }
        for one in COMMAND_TYPES.values()
    }
    found[f"send.{_DEAD}"] = {
        "action": "send",
        "channel": {"$ref": f"#/channels/{_DEAD}"},
        "summary": "Puts aside what cannot be a command, with the reason.",
        "messages": [{"$ref": f"#/channels/{_DEAD}/messages/{_DEAD}"}],
    }
    return found


def messages() -> dict[str, Any]:
    """The messages of all commands, the reply, and the dead letter."""
    found = {f"command.{one.name}{form}": made for one in COMMAND_TYPES.values() for form, made in zip(_FORMS, _messages(one), strict=True)}
    found[_REPLIES] = {
        "name": _REPLIES,
        "title": "Reply",
        "description": "A CloudEvent in binary mode, but for what could not be read as a command: its refusal has no such headers.",
        "contentType": "application/json",
        "correlationId": {"location": "$message.header#/correlationId", "description": "The command's own, or its id."},
        "headers": {"$ref": "#/components/schemas/ReplyHeaders"},
        "payload": {"$ref": "#/components/schemas/Reply"},
    }
    found[_DEAD] = {
        "name": _DEAD,
        "title": "Dead letter",
        "description": "Body, content type, `message_id` and headers are those of the message; of a body that is too large, its beginning.",
        "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"},
        "payload": {},
    }
    return found


def schemas() -> dict[str, Any]:
    """What the messages refer to."""
    return {
        "Reply": REPLY,
        "ReplyHeaders": _REPLY_HEADERS,
        "DeadLetterHeaders": _DEAD_HEADERS,
        "PlainHeaders": {"type": "object", "title": "Headers of a command in plain JSON", "properties": {**_TIMES, **_CLAIM}},
        "StructuredHeaders": {"type": "object", "title": "Headers of a command in structured mode", "properties": _CLAIM},
        **{f"{one.name}.arguments": arguments(one) for one in COMMAND_TYPES.values()},
    }


_REPLY_ATTRIBUTES: dict[str, Any] = {
    "specversion": {"const": "1.0"},
    "id": {"type": "string", "description": "An answer that comes twice keeps it."},
    "source": {"type": "string", "minLength": 1, "description": "The installation (`events.source`)."},
    "type": {"enum": [f"metald.reply.{status.replace(' ', '-')}" for status in REPLY["properties"]["status"]["enum"]]},
    "subject": {"type": "string", "description": "The id that the command was sent with."},
    "time": {"type": "string", "format": "date-time"},
}
_REPLY_HEADERS: dict[str, Any] = {
    "type": "object",
    "title": "Headers of a reply",
    "properties": {f"cloudEvents:{name}": schema for name, schema in _REPLY_ATTRIBUTES.items()},
    "anyOf": [
        {"required": [f"cloudEvents:{name}" for name in _REPLY_ATTRIBUTES]},
        {"not": {"required": ["cloudEvents:specversion"]}},
    ],
}
_DEAD_HEADERS: dict[str, Any] = {
    "type": "object",
    "title": "Headers of a dead letter",
    "properties": {
        "metald-code": {"type": "string", "description": "Why, as a code."},
        "metald-reason": {"type": "string", "description": "Why, in a sentence."},
        "x-death": {"type": "array", "description": "The broker's own account, of what it put aside itself (`expired`)."},
    },
    "anyOf": [{"required": ["metald-code", "metald-reason"]}, {"required": ["x-death"]}],
}


def _bindings(exchange: str) -> dict[str, Any]:
    return {
        "amqp": {
            "is": "routingKey",
            "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False},
            "bindingVersion": "0.3.0",
        }
    }


def _channel(one: CommandType, exchange: str) -> dict[str, Any]:
    return {
        "address": one.name,
        "title": one.name,
        "description": f"`urgent.{one.name}` is the way past what waits in the queue.",
        "messages": {f"{one.name}{form}": {"$ref": f"#/components/messages/command.{one.name}{form}"} for form in _FORMS},
        "bindings": _bindings(exchange),
    }


def _messages(one: CommandType) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A command in each of the forms."""
    kind = {"enum": [one.name, f"metald.command.{one.name}"]}
    body = {"$ref": f"#/components/schemas/{one.name}.arguments"}
    attributes = {"specversion": {"const": "1.0"}, "id": _ID, "source": _SOURCE, "type": kind, **_TIMES}
    needed = ("specversion", "id", "source", "type")
    structured = {
        "name": one.name,
        "title": one.name,
        "summary": f"{one.text}. A CloudEvent in structured mode.",
        "contentType": "application/cloudevents+json",
        "headers": {"$ref": "#/components/schemas/StructuredHeaders"},
        "payload": {"type": "object", "properties": {**attributes, "data": body}, "required": [*needed, "data"]},
    }
    binary = {
        "name": one.name,
        "title": f"{one.name} (binary)",
        "summary": f"{one.text}. A CloudEvent in binary mode.",
        "description": "In place of `cloudEvents:` the prefixes `cloudEvents_`, `ce-` and `ce_` are read too, one in a message.",
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "properties": {**{f"cloudEvents:{name}": schema for name, schema in attributes.items()}, **_CLAIM},
            "required": [f"cloudEvents:{name}" for name in needed],
        },
        "payload": body,
    }
    plain = {
        "name": one.name,
        "title": f"{one.name} (plain)",
        "summary": f"{one.text}. Plain JSON: the property `message_id` is its id, and the routing key says what it is.",
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/PlainHeaders"},
        "payload": body,
    }
    return structured, binary, plain
