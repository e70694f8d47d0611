"""Real traffic held against the AsyncAPI document that a daemon serves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from jsonschema import Draft202012Validator


class Contract:
    """The document, and what is wrong with the traffic."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.seen: set[str] = set()

    def check(self, message: str, body: Any, headers: Mapping[str, Any] | None = None) -> None:
        """Hold a body, and the headers of its message where it has some to tell, to a message of the document."""
        parts = {"payload": body} if headers is None else {"payload": body, "headers": dict(headers)}
        for part, value in parts.items():
            schema = {"$ref": f"#/components/messages/{message}/{part}", "components": self.document["components"]}
            faults = [f"{message} {part}: {list(fault.path)}: {fault.message}" for fault in Draft202012Validator(schema).iter_errors(value)]
            assert not faults, faults
        self.seen.add(message)

    def check_reply(self, message: AbstractIncomingMessage) -> dict[str, Any]:
        """Hold a reply to the document; its body."""
        reply: dict[str, Any] = json.loads(message.body)
        assert message.content_type == self.document["components"]["messages"]["command.reply"]["contentType"]
        self.check("command.reply", reply, message.headers)
        return reply

    def check_event(self, message: AbstractIncomingMessage) -> None:
        """Hold an event to its channel: routing key, envelope, data."""
        event = json.loads(message.body)
        channel = self.document["channels"][event["type"]]
        addresses = [channel["address"], *re.findall(r"`([^`]+)`", channel.get("description", ""))]
        patterns = [re.escape(address).replace(r"\{uuid\}", "[0-9a-f-]{36}") for address in addresses]
        assert any(re.fullmatch(pattern, message.routing_key or "") for pattern in patterns), (message.routing_key, addresses)
        assert message.exchange == channel["bindings"]["amqp"]["exchange"]["name"]
        assert (message.content_type or "").startswith(self.document["components"]["messages"][event["type"]]["contentType"])
        self.check(event["type"], event)

    async def follow(self, inbox: AbstractQueue, over: Callable[[AbstractIncomingMessage], bool]) -> list[dict[str, Any]]:
        """Hold every event of a queue to its channel, until one with which it is over; the events."""
        found = []
        async with inbox.iterator(no_ack=True) as messages:
            async for message in messages:
                self.check_event(message)
                found.append(json.loads(message.body))
                if over(message):
                    break
        return found
