"""The wire's notions of values: booleans, UUIDs, names, MAC addresses, lists, integers.

Each reader takes the name for the error text and the value, and returns it in metald's form or raises Invalid.
"""

from __future__ import annotations

import re
import uuid
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from metald.errors import Invalid

TRUE = frozenset({"1", "t", "true", "on", "y", "yes"})
FALSE = frozenset({"0", "f", "false", "off", "n", "no"})
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,255}")
_OLD_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.IGNORECASE)
_MAC = re.compile(r"([0-9a-f]{2}[:-]){5}[0-9a-f]{2}", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_SHOWN = 100


def shown(value: Any) -> str:
    """A value for an error text, not longer than a line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def bare(value: Any) -> str:
    """Like `shown`, with a text not in quotes."""
    return shown(value)[1:].removesuffix("'").removesuffix('"') if isinstance(value, str) else shown(value)


def as_uuid(value: Any) -> str | None:
    """The canonical text of a UUID in any form, or None when it is none."""
    if not isinstance(value, str) or not 32 <= len(value) <= 45:
        return None
    try:
        return str(uuid.UUID(value))
    except ValueError:
        return None


def is_name(value: Any) -> bool:
    """Whether it may name a thing: RFC 3986 unreserved characters, and not like a UUID."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None and as_uuid(value) is None


def is_hostname(value: Any) -> bool:
    """Whether it may name a node before version 1.10: RFC 952 and 1123 labels."""
    return is_name(value) and _OLD_NAME.fullmatch(value) is not None


def boolean(name: str, value: Any) -> bool:
    """True or false, also in words."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    acceptable = ", ".join(f"'{v}'" for v in sorted(TRUE | FALSE))
    raise Invalid(f"Invalid {name}: Unrecognized value {shown(value)}, acceptable values are: {acceptable}", field=name)


def uuid_text(name: str, value: Any) -> str:
    """A UUID in canonical form."""
    found = as_uuid(value)
    if found is None:
        raise Invalid(f"Expected UUID for {name}: {bare(value)}", field=name)
    return found


def identifier(name: str, value: Any) -> str:
    """A UUID in canonical form, or a name."""
    found = as_uuid(value)
    if found is not None:
        return found
    if not is_name(value):
        raise Invalid(f"Expected UUID or name for {name}: {bare(value)}", field=name)
    return str(value)


def mac(name: str, value: Any) -> str:
    """A MAC address, lower case with colons."""
    if not isinstance(value, str) or _MAC.fullmatch(value) is None:
        raise Invalid(f"Expected valid MAC address for {name}: {bare(value)}", field=name)
    return value.lower().replace("-", ":")


def ipv4(name: str, value: Any) -> str:
    """An IPv4 address."""
    try:
        return str(IPv4Address(text(name, value)))
    except ValueError:
        raise Invalid(f"Expected an IPv4 address for {name}: {shown(value)}", field=name) from None


def ipv6(name: str, value: Any) -> str:
    """An IPv6 address, as it was written; a zone is let through."""
    try:
        IPv6Address(text(name, value))
    except ValueError:
        raise Invalid(f"Expected an IPv6 address for {name}: {shown(value)}", field=name) from None
    return str(value)


def ipv6_host(name: str, value: Any) -> str:
    """An IPv6 address, which the length of its prefix may follow."""
    address, slash, length = text(name, value).partition("/")
    ipv6(name, address)
    if slash and not (length.isascii() and length.isdigit() and len(length) < 4 and int(length) <= 128):
        raise Invalid(f"Expected the length of a prefix after the slash in {name}: {shown(value)}", field=name)
    return str(value)


def integer(name: str, value: Any) -> int:
    """A whole number, also in digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value)
    raise Invalid(f"Expected an integer for {name}: {bare(value)}", field=name)


def text(name: str, value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise Invalid(f"Expected string for {name}: {shown(value)}", field=name)
    return value


def words(name: str, value: Any) -> list[str]:
    """A comma-separated list, in lower case, each word once."""
    found: dict[str, None] = {}
    for word in text(name, value).split(","):
        if clean := word.strip().lower():
            found[clean] = None
    return list(found)
