"""The part of the AsyncAPI document that tells of commands, made of the registry of command types."""

from __future__ import annotations

from typing import Any

from metald.model.commandtypes import COMMAND_TYPES, REPLY, CommandType, arguments

_REPLIES = "command.reply"


def channels(exchange: str) -> dict[str, Any]:
    """The channels of all commands, and that of their replies."""
    found = {f"command.{one.name}": _channel(one, exchange) for one in COMMAND_TYPES.values()}
    found[_REPLIES] = {
        "address": None,
        "title": "Replies",
        "description": "The queue that the command's `reply_to` names, by the default exchange.",
        "messages": {_REPLIES: {"$ref": f"#/components/messages/{_REPLIES}"}},
    }
    return found


def operations() -> dict[str, Any]:
    """What metald does with commands."""
    return {
        f"receive.{one.name}": {
            "action": "receive",
            "channel": {"$ref": f"#/channels/command.{one.name}"},
            "summary": f"{one.text}.",
            "messages": [{"$ref": f"#/channels/command.{one.name}/messages/{one.name}"}],
            "reply": {
                "address": {"location": "$message.header#/replyTo"},
                "channel": {"$ref": f"#/channels/{_REPLIES}"},
                "messages": [{"$ref": f"#/channels/{_REPLIES}/messages/{_REPLIES}"}],
            },
        }
        for one in COMMAND_TYPES.values()
    }


def messages() -> dict[str, Any]:
    """The messages of all commands, and the reply."""
    found = {f"command.{one.name}": _message(one) for one in COMMAND_TYPES.values()}
    found[_REPLIES] = {
        "name": _REPLIES,
        "title": "Reply",
        "contentType": "application/json",
        "correlationId": {"location": "$message.header#/correlationId"},
        "payload": {"$ref": "#/components/schemas/Reply"},
    }
    return found


def schemas() -> dict[str, Any]:
    """What the messages refer to."""
    return {"Reply": REPLY}


def _channel(one: CommandType, exchange: str) -> dict[str, Any]:
    return {
        "address": one.name,
        "title": one.name,
        "description": f"`urgent.{one.name}` is the way past what waits in the queue.",
        "messages": {one.name: {"$ref": f"#/components/messages/command.{one.name}"}},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _message(one: CommandType) -> dict[str, Any]:
    return {
        "name": one.name,
        "title": one.name,
        "summary": f"{one.text}.",
        "contentType": "application/cloudevents+json",
        "payload": {
            "type": "object",
            "properties": {
                "specversion": {"const": "1.0"},
                "id": {"type": "string", "description": "The same id from the same source is the same command."},
                "source": {"type": "string"},
                "type": {"enum": [one.name, f"metald.command.{one.name}"]},
                "notbefore": {"type": "string", "format": "date-time", "description": "Not to be carried out earlier."},
                "expirytime": {"type": "string", "format": "date-time", "description": "Not to be carried out later."},
                "data": arguments(one),
            },
            "required": ["specversion", "id", "source", "type", "data"],
        },
    }
