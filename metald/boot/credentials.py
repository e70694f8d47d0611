"""What one boot of a ramdisk is trusted by: a token in its kernel line, a host key and a client key for SSH.

They are made once per boot by the workflow that boots the ramdisk and lie in the node's `driver_internal_info`, whose
keys that hold `token` or `private_key` are masked wherever the node is shown. The ramdisk proves itself with the
token; metald proves the ramdisk by the host key that was handed to that boot and to nobody else.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from metald.model import Node

KEYS = (
    "boot_token",
    "boot_purpose",
    "boot_host_private_key",
    "boot_host_public_key",
    "boot_client_private_key",
    "boot_client_public_key",
    "boot_credentials_taken_by",
    "boot_agent",
)
"""The keys in `driver_internal_info`. `boot_credentials_taken_by` is the address that fetched the host key, or None.
`boot_agent` is there when the ramdisk holds the Ironic Python Agent: an object of the URLs `kernel` and `ramdisk`, empty where
the ramdisk is metald's own."""


IMAGE_TOKEN = "agent_image_token"  # noqa: S105  # the name of one
"""The key in `driver_internal_info` of the secret by which an agent fetches its image and config drive, whoever booted it."""


def new_credentials(purpose: str) -> dict[str, Any]:
    """Credentials of a new boot, as entries of `driver_internal_info`.

    Args:
        purpose: what is booted for: `deploy`, `clean`, `rescue`, `inspect`, `service`.
    """
    host_private, host_public = _keypair("metald-ramdisk")
    client_private, client_public = _keypair("metald")
    return {
        "boot_token": secrets.token_urlsafe(32),
        "boot_purpose": purpose,
        "boot_host_private_key": host_private,
        "boot_host_public_key": host_public,
        "boot_client_private_key": client_private,
        "boot_client_public_key": client_public,
        "boot_credentials_taken_by": None,
    }


def clear(driver_internal_info: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without the credentials of any boot."""
    return {key: value for key, value in driver_internal_info.items() if key not in KEYS}


def wants_ramdisk(node: Node) -> bool:
    """Whether the node's next network boot loads the ramdisk."""
    return bool(node.driver_internal_info.get("boot_token"))


def check_token(node: Node | None, token: str, key: str = "boot_token") -> bool:
    """Whether `token` is that of the node's present boot. Takes as long for a wrong token as for no node at all."""
    kept = node.driver_internal_info.get(key) if node is not None else None
    expected = kept if isinstance(kept, str) and kept else ""
    same = hmac.compare_digest(token.encode(), (expected or "x" * 43).encode())
    return same and bool(expected)


def dropbear_private_key(openssh: str) -> bytes:
    """An OpenSSH ed25519 private key in the file format of dropbear.

    That is an SSH string with the algorithm's name and one with the 64 bytes private key and public key
    (dropbear, ed25519.c, `buf_put_ed25519_priv_key`).

    Raises:
        ValueError: the text is no such key.
    """
    key = load_ssh_private_key(openssh.encode(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("The host key is not an ed25519 key.")
    pair = key.private_bytes_raw() + key.public_key().public_bytes_raw()
    return b"".join(len(part).to_bytes(4, "big") + part for part in (b"ssh-ed25519", pair))


def _keypair(comment: str) -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return private, f"{public} {comment}"
