"""JSON patches (RFC 6902: add, replace, remove) with RFC 6901 paths.

`read` checks the form and which roots a patch touches, before anything is looked up; `apply` works on copies of those roots
alone and never on what is stored.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from metald.errors import Invalid
from metald.http import values
from metald.http.schema import Schema, conform

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
SCHEMA: Schema = {
    "type": "array",
    "maxItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "op": {"type": "string", "enum": ["add", "replace", "remove"]},
            "path": {"type": "string", "pattern": r"^/[^/]+(/[^/]*)*$", "maxLength": 4096},
            "value": {},
        },
        "required": ["op", "path"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of a patch."""

    op: str
    tokens: tuple[str, ...]
    value: Any

    @property
    def root(self) -> str:
        """The field of the resource that it touches."""
        return self.tokens[0]

    @property
    def path(self) -> str:
        """The path as it was given, near enough for error texts."""
        return "/" + "/".join(self.tokens)


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch whose form is right and which touches only fields that may be changed."""

    operations: tuple[Operation, ...]

    @property
    def roots(self) -> list[str]:
        """The fields it touches, each once."""
        return list(dict.fromkeys(operation.root for operation in self.operations))

    def given(self, root: str) -> list[Any]:
        """The values it sets a whole field to, in order."""
        return [o.value for o in self.operations if o.tokens == (root,) and o.op != "remove"]

    def apply(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """The touched fields as they become; a field that is removed is absent.

        Args:
            before: the resource's fields as they are; not changed.

        Raises:
            Invalid: an operation does not fit.
        """
        after = {root: copy.deepcopy(before[root]) for root in self.roots if root in before}
        for operation in self.operations:
            try:
                _apply(after, operation)
            except (LookupError, ValueError, TypeError) as error:
                reason = f"can't {operation.op} a non-existent object {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
                raise Invalid(f"Couldn't apply patch '{operation.op} {operation.path}'. Reason: {reason}", field=operation.path) from None
        return after


def read(body: Any, allowed: Collection[str]) -> Patch:
    """Check the form of a patch.

    Raises:
        Invalid: it is no patch, or touches what may not be changed.
    """
    operations = []
    for item in conform(body, SCHEMA, "patch"):
        tokens = tuple(part.replace("~1", "/").replace("~0", "~") for part in item["path"][1:].split("/"))
        if tokens[0] not in allowed:
            raise Invalid(
                f"Cannot patch {values.shown(item['path'])[1:-1]}. Only the following can be updated: {', '.join(allowed)}",
                field=item["path"][:80],
            )
        if item["op"] != "remove" and "value" not in item:
            raise Invalid(f"Schema error for patch: 'value' is a required property of {item['op']}", field=item["path"][:80])
        operations.append(Operation(item["op"], tokens, item.get("value")))
    return Patch(tuple(operations))


def _apply(document: dict[str, Any], operation: Operation) -> None:
    holder: Any = document
    for token in operation.tokens[:-1]:
        holder = holder[_index(holder, token)] if isinstance(holder, list) else _inside(holder, token)
    last = operation.tokens[-1]
    if isinstance(holder, list):
        _apply_to_list(holder, last, operation)
    elif not isinstance(holder, dict):
        raise TypeError(f"what holds {last!r} is neither an object nor a list")
    elif operation.op == "add":
        holder[last] = operation.value
    elif last not in holder:
        raise KeyError(last)
    elif operation.op == "replace":
        holder[last] = operation.value
    else:
        del holder[last]


def _inside(holder: Any, token: str) -> Any:
    if not isinstance(holder, dict):
        raise TypeError(f"what holds {token!r} is neither an object nor a list")
    return holder[token]


def _index(holder: list[Any], token: str) -> int:
    if _INDEX.fullmatch(token) is None:
        raise ValueError(f"{values.shown(token)} is not an index")
    if int(token) >= len(holder):
        raise IndexError(f"can't reach a non-existent object {token!r}: the list has no such index")
    return int(token)


def _apply_to_list(holder: list[Any], token: str, operation: Operation) -> None:
    if operation.op == "add":
        if token == "-" or token == str(len(holder)):  # noqa: S105  # a JSON pointer's token
            holder.append(operation.value)
        else:
            holder.insert(_index(holder, token), operation.value)
    elif operation.op == "replace":
        holder[_index(holder, token)] = operation.value
    else:
        del holder[_index(holder, token)]
