"""Which disk of a machine becomes its root disk: the operator's hints against what the machine has.

Hints stand in `instance_info.root_device`, else in `properties.root_device`, as Ironic has them: each names a property
of the disk and an expression; a disk must match all of them. Without hints the smallest disk that is large enough is taken.
Texts are compared in lower case. An error lists every disk with the reason why it was not taken.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from metald.errors import DeployError, Invalid
from metald.model import Node

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Disk:
    """What is known of a disk; texts are empty where the machine does not tell."""

    name: str
    """The kernel's name, such as `/dev/sda`."""
    size: int
    """Bytes."""
    sector: int = 512
    """Bytes of a logical sector."""
    rotational: bool = False
    read_only: bool = False
    model: str = ""
    vendor: str = ""
    serial: str = ""
    wwn: str = ""
    wwn_with_extension: str = ""
    wwn_vendor_extension: str = ""
    hctl: str = ""
    by_path: str = ""
    tran: str = ""

    @property
    def kernel_name(self) -> str:
        """The bare name: `sda`."""
        return self.name.removeprefix("/dev/")

    def __str__(self) -> str:
        known = [self.vendor, self.model, f"serial {self.serial}" if self.serial else "", self.tran]
        return f"{self.name} ({', '.join([f'{self.size / GIB:.1f} GiB', *filter(None, known)])})"


KEYS = (
    *("size", "model", "vendor", "serial", "wwn", "wwn_with_extension", "wwn_vendor_extension"),
    *("name", "rotational", "hctl", "by_path", "tran"),
)
"""The properties that hints may name. `size` is in GiB, rounded down."""

_NUMERIC: dict[str, Callable[[float, float], bool]] = {
    # `=` means "at least", as in the compute scheduler that these expressions come from
    "=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_TEXT: dict[str, Callable[[str, str], bool]] = {
    "s==": operator.eq,
    "s!=": operator.ne,
    "s>=": operator.ge,
    "s>": operator.gt,
    "s<=": operator.le,
    "s<": operator.lt,
}
_OPERATORS = (*_TEXT, *_NUMERIC, "<in>", "<all-in>", "<or>", "<range-in>")
_OPERATOR = re.compile("|".join(re.escape(one) for one in sorted(_OPERATORS, key=len, reverse=True)))
_RANGE = re.compile(r"([\[(])\s*(\S+)\s+(\S+)\s*([\])])")

Hints = Mapping[str, Callable[[Disk], bool]]


def root_hints(node: Node) -> Mapping[str, Any]:
    """The hints that count for the node, as they were written; empty when there are none.

    Raises:
        Invalid: they are no object.
    """
    for source, where in ((node.instance_info, "instance_info"), (node.properties, "properties")):
        given = source.get("root_device")
        if given:
            if not isinstance(given, Mapping):
                raise Invalid(f"Node {node.label}: {where}/root_device must be an object.", field=f"{where}/root_device")
            return given
    return {}


def parse_hints(given: Mapping[str, Any], label: str) -> Hints:
    """Turn hints into tests.

    Raises:
        Invalid: an unknown property, or an expression that cannot be read.
    """
    tests: dict[str, Callable[[Disk], bool]] = {}
    for key, value in given.items():
        try:
            tests[key] = _parse(key, value)
        except ValueError as error:
            raise Invalid(
                f"Node {label}: the root device hint {key} = {value!r} cannot be used: {error}.", field=f"properties/root_device/{key}"
            ) from None
    return tests


def _parse(key: str, value: Any) -> Callable[[Disk], bool]:
    if key not in KEYS:
        raise ValueError(f"the properties of a disk are {', '.join(KEYS)}")
    if key == "rotational":
        wanted = _boolean(value)
        return lambda disk: disk.rotational is wanted
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise ValueError("it must be a text or a number")
    numeric = key == "size"
    test = _expression(str(value).strip(), numeric=numeric)
    if numeric:
        return lambda disk: test(str(disk.size // GIB))
    return lambda disk: bool(getattr(disk, key)) and test(str(getattr(disk, key)).lower())


def _boolean(value: Any) -> bool:
    word = str(value).strip().lower()
    if word in ("true", "yes", "on", "1", "t", "y"):
        return True
    if word in ("false", "no", "off", "0", "f", "n"):
        return False
    raise ValueError("it must be true or false")


def _expression(text: str, *, numeric: bool) -> Callable[[str], bool]:
    found = _OPERATOR.match(text)
    word = found[0] if found else ("==" if numeric else "s==")
    rest = text[found.end() :].strip() if found else text
    if not rest:
        raise ValueError(f"nothing follows the operator {word}")
    if word == "<range-in>":
        return _within(rest)
    if word == "<or>":
        values = [_value(one) for one in rest.split("<or>")]
        if numeric:
            numbers = [_number(one) for one in values]
            return lambda have: _number(have) in numbers
        return lambda have: have in values
    if word in ("<in>", "<all-in>"):
        parts = [_value(rest)] if word == "<in>" else [_value(one) for one in rest.split()]
        return lambda have: all(part in have for part in parts)
    if word in _NUMERIC:
        number, compare = _number(_value(rest)), _NUMERIC[word]
        return lambda have: _is_number(have) and compare(_number(have), number)
    wanted, order = _value(rest), _TEXT[word]
    return lambda have: order(have, wanted)


def _value(text: str) -> str:
    # as in Ironic, blanks and signs may be written percent-encoded
    return unquote(text.strip()).lower()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _within(text: str) -> Callable[[str], bool]:
    found = _RANGE.fullmatch(text)
    if not found:
        raise ValueError("a range is written <range-in> [ 10 20 ], with ( or ) where the end does not belong to it")
    low, high = _number(found[2]), _number(found[3])
    above = operator.ge if found[1] == "[" else operator.gt
    below = operator.le if found[4] == "]" else operator.lt
    return lambda have: _is_number(have) and above(float(have), low) and below(float(have), high)


def choose(disks: Sequence[Disk], given: Mapping[str, Any], label: str, *, minimum: int = 4 * GIB) -> Disk:
    """The disk that becomes the root disk: the first that matches all hints, or without hints the smallest that is large enough.

    Args:
        minimum: bytes that are large enough.

    Raises:
        Invalid: a hint cannot be read.
        DeployError: no disk will do; lists each and why.
    """
    tests = parse_hints(given, label)
    reasons: list[str] = []
    fitting: list[Disk] = []
    for disk in disks:
        reason = _why_not(disk, tests, given, minimum)
        if reason:
            reasons.append(f"{disk}: {reason}")
        else:
            fitting.append(disk)
    if fitting:
        return fitting[0] if tests else min(fitting, key=lambda disk: (disk.size, disk.name))
    what = "matches the root device hints" if tests else f"has at least {minimum / GIB:.1f} GiB"
    raise DeployError(
        f"Node {label}: no disk {what}. Found: {'; '.join(reasons) or 'no disk at all'}.",
        remedy="Change properties/root_device." if disks else "Check the disk controller, and that the ramdisk's kernel has its driver.",
    )


def _why_not(disk: Disk, tests: Hints, given: Mapping[str, Any], minimum: int) -> str:
    if not disk.size:
        return "it has no medium"
    if disk.read_only:
        return "it is read-only"
    if not tests:
        return "" if disk.size >= minimum else "it is too small"
    failed = [key for key, test in tests.items() if not test(disk)]
    return ", ".join(f"{key} is {_shown(disk, key)}, wanted {given[key]!r}" for key in failed)


def _shown(disk: Disk, key: str) -> str:
    if key == "size":
        return str(disk.size // GIB)
    value = getattr(disk, key)
    return str(value).lower() if value != "" else "unknown"
