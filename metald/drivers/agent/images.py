"""What an agent is told of the image: where to get it, what it must be, and what to make of it.

Rules: an image from the network has a checksum that proves something. What comes from metald's own boot HTTP server is the
raw disk of the image cache, by its SHA-512. An image whose format nobody declared is left to the agent's own inspection.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import math
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from metald.config import Settings, parse_listen
from metald.drivers.boot_mode import capabilities, requested_boot_mode
from metald.errors import Invalid
from metald.images.cache import CachedImage
from metald.images.config_drive import build_config_drive
from metald.images.request import ImageRequest, node_request
from metald.model import Node

INLINE = 1 << 20
"""Most bytes of a config drive, packed, that are sent with the command; a larger one is fetched by the agent."""

_SIZES = ("root_gb", "swap_mb", "ephemeral_gb")


def is_partition(info: Mapping[str, Any]) -> bool:
    """Whether the image holds one file system, and not a whole disk."""
    kind = info.get("image_type")
    return kind == "partition" or (not kind and bool(info.get("kernel")) and bool(info.get("ramdisk")))


def request(node: Node, settings: Settings) -> ImageRequest:
    """The image of a deployment, checked.

    Raises:
        Invalid: names the field that is missing or wrong.
    """
    partition = is_partition(node.instance_info)
    if partition:
        _sizes(node)
    return node_request(node, tuple(settings.images.formats), partitions=partition)


def is_local(node: Node, settings: Settings, asked: ImageRequest) -> bool:
    """Whether the agent gets the image from metald.

    Raises:
        Invalid: `image_download_source` of the node is none.
    """
    for where, source in (("instance_info", node.instance_info), ("driver_info", node.driver_info)):
        given = source.get("image_download_source")
        if given is not None and given not in ("http", "local"):
            raise Invalid(
                f"Node {node.label}: {where}/image_download_source {given!r} is not known.",
                remedy="Write http or local.",
                field=f"{where}/image_download_source",
            )
    chosen = node.instance_info.get("image_download_source") or node.driver_info.get("image_download_source")
    local = asked.url.startswith(("file:", "oci:")) or (chosen or settings.agent.image_download_source) == "local"
    if local and not settings.boot.http_listen:
        raise Invalid(
            f"Node {node.label}: its image comes from metald, but the boot HTTP server is off.",
            remedy="Set boot.http_listen, or give an http URL and image_download_source http.",
            field="instance_info/image_source",
        )
    return local


async def config_drive(given: str | Mapping[str, Any], node: Node) -> str:
    """A config drive as agents take it: gzip'ed, in base64. Raises like `build_config_drive`."""
    data = await build_config_drive(given, node)
    return await asyncio.to_thread(packed, data)


def own_url(settings: Settings, agent_url: str) -> str:
    """The boot HTTP server as the agent reaches it: the setting, or the address by which metald reaches the agent."""
    if settings.boot.http_url:
        return settings.boot.http_url.rstrip("/")
    first = settings.boot.http_listen.partition(",")[0].strip().replace("*", "0.0.0.0")  # noqa: S104
    host, port = parse_listen(first)
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = _source_towards(agent_url)
    scheme = "https" if settings.boot.http_tls_certificate else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _source_towards(url: str) -> str:
    """The address of this machine that the system uses towards a host. Nothing is sent."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, parts.port or 9999))
        return str(probe.getsockname()[0])


def image_info(node: Node, asked: ImageRequest, settings: Settings, kept: CachedImage | None, url: str) -> dict[str, Any]:
    """The parameter `image_info` of `standby.prepare_image`.

    Args:
        node: the node.
        asked: what its settings ask for.
        settings: all of them.
        kept: the image in the cache, when the agent gets it from metald.
        url: where the agent finds that.
    """
    info = node.instance_info
    name = urlsplit(asked.url).path.rpartition("/")[2] or "image"
    told: dict[str, Any] = {
        "id": f"{node.uuid}-{name}"[:200],
        "urls": [asked.url],
        "disk_format": asked.disk_format,
        "container_format": info.get("image_container_format") or "bare",
        "stream_raw_images": settings.agent.stream_raw_images,
        "image_type": "partition" if is_partition(info) else "whole-disk",
        "node_uuid": node.uuid,
    }
    if kept is not None:
        told |= {"urls": [url], "disk_format": "raw", "os_hash_algo": "sha512", "os_hash_value": kept.sha512}
    elif asked.checksum_url:
        told["checksum"] = asked.checksum_url
    else:
        told |= {"os_hash_algo": asked.algorithm, "os_hash_value": asked.digest, "checksum": asked.digest}
    if not told["disk_format"]:
        del told["disk_format"]  # the agent's inspection says what it is
    told |= {name: info[key] for name, key in _PASSED_ON if info.get(key)} if kept is None else {}
    if is_partition(info):
        told |= _partitions(node)
    return told


_PASSED_ON = (
    ("proxies", "image_proxies"),
    ("no_proxy", "image_no_proxy"),
    ("image_server_auth_strategy", "image_server_auth_strategy"),
    ("image_server_user", "image_server_user"),
    ("image_server_password", "image_server_password"),
    ("image_request_authorization", "image_request_authorization"),
)


def _sizes(node: Node) -> dict[str, int]:
    """Sizes of the partitions in MiB.

    Raises:
        Invalid: names the field that is missing or no number.
    """
    found = {}
    for name in _SIZES:
        value = node.instance_info.get(name) or (node.properties.get("local_gb") if name == "root_gb" else None) or 0
        try:
            number = float(value)
            if not math.isfinite(number) or number < 0 or (name == "root_gb" and not number):
                raise ValueError
        except (TypeError, ValueError):
            raise Invalid(
                f"Node {node.label}: instance_info/{name} must be a size.",
                remedy="A partition image needs root_gb; swap_mb and ephemeral_gb are optional.",
                field=f"instance_info/{name}",
            ) from None
        found[name.replace("_gb", "_mb")] = int(number * 1024) if name.endswith("_gb") else int(number)
    return found


def _partitions(node: Node) -> dict[str, Any]:
    info = node.instance_info
    mode = requested_boot_mode(node)
    label = capabilities(info.get("capabilities")).get("disk_label") or capabilities(node.properties.get("capabilities")).get("disk_label")
    return {
        **_sizes(node),
        "ephemeral_format": info.get("ephemeral_format"),
        "preserve_ephemeral": bool(info.get("preserve_ephemeral")),
        "kernel": info.get("kernel"),
        "ramdisk": info.get("ramdisk"),
        "disk_label": label,
        "deploy_boot_mode": mode.value if mode else None,
    }


def packed(data: bytes) -> str:
    """A config drive as agents take it: base64 of gzip. Blocks."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def described(image: CachedImage) -> dict[str, Any]:
    """What the node says of the image that its boot may fetch."""
    return {"sha512": image.sha512, "size": image.size, "format": image.format}
