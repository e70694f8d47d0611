"""What a deployment asks for: which image, with which checksum, in which declared format. Read from `instance_info`.

Precedence of checksums: `image_os_hash_value` with `image_os_hash_algo`, then `image_checksum`, which may be
`algorithm:hex`, bare hex whose length tells the algorithm, or the URL of a checksum file. MD5 is refused: it proves
nothing. An image from the network needs a checksum; one from a local file may do without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from metald.errors import Invalid

LENGTHS = {"sha256": 64, "sha512": 128}
"""The hash algorithms that are taken, and how many hexadecimal digits each has."""

FORMATS = ("raw", "qcow2")
"""The values of `image_disk_format` that can be deployed."""

_HEX = re.compile(r"[0-9a-fA-F]+", re.ASCII)
_SCHEMES = ("http", "https", "file")


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image as a deployment names it."""

    url: str
    algorithm: str | None = None
    digest: str | None = None
    """Lower-case hex."""
    checksum_url: str | None = None
    disk_format: str | None = None
    """`raw` or `qcow2` when declared."""

    @property
    def shown(self) -> str:
        """The URL for people: without user, password, query and fragment, which may be secrets."""
        return shown_url(self.url)


def shown_url(url: str) -> str:
    """A URL without what may be secret."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def image_request(info: Mapping[str, Any], label: str) -> ImageRequest:
    """Read the image of a deployment.

    Args:
        info: the node's `instance_info`.
        label: what errors call the node.

    Raises:
        Invalid: names the field that is missing or wrong, and what it may be.
    """
    url = _text(info, "image_source", label)
    if not url:
        raise Invalid(
            f"Node {label}: instance_info has no image_source.",
            remedy="Set instance_info/image_source to an http, https or file URL.",
            field="instance_info/image_source",
        )
    _check_url(url, "image_source", label)
    if info.get("image_type") == "partition" or (not info.get("image_type") and info.get("kernel") and info.get("ramdisk")):
        raise Invalid(
            f"Node {label}: partition images cannot be deployed.",
            remedy="Use a whole-disk image and remove instance_info/kernel and ramdisk.",
            field="instance_info/image_type",
        )
    algorithm, digest, checksum_url = _checksum(info, label)
    if not digest and not checksum_url and not url.startswith("file:"):
        raise Invalid(
            f"Node {label}: the image {shown_url(url)} has no checksum.",
            remedy="Set instance_info/image_checksum to sha256:HEX, sha512:HEX or the URL of a checksum file.",
            field="instance_info/image_checksum",
        )
    return ImageRequest(url, algorithm, digest, checksum_url, _format(info, label))


def _text(info: Mapping[str, Any], name: str, label: str) -> str:
    value = info.get(name)
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        raise Invalid(f"Node {label}: instance_info/{name} must be a text.", field=f"instance_info/{name}")
    return value.strip()


def _check_url(url: str, name: str, label: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in _SCHEMES and (bool(parts.hostname) if parts.scheme != "file" else parts.path.startswith("/"))
        _ = parts.port
    except ValueError:
        good = False
    if not good or any(ord(c) < 33 or ord(c) == 127 for c in url):
        raise Invalid(
            f"Node {label}: instance_info/{name} is not an http, https or file URL.",
            remedy="Write http://host/path, https://host/path or file:///path.",
            field=f"instance_info/{name}",
        )


def _format(info: Mapping[str, Any], label: str) -> str | None:
    declared = _text(info, "image_disk_format", label).lower()
    if declared and declared not in FORMATS:
        raise Invalid(
            f"Node {label}: image_disk_format {declared!r} cannot be deployed.",
            remedy="Convert the image: qemu-img convert -O raw IN OUT, and declare raw.",
            field="instance_info/image_disk_format",
        )
    return declared or None


def _checksum(info: Mapping[str, Any], label: str) -> tuple[str | None, str | None, str | None]:
    value = _text(info, "image_os_hash_value", label)
    if value:
        algorithm = _text(info, "image_os_hash_algo", label)
        return *parse_digest(f"{algorithm}:{value}" if algorithm else value, "image_os_hash_value", label), None
    value = _text(info, "image_checksum", label)
    if value.startswith(("http://", "https://")):
        _check_url(value, "image_checksum", label)
        return None, None, value
    if value:
        return *parse_digest(value, "image_checksum", label), None
    return None, None, None


def parse_digest(text: str, name: str, label: str) -> tuple[str, str]:
    """Read `algorithm:hex`, or bare hex whose length tells the algorithm.

    Raises:
        Invalid: unknown or weak algorithm, wrong length, not hex.
    """
    named, colon, digits = text.strip().rpartition(":")
    named = named.lower().replace("-", "")
    lengths = {length: algorithm for algorithm, length in LENGTHS.items()}
    algorithm = named if colon else lengths.get(len(digits), "md5" if len(digits) == 32 else "")
    field = f"instance_info/{name}"
    if algorithm in ("md5", "sha1"):
        remedy = "Give its SHA-256 or SHA-512 instead: sha256sum IMAGE."
        raise Invalid(f"Node {label}: {name} is {algorithm.upper()}, which proves nothing.", remedy=remedy, field=field)
    if algorithm not in LENGTHS or len(digits) != LENGTHS[algorithm] or not _HEX.fullmatch(digits):
        remedy = "Write sha256:HEX (64 digits), sha512:HEX (128 digits), or the URL of a checksum file."
        raise Invalid(f"Node {label}: {name} is no checksum that can be checked.", remedy=remedy, field=field)
    return algorithm, digits.lower()


_LINE = re.compile(r"^\\?([0-9a-fA-F]{64,128})\s+[ *]?(.+)$", re.ASCII)
_BSD_LINE = re.compile(r"^(SHA256|SHA512)\s*\((.+)\)\s*=\s*([0-9a-fA-F]+)$", re.ASCII)


def find_digest(text: str, file_name: str) -> tuple[str, str] | None:
    """Find an image's digest in a checksum file.

    Takes the output of `sha256sum` and `sha512sum`, the BSD form `SHA256 (name) = hex`, and a file with one bare digest.

    Returns:
        Algorithm and lower-case hex, or None when the file does not tell of this name.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("#", "-----"))]
    lengths = {length: algorithm for algorithm, length in LENGTHS.items()}
    for line in lines:
        if (bsd := _BSD_LINE.match(line)) and _base(bsd[2]) == file_name:
            digits = bsd[3]
        elif (plain := _LINE.match(line)) and _base(plain[2]) == file_name:
            digits = plain[1]
        else:
            continue
        if len(digits) in lengths:
            return lengths[len(digits)], digits.lower()
    if len(lines) == 1 and _HEX.fullmatch(lines[0]) and len(lines[0]) in lengths:
        return lengths[len(lines[0])], lines[0].lower()
    return None


def _base(path: str) -> str:
    return path.strip().rpartition("/")[2]
