"""What must never leave the daemon: which values are secrets, and how they are hidden.

A secret is known by the name of its key, wherever it is nested; inside texts by the `password=...` look of it. Hiding is
for readers only: what is stored stays as it was given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MASK = "******"
_USUAL = 64
"""Characters of a key that is worth remembering."""

_PARTS = (
    "adminpass|admin_pass|password|passwd|new_pass|token|secret|sys_pswd|configdrive|chappassword|encrypted_key|private_key|fernetkey|"
    "sslkey|passphrase|key_contents|ipmi_hex_kg_key|snmp_auth_key|snmp_priv_key|cephclusterfsid|cephmonkey|image_url"
)
_NUMBERS = (int, float, bool)
_SECRET_KEY = re.compile(_PARTS, re.IGNORECASE)
_IN_TEXT = re.compile(
    r"((?:admin_?pass|password|passwd|new_pass|token|secret|private_key|passphrase|kg_key)[\w-]*[\"']?\s*[=:]\s*[\"']?)([^\s\"'&,;]+)",
    re.IGNORECASE,
)
_IN_URL = re.compile(r"(\w+://[^\s/:@]*:)([^\s/@]+)(?=@)")


def is_secret(key: str) -> bool:
    """Whether a value of this key must not be shown."""
    return _known(key) if len(key) <= _USUAL else _SECRET_KEY.search(key) is not None


@lru_cache(maxsize=4096)
def _known(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def mask_text(text: str) -> str:
    """A text for people or logs, with what looks like a password or token replaced."""
    if "=" in text or ":" in text:
        text = _IN_URL.sub(rf"\1{MASK}", text)
        return _IN_TEXT.sub(rf"\1{MASK}", text)
    return text


def is_plain(data: dict[str, Any]) -> bool:
    """Whether a JSON object of texts and numbers holds nothing that `masked` would hide. What is nested is not looked at, and not plain."""
    if not _are_open(tuple(data)):
        return False
    for value in data.values():
        if isinstance(value, str):
            if ("=" in value or ":" in value) and mask_text(value) != value:
                return False
        elif value is not None and type(value) not in _NUMBERS:
            return False
    return True


@lru_cache(maxsize=512)
def _are_open(keys: tuple[str, ...]) -> bool:
    """Whether none of the keys is of a secret. Of the objects that events tell there are not many forms."""
    return not any(map(is_secret, keys))


def masked(value: Any) -> Any:
    """A copy of a JSON value in which every secret reads `******`."""
    kind = type(value)  # every event passes by here: what values mostly are is seen without a look at abstract classes
    if kind is str:
        return mask_text(value)
    if value is None or kind in _NUMBERS:
        return value
    if kind is dict or isinstance(value, Mapping):
        return {k: MASK if v is not None and is_secret(k) else masked(v) for k, v in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return mask_text(value) if isinstance(value, str) else value
