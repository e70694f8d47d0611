"""Instances that boot from the network: what their machine loads, and the scripts that have it loaded.

An instance is an ISO image, a kernel with its initramfs, or the Anaconda installer that writes the disk. Which it is stands
in `driver_internal_info[KEY]`, put there by the deploy interface; `TOKEN` beside it is the secret by which the machine gets
files that metald itself serves. Both stay as long as the instance, for its machine boots by them again and again.

Rules: only URLs that mean nothing to boot loaders come into a script (`render.is_boot_url`), and the operator's parameters are
those that `render.kernel_parameters` lets through.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import Any

from metald.boot import render
from metald.boot.render import Asker
from metald.errors import Invalid
from metald.model import Node

KEY = "boot_instance"
TOKEN = "boot_instance_token"  # noqa: S105  # the name of one
FILES: Mapping[str, str] = {"iso": "boot_iso", "kernel": "instance_kernel", "ramdisk": "instance_ramdisk", "stage2": "instance_stage2"}
"""Parts of an instance, and the names under which the boot HTTP server has those of `file://` URLs."""


def checked(node: Node, boot: Mapping[str, str]) -> dict[str, str]:
    """What an instance boots, when a script can have it loaded.

    Args:
        node: for errors.
        boot: `kind` (`iso`, `ramdisk` or `anaconda`) and the URLs of its parts.

    Raises:
        Invalid: names the field of `instance_info`, and the remedy.
    """
    for part, url in boot.items():
        if part != "kind" and not render.is_boot_url(url):
            field = f"instance_info/{'boot_iso' if part == 'iso' else part}"
            raise Invalid(f"Node {node.label}: {field} cannot be loaded.", remedy="Write a plain http, https or file URL.", field=field)
    render.kernel_parameters(node, "")
    return dict(boot)


def with_instance(info: Mapping[str, Any], boot: Mapping[str, str] | None) -> dict[str, Any]:
    """`driver_internal_info` of a node whose instance boots so; None: from its disk."""
    kept = {key: value for key, value in info.items() if key not in (KEY, TOKEN)}
    if boot is None:
        return kept
    token = info.get(TOKEN) if info.get(KEY) == boot else None
    return {**kept, KEY: dict(boot), TOKEN: token or secrets.token_urlsafe(32)}


def check_token(node: Node | None, token: str) -> bool:
    """Whether `token` is that of the node's instance. Takes as long for a wrong token as for no node at all."""
    kept = node.driver_internal_info.get(TOKEN) if node is not None else None
    expected = kept if isinstance(kept, str) and kept else ""
    same = hmac.compare_digest(token.encode(), (expected or "x" * 43).encode())
    return same and bool(expected)


def url_of(node: Node, part: str, asker: Asker) -> str:
    """Where the machine loads a part of its instance from."""
    url = str(node.driver_internal_info[KEY][part])
    return _own(node, FILES[part], asker) if url.startswith("file:") else url


def _own(node: Node, name: str, asker: Asker) -> str:
    return f"{asker.base_url}/boot/{node.uuid}/{node.driver_internal_info[TOKEN]}/{name}"


def parameters(node: Node, asker: Asker, default: str) -> str:
    """The kernel line of an instance that has a kernel.

    Raises:
        Invalid: see `render.kernel_parameters`.
    """
    boot = node.driver_internal_info[KEY]
    given = render.kernel_parameters(node, default)
    if boot["kind"] != "anaconda":
        return f"root=/dev/ram0 text {given}".strip()
    source = f"inst.repo={boot['repo']}" if "repo" in boot else f"inst.stage2={url_of(node, 'stage2', asker)}"
    return " ".join(filter(None, ["text", given, f"inst.ks={_own(node, 'ks.cfg', asker)}", source]))
