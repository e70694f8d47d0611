"""What a deployment asks for: which image, with which checksum, in which declared format. Read from the node.

Precedence of checksums: `image_os_hash_value` with `image_os_hash_algo`, then `image_checksum`, which may be
`algorithm:hex`, bare hex whose length tells the algorithm, or the URL of a checksum file. MD5 is refused: it proves
nothing. An image from the network needs a checksum; one from a local file may do without, and a registry's manifest has it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from metald.errors import Invalid
from metald.images.inspector import CHECKS, spelt
from metald.model import Node

LENGTHS = {"sha256": 64, "sha512": 128}
"""The hash algorithms that are taken, and how many hexadecimal digits each has."""

FORMATS = ("raw", *CHECKS)
"""The formats of `image_disk_format` that can be deployed where the setting `images.formats` permits them."""

DEFAULT_FORMATS = ("raw", "qcow2")
_HEX = re.compile(r"[0-9a-fA-F]+", re.ASCII)
_SCHEMES = ("http", "https", "file", "oci")


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image as a deployment names it."""

    url: str
    algorithm: str | None = None
    digest: str | None = None
    """Lower-case hex."""
    checksum_url: str | None = None
    disk_format: str | None = None
    """One of `FORMATS` when declared."""
    authorization: str = field(default="", repr=False)
    """The value of the header `Authorization` for the image's server; empty for none."""
    login: tuple[str, str] | None = field(default=None, repr=False)
    """User and password for a registry; the user may be empty."""
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """URLs of proxies by the scheme of what they are for."""
    no_proxy: tuple[str, ...] = ()
    """Hosts and domains that no proxy is used for."""
    architecture: str = ""
    """Of the machine: which platform's image to take from a registry."""
    origin: ImageRequest | None = field(default=None, repr=False)
    """What this was made of, when a registry has completed it: its authorization lasts for a minute or so."""

    @property
    def shown(self) -> str:
        """The URL for people: without user, password, query and fragment, which may be secrets."""
        return shown_url(self.url)


def shown_url(url: str) -> str:
    """A URL without what may be secret."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def node_request(node: Node, formats: Collection[str] = DEFAULT_FORMATS, *, partitions: bool = False) -> ImageRequest:
    """Read the image of a node's deployment.

    Args:
        formats: the formats that may be declared (setting `images.formats`).
        partitions: whether a partition image will do.

    Raises:
        Invalid: names the field that is missing or wrong, and what it may be.
    """
    info = dict(node.instance_info)
    if partitions:
        info["image_type"] = "whole-disk"
    if "image_pull_secret" not in info and node.driver_info.get("image_pull_secret"):
        info["image_pull_secret"] = node.driver_info["image_pull_secret"]
    architecture = node.properties.get("cpu_arch")
    return image_request(info, node.label, formats, architecture=architecture if isinstance(architecture, str) else "")


def image_request(
    info: Mapping[str, Any], label: str, formats: Collection[str] = DEFAULT_FORMATS, *, architecture: str = ""
) -> ImageRequest:
    """Read the image of a deployment.

    Args:
        info: the node's `instance_info`.
        label: what errors call the node.
        formats: the formats that may be declared.
        architecture: of the machine, as in `properties/cpu_arch`.

    Raises:
        Invalid: names the field that is missing or wrong, and what it may be.
    """
    url = _text(info, "image_source", label)
    if not url:
        raise Invalid(
            f"Node {label}: instance_info has no image_source.",
            remedy="Set instance_info/image_source to an http, https, file or oci URL.",
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
    if not digest and not checksum_url and not url.startswith(("file:", "oci:")):
        raise Invalid(
            f"Node {label}: the image {shown_url(url)} has no checksum.",
            remedy="Set instance_info/image_checksum to sha256:HEX, sha512:HEX or the URL of a checksum file.",
            field="instance_info/image_checksum",
        )
    if checksum_url and url.startswith("oci:"):
        raise Invalid(
            f"Node {label}: an image from a registry has its digest there.",
            remedy="Remove instance_info/image_checksum, or give the digest itself.",
            field="instance_info/image_checksum",
        )
    return ImageRequest(
        url,
        algorithm,
        digest,
        checksum_url,
        _format(info, label, formats),
        authorization="" if url.startswith("oci:") else _authorization(info, label),
        login=_login(info, label) if url.startswith("oci:") else None,
        proxies=_proxies(info, label),
        no_proxy=tuple(filter(None, map(str.strip, _text(info, "image_no_proxy", label).split(",")))),
        architecture=architecture,
    )


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
            f"Node {label}: instance_info/{name} is not an http, https, file or oci URL.",
            remedy="Write http://host/path, https://host/path, file:///path or oci://registry/name:tag.",
            field=f"instance_info/{name}",
        )


def _format(info: Mapping[str, Any], label: str, formats: Collection[str]) -> str | None:
    declared = spelt(_text(info, "image_disk_format", label).lower())
    if not declared or declared in formats:
        return declared or None
    permit = f", or add {declared} to the setting images.formats" if declared in FORMATS else ""
    raise Invalid(
        f"Node {label}: image_disk_format {declared!r} cannot be deployed.",
        remedy=f"Convert the image (qemu-img convert -O raw IN OUT) and declare raw{permit}.",
        field="instance_info/image_disk_format",
    )


def _authorization(info: Mapping[str, Any], label: str) -> str:
    """The header for the image's server: one that is given whole, in base64, or made of user and password."""
    given = _text(info, "image_request_authorization", label)
    if given:
        try:
            return base64.b64decode(given, validate=True).decode("ascii")
        except (binascii.Error, UnicodeDecodeError):
            raise Invalid(
                f"Node {label}: image_request_authorization is not base64 of a header's value.",
                remedy="Give base64 of the value of the header Authorization.",
                field="instance_info/image_request_authorization",
            ) from None
    strategy = _text(info, "image_server_auth_strategy", label)
    if strategy in ("", "noauth"):
        return ""
    user, password = (_text(info, f"image_server_{name}", label) for name in ("user", "password"))
    if strategy != "http_basic" or not user or not password:
        raise Invalid(
            f"Node {label}: image_server_auth_strategy {strategy!r} cannot be used.",
            remedy="It is noauth or http_basic; the latter needs image_server_user and image_server_password.",
            field="instance_info/image_server_auth_strategy",
        )
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _login(info: Mapping[str, Any], label: str) -> tuple[str, str] | None:
    """User and password of a registry. As Ironic has it: a pull secret is `user:password`, or a token alone."""
    secret = _text(info, "image_pull_secret", label)
    if secret:
        user, colon, password = secret.partition(":")
        return (user, password) if colon else ("", secret)
    user, password = (_text(info, f"image_server_{name}", label) for name in ("user", "password"))
    return (user, password) if password else None


def _proxies(info: Mapping[str, Any], label: str) -> dict[str, str]:
    given = info.get("image_proxies")
    if not given:
        return {}
    good = isinstance(given, Mapping) and all(
        kind in ("http", "https") and isinstance(url, str) and url.startswith(("http://", "https://")) for kind, url in given.items()
    )
    if not good:
        raise Invalid(
            f"Node {label}: image_proxies must be an object of proxies by scheme.",
            remedy='Write {"http": "http://proxy:3128", "https": "http://proxy:3128"}.',
            field="instance_info/image_proxies",
        )
    return dict(given)


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
