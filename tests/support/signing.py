"""Signs claims of commands, as a producer would with any library for JSON Web Tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SECRET = bytes(range(32))
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))


def keys_file(folder: Path) -> Path:
    """A file of keys: `ci` signs with a secret, `ops` with a private key."""
    public = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    path = folder / "keys.toml"
    path.write_text(
        f'[ci]\nalgorithm = "HS256"\nsecret = "{base64.b64encode(SECRET).decode()}"\nroles = ["member", "reader"]\nprojects = ["p1"]\n'
        f'[ops]\nalgorithm = "EdDSA"\npublic_key = """{public}"""\nroles = ["admin"]\nsystem = true\n'
    )
    return path


def encoded(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(id_: str, verb: str, body: bytes, **more: Any) -> dict[str, Any]:
    """What a claim for one message says."""
    return {"sub": "ann", "exp": time.time() + 60, "jti": id_, "verb": verb, "body": hashlib.sha256(body).hexdigest(), **more}


def token(payload: Any, *, kid: str = "ops", alg: str | None = None, secret: bytes = SECRET) -> str:
    """A signed token; `payload` is JSON, or bytes that are taken as they are."""
    head = json.dumps({"alg": alg or ("EdDSA" if kid == "ops" else "HS256"), "kid": kid}).encode()
    said = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    text = f"{encoded(head)}.{encoded(said)}"
    signature = PRIVATE.sign(text.encode()) if kid == "ops" else hmac.digest(secret, text.encode(), "sha256")
    return f"{text}.{encoded(signature)}"
