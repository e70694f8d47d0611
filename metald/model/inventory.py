"""Inventory: what the ramdisk of the last inspection told of one node's machine, and what the inspection made of it."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from metald.model.resource import Resource


class Inventory(Resource, frozen=True, kw_only=True):
    """The findings about one node. Compressed, as every row is held in memory: an inventory is long and seldom read."""

    node_uuid: str
    document: bytes
    """zlib (RFC 1950) over a JSON object with `inventory` and `plugin_data`; see `packed` and `unpacked`."""


def packed(inventory: Any, plugin_data: Any) -> bytes:
    """The document of an inventory. Takes milliseconds for each megabyte: call it in a thread."""
    return zlib.compress(msgspec.json.encode({"inventory": inventory, "plugin_data": plugin_data}))


def unpacked(document: bytes) -> bytes:
    """The JSON object in a document. Takes milliseconds for each megabyte: call it in a thread."""
    return zlib.decompress(document)
