"""Who calls: nobody is asked (`noauth`), or a user and a password (`http_basic`), or a Keystone (`keystone`).

Rules: `noauth` is refused on an address that other machines reach, unless the operator insists. Passwords are checked
against bcrypt hashes, in a thread, in the same time whether the user exists or not; a success is remembered for a short
while under a keyed hash, so that neither the loop nor the processor pays for each request. What the routes declare public
asks nobody. What a caller may do is not settled here; see `metald.policy`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import bcrypt
from multidict import CIMultiDictProxy

from metald.config import ConfigError, Settings, is_loopback, parse_listen
from metald.http import keystone
from metald.http.problem import BadCredentials
from metald.http.users import Users
from metald.model.caller import Caller

_REMEMBERED = 60.0
_MOST = 1000
_NOBODY = bcrypt.hashpw(b"nobody", bcrypt.gensalt(rounds=5))


PUBLIC = Caller(user="public", roles=(), system=False)
"""Who calls a public route."""


class Authenticator(Protocol):
    """Finds out who calls."""

    async def authenticate(self, headers: CIMultiDictProxy[str], request_id: str) -> Caller:
        """The caller.

        Raises:
            NotAuthenticated: nobody proved who they are.
            Unavailable: who knows cannot be asked.
        """

    async def close(self) -> None:
        """Let go of connections."""


class NoAuth:
    """Whoever reaches the address may do everything."""

    async def authenticate(self, headers: CIMultiDictProxy[str], request_id: str) -> Caller:  # noqa: ARG002
        """See Authenticator."""
        return Caller(request_id=request_id)

    async def close(self) -> None:
        """See Authenticator."""


class HttpBasic:
    """Users and passwords.

    Args:
        users: who there is.
    """

    def __init__(self, users: Users) -> None:
        self._users = users
        self._key = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        self._generation = users.generation
        self._checks = asyncio.Semaphore(2)

    async def authenticate(self, headers: CIMultiDictProxy[str], request_id: str) -> Caller:
        """See Authenticator."""
        user, password = _credentials(headers)
        await self._users.refresh()
        if self._generation != self._users.generation:
            self._generation = self._users.generation
            self._remembered.clear()
        proof = hmac.digest(self._key, b"\0".join((user.encode(), password)), hashlib.sha256)
        if self._remembered.get(proof, 0.0) < time.monotonic():
            await self._check(user, password, proof)
        standing = self._users.standing(user)
        return Caller(user=user, request_id=request_id, roles=standing.roles, system=standing.system, project=standing.project)

    async def _check(self, user: str, password: bytes, proof: bytes) -> None:
        # a name that is not there costs as much as one that is
        hashed = self._users.hashed(user) or self._users.costliest() or _NOBODY
        async with self._checks:
            good = await asyncio.to_thread(_matches, password, hashed)
        if not good or self._users.hashed(user) is not hashed:
            raise BadCredentials("Incorrect username or password")
        self._remembered[proof] = time.monotonic() + _REMEMBERED
        while len(self._remembered) > _MOST:
            self._remembered.popitem(last=False)

    async def close(self) -> None:
        """See Authenticator."""


def _matches(password: bytes, hashed: bytes) -> bool:
    # bcrypt reads 72 bytes and refuses more; other programs that make the file cut there.
    return bcrypt.checkpw(password[:72], hashed.replace(b"$2y$", b"$2b$", 1))


def _credentials(headers: CIMultiDictProxy[str]) -> tuple[str, bytes]:
    given = headers.getall("Authorization", ())
    if len(given) != 1:
        raise BadCredentials("Authorization required")
    scheme, _, token = given[0].partition(" ")
    if scheme.lower() != "basic":
        raise BadCredentials("Only Basic authorization is accepted")
    try:
        user, colon, password = base64.b64decode(token.strip(), validate=True).partition(b":")
        name = user.decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise BadCredentials("Could not decode the authorization token") from None
    if not colon or not name or b"\0" in password:
        raise BadCredentials("Could not decode the authorization token")
    return name, password


def build(settings: Settings) -> Authenticator:
    """The authenticator that the settings ask for.

    Raises:
        ConfigError: the settings would let anybody in, or cannot work.
    """
    api = settings.api
    if api.auth == "http_basic":
        if not api.htpasswd:
            raise ConfigError("api.htpasswd: http_basic needs a file of users. Make it with: htpasswd -B -c FILE USER.")
        return HttpBasic(Users(Path(api.htpasswd), Path(api.users) if api.users else None))
    if api.auth == "keystone":
        return keystone.build(settings)
    host, _port = parse_listen(api.listen)
    if not is_loopback(host) and not api.allow_insecure:
        raise ConfigError(
            f"api.auth: noauth on {api.listen} would let every machine of the network in. Use http_basic or keystone, listen on 127.0.0.1, "
            "or set api.allow_insecure."
        )
    return NoAuth()
