"""Config drives: what a deployed system reads of itself at its first boot.

Given as base64 of a gzip'ed ISO 9660 image, as a URL of one, or as an object that an ISO is made of: label `config-2`,
files below `openstack/latest` and `openstack/2012-08-10`, with Joliet and Rock Ridge names. Building blocks, and runs in
a thread. Sizes are limited before anything is unpacked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import zlib
from collections.abc import Mapping
from typing import Any

from metald.errors import ImageError, Invalid
from metald.images.sources import fetch_small
from metald.model import Node

LARGEST = 64 << 20
"""Bytes of a config drive's partition, and so of the largest config drive."""

_FETCH_TIMEOUT = 60.0
_FIELD = "instance_info/configdrive"
_KEYS = ("meta_data", "network_data", "user_data", "vendor_data")
_VERSIONS = ("latest", "2012-08-10")
_ISO_MARK = 0x8001


def check_config_drive(given: object, label: str) -> None:
    """Check the kind of what was given, without unpacking it.

    Raises:
        Invalid: neither text nor object, or an object with unknown keys.
    """
    if isinstance(given, str):
        return
    if not isinstance(given, Mapping):
        raise Invalid(f"Node {label}: the config drive must be an object, base64 text or a URL.", field=_FIELD)
    unknown = [key for key in given if key not in _KEYS]
    if unknown:
        raise Invalid(f"Node {label}: the config drive has an unknown key {unknown[0]!r}; known are {', '.join(_KEYS)}.", field=_FIELD)
    for key in ("meta_data", "network_data", "vendor_data"):
        if given.get(key) is not None and not isinstance(given[key], Mapping):
            raise Invalid(f"Node {label}: {key} of the config drive must be an object.", field=_FIELD)


async def build_config_drive(given: str | Mapping[str, Any], node: Node) -> bytes:
    """The ISO image of a node's config drive.

    Raises:
        Invalid: it cannot be read.
        ImageError: its URL cannot be fetched, or it is too large.
    """
    check_config_drive(given, node.label)
    if isinstance(given, Mapping):
        return await asyncio.to_thread(make_iso, files_of(given, node))
    text = given.strip()
    if text.startswith(("http://", "https://")):
        data = await fetch_small(text, _FETCH_TIMEOUT, 2 * LARGEST)
        if data[_ISO_MARK : _ISO_MARK + 5] == b"CD001":
            return _bounded(data, node.label)
        text = data.decode("latin-1").strip()
    return await asyncio.to_thread(unpack, text, node.label)


def _bounded(data: bytes, label: str) -> bytes:
    if len(data) > LARGEST:
        raise ImageError(f"Node {label}: the config drive has {len(data)} bytes, more than {LARGEST}.", remedy="Make it smaller.")
    return data


def unpack(text: str, label: str) -> bytes:
    """Undo base64 and gzip. Blocks.

    Raises:
        Invalid: it is not base64, or not gzip.
        ImageError: it unpacks to more than 64 MiB.
    """
    try:
        packed = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(
            f"Node {label}: the config drive is not base64.",
            remedy="Give base64 of a gzip'ed ISO 9660 image, a URL of it, or an object.",
            field=_FIELD,
        ) from None
    if packed[:2] != b"\x1f\x8b":
        return _bounded(packed, label)
    inflate = zlib.decompressobj(wbits=31)
    try:
        data = inflate.decompress(packed, LARGEST + 1)
        complete = inflate.eof
    except zlib.error:
        complete, data = False, b""
    if len(data) > LARGEST:
        raise ImageError(f"Node {label}: the config drive unpacks to more than {LARGEST} bytes.", remedy="Make it smaller.")
    if not complete:
        raise Invalid(f"Node {label}: the config drive's gzip is damaged or cut off.", field=_FIELD)
    return data


def files_of(given: Mapping[str, Any], node: Node) -> dict[str, bytes]:
    """The files of a config drive by their path below `openstack/VERSION/`."""
    meta = {"uuid": node.uuid, "name": node.name or node.uuid, **(given.get("meta_data") or {})}
    files = {"meta_data.json": json.dumps(meta).encode()}
    if given.get("network_data"):
        files["network_data.json"] = json.dumps(given["network_data"]).encode()
    if given.get("vendor_data"):
        files["vendor_data2.json"] = json.dumps(given["vendor_data"]).encode()
    user = given.get("user_data")
    if user is not None:
        files["user_data"] = (user if isinstance(user, str) else json.dumps(user)).encode()
    return files


def make_iso(files: Mapping[str, bytes]) -> bytes:
    """An ISO 9660 image labelled `config-2` with the files for each version. Blocks.

    Raises:
        ImageError: it is larger than a config drive may be.
    """
    if sum(map(len, files.values())) * len(_VERSIONS) > LARGEST - (1 << 20):
        raise ImageError(f"The config drive is larger than {LARGEST} bytes.", remedy="Make user_data smaller.")
    import pycdlib  # few daemons make one

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="config-2")
    try:
        iso.add_directory("/OPENSTACK", rr_name="openstack", joliet_path="/openstack")
        for number, version in enumerate(_VERSIONS):
            iso.add_directory(f"/OPENSTACK/V{number}", rr_name=version, joliet_path=f"/openstack/{version}")
            for index, (name, content) in enumerate(sorted(files.items())):
                place = f"/OPENSTACK/V{number}/F{index}.;1"
                iso.add_fp(io.BytesIO(content), len(content), place, rr_name=name, joliet_path=f"/openstack/{version}/{name}")
        output = io.BytesIO()
        iso.write_fp(output)
    finally:
        iso.close()
    return output.getvalue()
