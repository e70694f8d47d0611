"""The firmware mode that a node shall boot in, derived from what operators and clients wrote into the node.

Rule: one place decides, so that the boot flags in the BMC, the boot scripts and the partitions on the disk agree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from metald.model import BootMode, Node


def capabilities(value: Any) -> dict[str, str]:
    """Ironic's capabilities as a dict: `"boot_mode:uefi,boot_option:local"`, a JSON object as text, or a mapping.

    What cannot be read is left out: capabilities are free text that schedulers read as well.
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    if isinstance(value, Mapping):
        return {str(key).strip(): str(word).strip() for key, word in value.items()}
    if not isinstance(value, str):
        return {}
    pairs = (part.partition(":") for part in value.split(","))
    return {key.strip(): word.strip() for key, colon, word in pairs if colon and key.strip()}


def wants_secure_boot(node: Node) -> bool:
    """Whether the instance, or else the node, asks for secure boot."""
    wanted = capabilities(node.instance_info.get("capabilities"))
    has = capabilities(node.properties.get("capabilities"))
    return "true" in (wanted.get("secure_boot", "").lower(), has.get("secure_boot", "").lower())


def has_secure_boot(node: Node) -> bool | None:
    """Whether the node's firmware runs what is signed only, as it was read or is asked for; None when nobody said."""
    return node.secure_boot if node.secure_boot is not None else wants_secure_boot(node) or None


def asked_boot_mode(node: Node) -> BootMode | None:
    """The mode that somebody wrote into the node, or None.

    Looked at in this order: secure boot (which needs UEFI), the instance's capabilities, the node's capabilities,
    `instance_info.deploy_boot_mode`.
    """
    if wants_secure_boot(node):
        return BootMode.UEFI
    sources = (node.instance_info.get("capabilities"), node.properties.get("capabilities"))
    return _mode(*(capabilities(source).get("boot_mode") for source in sources), node.instance_info.get("deploy_boot_mode"))


def requested_boot_mode(node: Node) -> BootMode | None:
    """The mode asked for (`asked_boot_mode`), else the one that was last observed (`node.boot_mode`), else None."""
    return asked_boot_mode(node) or _mode(node.boot_mode)


def _mode(*words: object) -> BootMode | None:
    for word in words:
        if isinstance(word, str) and word.lower() in set(BootMode):
            return BootMode(word.lower())
    return None


def boot_mode(node: Node, default: BootMode = BootMode.BIOS) -> BootMode:
    """The mode asked for, else `default`."""
    return requested_boot_mode(node) or default
