"""The conditions of inspection rules, by Ironic's names. Each takes arguments whose places are filled and says whether it holds.

Numbers and texts meet in one list, as places give numbers and people write texts: such a pair is compared as numbers when the
text is one, else as texts. Two texts are always compared as texts.

Regular expressions are those of Python's `re`, matched by an engine that takes a deadline and lets other threads run: a
pattern that backtracks for ever costs its inspection half a second and fails it, with the pattern named.
"""

from __future__ import annotations

import ipaddress
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from metald.errors import InspectionError

if TYPE_CHECKING:
    import regex

MATCH_TIMEOUT = 0.5
"""Seconds that one regular expression may look at one text."""
_LONGEST_PATTERN = 4096


@dataclass(frozen=True, slots=True)
class Signature:
    """The arguments of an operator or an action: in a list they stand in this order."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def named(self, args: Any) -> dict[str, Any]:
        """Arguments by name.

        Raises:
            ValueError: some are missing or not known.
        """
        names = (*self.required, *self.optional)
        if isinstance(args, list):
            if len(args) > len(names):
                raise ValueError(f"takes at most {len(names)} arguments")
            args = dict(zip(names, args, strict=False))
        missing = [name for name in self.required if name not in args]
        unknown = [str(name)[:80] for name in args if name not in names]
        if missing:
            raise ValueError(f"missing required argument(s): {', '.join(missing)}")
        if unknown:
            raise ValueError(f"unexpected argument(s): {', '.join(unknown)}")
        return dict(args)


def _number(value: Any) -> float | None:
    if isinstance(value, int | float):
        return value
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _alike(a: Any, b: Any) -> tuple[Any, Any]:
    """The pair in a form in which it can be compared."""
    if isinstance(a, str) != isinstance(b, str):
        if isinstance(a, bool) or isinstance(b, bool):
            return str(a).lower(), str(b).lower()
        numbers = _number(a), _number(b)
        return numbers if None not in numbers else (str(a), str(b))
    return a, b


def _compare(holds: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    def compare(values: Any, force_strings: Any = False) -> bool:
        if not isinstance(values, list):
            raise InspectionError("The values to compare must be a list.")
        if force_strings:
            values = [str(value) for value in values]
        try:
            return all(holds(*_alike(a, b)) for a, b in pairwise(values))
        except TypeError:
            kinds = ", ".join(type(value).__name__ for value in values)
            raise InspectionError(f"The values cannot be compared: they are of the types {kinds}.") from None

    return compare


def _is_empty(value: Any) -> bool:
    return value is None or str(value) in ("", "None", "[]", "{}")


def _is_none(value: Any) -> bool:
    return value is None or value == "None"


def _is_true(value: Any) -> bool:
    return value.lower() in ("yes", "true") if isinstance(value, str) else isinstance(value, int | float) and bool(value)


def _is_false(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() in ("no", "false")
    return value is None or (isinstance(value, int | float) and not value)


def _in_net(address: Any, subnet: Any) -> bool:
    try:
        return ipaddress.ip_address(str(address)) in ipaddress.ip_network(str(subnet), strict=False)
    except ValueError as error:
        raise InspectionError(f"Not an address and a network: {error}.") from None


def _pattern(pattern: Any) -> regex.Pattern[str]:
    import regex  # a tenth of a second that only those who have such a rule need

    text = str(pattern)
    if len(text) > _LONGEST_PATTERN:
        raise InspectionError(f"The regular expression is longer than {_LONGEST_PATTERN} characters.", remedy="Split it.")
    try:
        with warnings.catch_warnings():
            # What future versions of Python may read differently is the rule's business, not the log's.
            warnings.simplefilter("ignore", FutureWarning)
            return regex.compile(text, flags=regex.VERSION0)
    except (regex.error, OverflowError, RecursionError, MemoryError) as error:
        raise InspectionError(f"Invalid regular expression: {error}.") from None


def _search(value: Any, pattern: Any, *, whole: bool) -> bool:
    compiled = _pattern(pattern)
    look = compiled.fullmatch if whole else compiled.search
    try:
        return look(str(value), concurrent=True, timeout=MATCH_TIMEOUT) is not None
    except (TimeoutError, MemoryError):
        raise InspectionError(
            f"The regular expression {str(pattern)[:80]!r} found no end within {MATCH_TIMEOUT} s.",
            remedy="Write it without repetitions inside repetitions.",
        ) from None


def _matches(value: Any, regex: Any) -> bool:  # the argument's name is Ironic's
    return _search(value, regex, whole=True)


def _contains(value: Any, regex: Any) -> bool:
    return _search(value, regex, whole=False)


def _one_of(value: Any, values: Any = ()) -> bool:
    if not isinstance(values, list | tuple):
        raise InspectionError("The values to choose from must be a list.")
    return any(operator.eq(*_alike(value, one)) for one in values)


OPERATORS: Mapping[str, tuple[Signature, Callable[..., bool]]] = MappingProxyType(
    {
        "eq": (Signature(("values",), ("force_strings",)), _compare(operator.eq)),
        "lt": (Signature(("values",), ("force_strings",)), _compare(operator.lt)),
        "gt": (Signature(("values",), ("force_strings",)), _compare(operator.gt)),
        "is-empty": (Signature(("value",)), _is_empty),
        "in-net": (Signature(("address", "subnet")), _in_net),
        "matches": (Signature(("value", "regex")), _matches),
        "contains": (Signature(("value", "regex")), _contains),
        "one-of": (Signature(("value",), ("values",)), _one_of),
        "is-none": (Signature(("value",)), _is_none),
        "is-true": (Signature(("value",)), _is_true),
        "is-false": (Signature(("value",)), _is_false),
    }
)
"""Each operator's arguments and meaning."""


def parsed(op: str) -> tuple[str, bool]:
    """An operator's name without its `!`, and whether it had one.

    Raises:
        ValueError: it has several, or names no operator.
    """
    text = op.strip()
    name = text.removeprefix("!").strip()
    if name not in OPERATORS:
        raise ValueError(f"Unsupported condition operator: {op[:80]!r}")
    return name, text.startswith("!")
