"""Reading a message: CloudEvents 1.0 in structured or binary mode, or plain JSON. Nothing here waits or keeps anything.

Structured mode is a body of `application/cloudevents+json`. Binary mode has the attributes in headers; the CloudEvents
binding is for AMQP 1.0, its names (`cloudEvents:id`, or with an underscore) are used in the headers of AMQP 0-9-1, and those of
the HTTP binding (`ce-id`), as Knative's broker for RabbitMQ writes them, are read too. A header with such a prefix is always an
attribute of an event: nothing that was meant as one is read as plain JSON. Plain JSON has its id in `message_id`, and the
routing key names the verb.

Sources: CloudEvents 1.0.2; its AMQP and HTTP protocol bindings; its extension `expirytime`.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import orjson

from metald.amqp.decoding import SUBSTITUTE, UNREADABLE
from metald.errors import Invalid

STRUCTURED = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
TYPE_PREFIX = "metald.command."
_SPACE = uuid.UUID("6f2a1b0e-2b54-5d0b-9a3e-5f6a1d7c4e10")
_LONGEST_ID = 255
"""Bytes: a short string of AMQP, as which an answer names its command (0-9-1, 4.2.5.3)."""
_HIGH = 5
"""The least priority of a message that goes before others: as the quorum queues of RabbitMQ 4 divide them."""
_PREFIXES = ("cloudEvents:", "cloudEvents_", "ce-", "ce_")
_TEXTS = ("routing_key", "content_type", "message_id", "correlation_id", "reply_to")


class Incoming(NamedTuple):
    """A message as it came, as far as reading it needs."""

    body: bytes
    routing_key: str
    content_type: str | None
    headers: Mapping[str, Any]
    message_id: str | None
    correlation_id: str | None
    reply_to: str | None
    expiration: float | None
    """Seconds that it may live from when it was sent."""
    timestamp: datetime | None
    priority: int | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a message asks for."""

    uuid: str
    """Made of the sender, the source and the id: the same order has the same one."""
    sender_id: str
    verb: str
    arguments: dict[str, Any]
    digest: str
    urgent: bool
    not_before: datetime | None
    expires_at: datetime | None


def too_large(size: int, most: int) -> Invalid:
    """What is said of a message of so many bytes, which are more than a command may have."""
    return Invalid(f"The message has {size} bytes.", remedy=f"At most {most} are taken (amqp.commands.max_size).", field="body")


def read(message: Incoming, *, sender: str, urgent_prefix: str) -> Order:
    """What a message asks for.

    Args:
        message: the message.
        sender: who sent it; two senders may use the same ids.
        urgent_prefix: what routing keys of the urgent queue begin with.

    Raises:
        Invalid: it cannot be read; the field names the property or attribute.
    """
    _check_readable(message)
    structured = _is_structured(message)
    attributes = _object(message.body) if structured else _headers(message.headers)
    data = _data(attributes) if structured else _object(message.body) if message.body.strip() else {}
    cloud = "specversion" in attributes
    if cloud and attributes["specversion"] != "1.0":
        raise Invalid("specversion must be 1.0.", field="specversion")
    if structured and not cloud:
        raise Invalid("specversion is missing.", remedy='Write "specversion": "1.0".', field="specversion")
    sender_id = _text(attributes, "id") if cloud else _text({"message_id": message.message_id}, "message_id")
    source = _text(attributes, "source") if cloud else ""
    key = message.routing_key.removeprefix(urgent_prefix)
    urgent = key != message.routing_key or (message.priority or 0) >= _HIGH
    verb = _verb(attributes) if cloud else key
    return Order(
        uuid=str(uuid.uuid5(_SPACE, "\0".join((sender, source, sender_id)))),
        sender_id=sender_id,
        verb=verb,
        arguments=data,
        digest=hashlib.sha256(orjson.dumps([verb, data], option=orjson.OPT_SORT_KEYS)).hexdigest(),
        urgent=urgent,
        not_before=_time(attributes, "notbefore"),
        expires_at=_soonest(_time(attributes, "expirytime"), _lifetime(message)),
    )


def named(message: Incoming, *, urgent_prefix: str) -> tuple[str, str]:
    """The id and the verb of a message, as far as they can be read, and else what comes nearest: for telling of one that is refused."""
    sender_id, verb = message.message_id or "", message.routing_key.removeprefix(urgent_prefix)
    with contextlib.suppress(Invalid):
        attributes = _object(message.body) if _is_structured(message) else _headers(message.headers)
        if "specversion" in attributes:
            sender_id = _text(attributes, "id")
            verb = _verb(attributes)
    return sender_id, verb


def _is_structured(message: Incoming) -> bool:
    """Whether a message is a CloudEvent in structured mode; of binary mode or plain JSON if not.

    Raises:
        Invalid: it is nothing that is read.
    """
    content_type = (message.content_type or "application/json").partition(";")[0].strip().lower()
    if content_type == _BATCH:
        raise Invalid(
            "Batches of CloudEvents are not read.",
            remedy="Send a message for each command, or one command with a list `nodes` or `items`.",
            field="content_type",
        )
    if content_type == STRUCTURED:
        return True
    if content_type in ("application/json", "text/json") or content_type.endswith("+json"):
        return False
    remedy = f"Send {STRUCTURED} or application/json."
    raise Invalid(f"Content type {content_type[:80]!r} is not read.", remedy=remedy, field="content_type")


def _verb(attributes: Mapping[str, Any]) -> str:
    return _text(attributes, "type").removeprefix(TYPE_PREFIX)


def _check_readable(message: Incoming) -> None:
    """Refuse what `decoding` had to give up: two messages with other bytes might look the same.

    Raises:
        Invalid: a text is no UTF-8, or the headers cannot be read.
    """
    if UNREADABLE in message.headers:
        raise Invalid(f"The properties or headers cannot be read: {message.headers[UNREADABLE]}.", field="headers")
    for name in _TEXTS:
        if SUBSTITUTE in (getattr(message, name) or ""):
            raise Invalid(f"{name} is no text in UTF-8.", field=name)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"The body is not JSON: {error.msg}: line {error.lineno} column {error.colno}.", field="body") from None
    if not isinstance(found, dict):
        raise Invalid("The body is not a JSON object.", field="body")
    return found


def _data(attributes: dict[str, Any]) -> dict[str, Any]:
    if "data_base64" in attributes:
        raise Invalid("data_base64 is not read.", remedy="Send the command as the JSON object data.", field="data_base64")
    data = attributes.pop("data", None)
    if data is not None and not isinstance(data, dict):
        raise Invalid("data must be a JSON object.", field="data")
    return data or {}


def _headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of binary mode; of plain JSON only what says when it is to be done.

    Raises:
        Invalid: an attribute comes twice, or there are some without `specversion`.
    """
    found: dict[str, Any] = {}
    for name, value in headers.items():
        prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
        if prefix is None:
            continue
        attribute, text = name.removeprefix(prefix), value.decode(errors="replace") if isinstance(value, bytes) else value
        if found.setdefault(attribute, text) != text:
            raise Invalid(f"{attribute[:80]} comes twice, with different values.", remedy="Use one prefix.", field=attribute[:80])
    if found and "specversion" not in found:
        first = next(name for name in headers if name.startswith(_PREFIXES))
        raise Invalid(
            f"The header {first[:80]!r} is an attribute of a CloudEvent, and specversion is missing.",
            remedy='Send specversion "1.0" with the same prefix, or no header with such a prefix.',
            field="specversion",
        )
    for name in ("notbefore", "expirytime"):
        if name in headers:
            found.setdefault(name, headers[name])
    return found


def _text(attributes: Mapping[str, Any], name: str) -> str:
    value = attributes.get(name)
    if not isinstance(value, str) or not value or "\0" in value:
        raise Invalid(f"{name} is missing or is no text.", remedy="It names the command: the same again is the same command.", field=name)
    if len(value.encode()) > _LONGEST_ID:
        raise Invalid(f"{name} is longer than {_LONGEST_ID} bytes of UTF-8.", remedy="Give a shorter one.", field=name)
    return value


def _time(attributes: Mapping[str, Any], name: str) -> datetime | None:
    value = attributes.get(name)
    if value is None:
        return None
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        found = msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        raise Invalid(f"{name} is no time.", remedy="Write it as 2026-11-22T21:00:00Z (RFC 3339).", field=name) from None
    if found.tzinfo is None:
        raise Invalid(f"{name} has no offset.", remedy="Write it as 2026-11-22T21:00:00Z (RFC 3339).", field=name)
    return found


def _lifetime(message: Incoming) -> datetime | None:
    """When the message's own lifetime ends; the broker ends it in the queue, but knows when it was sent no better than this."""
    if message.expiration is None:
        return None
    sent = message.timestamp or datetime.now(UTC)
    try:
        return (sent if sent.tzinfo else sent.replace(tzinfo=UTC)) + timedelta(seconds=message.expiration)
    except OverflowError:
        return None


def _soonest(*times: datetime | None) -> datetime | None:
    return min((time for time in times if time is not None), default=None)
