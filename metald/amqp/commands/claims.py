"""Signed claims: a message that says by itself who sent it, whichever user of the broker brings it.

A claim is a JSON Web Token (RFC 7519) in the compact form of RFC 7515, signed with HMAC-SHA256 (`HS256`) or Ed25519 (`EdDSA`,
RFC 8037), in the header `metald-claim`. Rules: the key says the algorithm, never the token; signatures are compared in
constant time; a claim is for one message only, whose id, verb and body it names; a key's claims go no further than the
file of keys lets them. A claim that does not hold is never passed over.

    [ci]                        # the token's `kid`
    algorithm = "HS256"
    secret = "..."              # base64, at least 32 bytes
    roles = ["member", "reader"]
    projects = ["0b5a2c1e9f0d4c7c8d1b3f7f5a0e9a11"]

    [operators]
    algorithm = "EdDSA"
    public_key = "-----BEGIN PUBLIC KEY-----\\n...\\n-----END PUBLIC KEY-----"
    roles = ["admin"]
    system = true
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Meta

from metald.config import ConfigError
from metald.errors import NotAllowed
from metald.model.caller import Caller

HEADER = "metald-claim"
"""The message's header that holds its claim."""
_LONGEST = 8192
_SHORTEST_SECRET = 32
_SKEW = 30.0
"""Seconds that the sender's clock may be ahead of ours."""

Text = Annotated[str, Meta(min_length=1, max_length=255)]


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key, and the most that claims signed with it may say."""

    algorithm: Literal["HS256", "EdDSA"]
    secret: str = ""
    public_key: str = ""
    roles: tuple[str, ...]
    system: bool = False
    projects: tuple[str, ...] = ()
    """The projects that it may speak for; any, if none is named."""


class _Head(msgspec.Struct, frozen=True):
    alg: str
    kid: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a token with a good signature says."""

    sub: Text
    """The user."""
    exp: float
    """When it ends, in seconds since 1970."""
    jti: str
    """The id of the message."""
    verb: str
    body: str
    """SHA-256 of the message's body, in hexadecimal."""
    nbf: float = 0.0
    roles: tuple[str, ...] = ()
    project: str | None = None
    system: bool = False
    kid: str = ""
    """The key that it was signed with."""

    def caller(self, request_id: str) -> Caller:
        """The sender, as the API's rules know one."""
        return Caller(user=self.sub, request_id=request_id, roles=self.roles, project=self.project, system=self.system)

    def check_about(self, sender_id: str, verb: str, body: bytes) -> None:
        """Hold it to the message that it came with.

        Raises:
            NotAllowed: it was made for another one.
        """
        named = (("jti", self.jti, sender_id), ("verb", self.verb, verb), ("body", self.body, hashlib.sha256(body).hexdigest()))
        for name, said, found in named:
            if not hmac.compare_digest(said.encode(), found.encode()):
                raise _no(f"The claim was made for another message: its {name} does not fit.", "Sign each message by itself.")

    def check_time(self, now: float) -> None:
        """Hold it to its time.

        Raises:
            NotAllowed: it has ended, or has not begun.
        """
        if self.exp <= now:
            raise _no(f"The claim ended {now - self.exp:.0f} s ago.", "Let exp leave time for the message to wait in the broker.")
        if self.nbf > now + _SKEW:
            raise _no("The claim is not valid yet.", "Compare the clocks, and the claim's nbf.")


class Claims:
    """Checks claims.

    Args:
        path: the file of keys.

    Raises:
        ConfigError: the file or a key cannot be used.
    """

    def __init__(self, path: str) -> None:
        try:
            keys = msgspec.convert(tomllib.loads(Path(path).read_text()), dict[str, Key])
        except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise ConfigError(f"amqp.commands.keys: {path} cannot be used: {error}. Give a TOML file with a table for each key.") from None
        self._keys = {name: (key, _material(path, name, key)) for name, key in keys.items()}

    def read(self, token: Any) -> Claim:
        """What a token says, if it is one of ours.

        Raises:
            NotAllowed: it is no token, its key is not known, its signature is wrong, or it says more than its key may.
        """
        text = token.decode("ascii", errors="replace") if isinstance(token, bytes) else token
        parts = text.split(".") if isinstance(text, str) and len(text) <= _LONGEST else []
        if len(parts) != 3:
            raise _no(f"The header {HEADER} is no compact token.", "Send a JSON Web Token: header.payload.signature.")
        try:
            head = msgspec.json.decode(_plain(parts[0]), type=_Head)
            signature = _plain(parts[2])
        except (ValueError, msgspec.MsgspecError):
            raise _no("The claim's header cannot be read.", "Give alg and kid.") from None
        key, material = self._keys.get(head.kid, (None, None))
        if key is None or material is None:
            raise _no(f"The claim's key {head.kid[:80]!r} is not known.", "amqp.commands.keys names the keys.")
        if head.alg != key.algorithm:
            raise _no(f"The claim's key {head.kid[:80]!r} is not for {head.alg[:20]!r}.", f"Sign with {key.algorithm}.")
        if not _signed(material, f"{parts[0]}.{parts[1]}".encode(), signature):
            raise _no("The claim's signature is wrong.", "Sign with the key that metald knows by this kid.")
        try:
            claim = msgspec.json.decode(_plain(parts[1]), type=Claim)
        except (ValueError, msgspec.MsgspecError) as error:
            raise _no(f"The claim cannot be read: {str(error)[:200]}.", "Give sub, roles, exp, jti, verb and body.") from None
        _within(claim, key, head.kid)
        return msgspec.structs.replace(claim, kid=head.kid)


def _within(claim: Claim, key: Key, kid: str) -> None:
    """Hold a claim to what its key may say."""
    more = [role for role in claim.roles if role not in key.roles]
    if more:
        raise _no(f"Key {kid!r} may not give the role {more[0][:80]!r}.", "amqp.commands.keys says which it may.")
    if claim.system and not key.system:
        raise _no(f"Key {kid!r} may not speak for the whole system.", "amqp.commands.keys says which may.")
    if key.projects and not claim.system and claim.project not in key.projects:
        raise _no(f"Key {kid!r} may not speak for the project {claim.project!r}.", "amqp.commands.keys says for which it may.")


def _signed(material: bytes | Ed25519PublicKey, text: bytes, signature: bytes) -> bool:
    if isinstance(material, bytes):
        return hmac.compare_digest(hmac.digest(material, text, "sha256"), signature)
    try:
        material.verify(signature, text)
    except InvalidSignature:
        return False
    return True


def _material(path: str, name: str, key: Key) -> bytes | Ed25519PublicKey:
    """The key itself.

    Raises:
        ConfigError: there is none, or it is no key of its algorithm.
    """
    where = f"amqp.commands.keys: {path}: key {name!r}"
    if key.algorithm == "HS256":
        try:
            secret = base64.b64decode(key.secret, validate=True)
        except binascii.Error:
            raise ConfigError(f"{where}: secret is not base64.") from None
        if len(secret) < _SHORTEST_SECRET:
            raise ConfigError(f"{where}: secret has {len(secret)} bytes. Give {_SHORTEST_SECRET}: openssl rand -base64 {_SHORTEST_SECRET}.")
        return secret
    try:
        found = load_pem_public_key(key.public_key.encode())
    except ValueError:
        raise ConfigError(f"{where}: public_key is no PEM public key. Make one with openssl pkey -pubout.") from None
    if not isinstance(found, Ed25519PublicKey):
        raise ConfigError(f"{where}: public_key is no Ed25519 key. Make one with openssl genpkey -algorithm ed25519.")
    return found


def _plain(part: str) -> bytes:
    """Undo base64url without padding (RFC 7515, 2).

    Raises:
        ValueError: it is not.
    """
    return base64.b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _no(message: str, remedy: str) -> NotAllowed:
    return NotAllowed(message, remedy=remedy, field=HEADER)
