"""The public name of one boot of a ramdisk."""

from __future__ import annotations

import hashlib

from metald.model.node import Node


def boot_id(node: Node) -> str:
    """A public name for the node's present boot, made from its secret token; empty when it has none."""
    token = str(node.driver_internal_info.get("boot_token") or "")
    return hashlib.sha256(token.encode()).hexdigest()[:16] if token else ""
