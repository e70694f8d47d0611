"""Texts of inspection rules with places for values: `{inventory[cpu][count]}`, `{node.driver_info[ipmi_address]}`, `{item}`.

The form is that of Python's `str.format`, without its reach: a place leads through JSON values only, never into objects.
A text whose places cannot all be filled stays as it was written, as with Ironic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from metald.model.masking import is_secret

HIDDEN = "***"

_PLACE = re.compile(r"(\w+)((?:\.\w+|\[[^\[\]]+\])*)")
_STEP = re.compile(r"\.(\w+)|\[([^\[\]]+)\]")
_MASKED = ("inventory", "plugin_data", "item")


class Scope:
    """The values that texts may name.

    Args:
        roots: JSON values by the name that places begin with.
        mask: whether secrets in what the ramdisk told read `***`.
    """

    def __init__(self, roots: Mapping[str, Any], *, mask: bool) -> None:
        self._roots = roots
        self._mask = mask

    def with_item(self, item: Any) -> Scope:
        """The same with `item`, the present one of a loop."""
        return Scope({**self._roots, "item": item}, mask=self._mask)

    def value(self, given: Any) -> Any:
        """`given` with every place filled; a text that is one place and nothing else becomes the value itself."""
        return self._filled(given, whole=True)

    def text(self, given: Any) -> Any:
        """`given` with every place filled, always as text."""
        return self._filled(given, whole=False)

    def _filled(self, given: Any, *, whole: bool) -> Any:
        if isinstance(given, str):
            return self._fill(given, whole=whole)
        if isinstance(given, Mapping):
            return {self._fill(str(key), whole=False): self._filled(item, whole=whole) for key, item in given.items()}
        if isinstance(given, list):
            return [self._filled(item, whole=whole) for item in given]
        return given

    def _fill(self, text: str, *, whole: bool) -> Any:
        if "{" not in text and "}" not in text:
            return text
        try:
            parts = list(Formatter().parse(text))
            if whole and len(parts) == 1 and not parts[0][0] and parts[0][1] is not None:
                return self._found(parts[0][1], *parts[0][2:])
            return "".join(
                literal if place is None else literal + str(self._found(place, spec, how)) for literal, place, spec, how in parts
            )
        except (ValueError, LookupError):
            return text

    def _found(self, place: str, spec: str | None, how: str | None) -> Any:
        """The value at a place.

        Raises:
            LookupError: there is none.
        """
        match = _PLACE.fullmatch(place)
        if match is None or spec or how:
            raise LookupError(place)
        root = match[1]
        value = self._roots[root]
        mask = self._mask and root in _MASKED
        for step in _STEP.finditer(match[2]):
            key = step[1] or step[2]
            if isinstance(value, Mapping):
                value = HIDDEN if mask and is_secret(key) and key in value else value[key]
            elif isinstance(value, list):
                value = value[int(key)]
            else:
                raise LookupError(place)
        return _masked(value) if mask else value


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: HIDDEN if is_secret(key) else _masked(item) for key, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value
