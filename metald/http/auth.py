"""Who calls: nobody is asked (`noauth`), or a user and a password (`http_basic`).

Rules: `noauth` is refused on an address that other machines reach, unless the operator insists. Passwords are checked
against bcrypt hashes, in a thread, in the same time whether the user exists or not; a success is remembered for a short
while under a keyed hash, so that neither the loop nor the processor pays for each request. The file is read again when it
has changed. What the routes declare public asks nobody.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import bcrypt
from multidict import CIMultiDictProxy

from metald.config import Api, ConfigError, is_loopback, parse_listen
from metald.errors import NotAuthenticated
from metald.model.caller import Caller

_log = logging.getLogger(__name__)

REALM = "Baremetal API"
_REMEMBERED = 60.0
_MOST = 1000
_HASH = re.compile(rb"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_NO_FILE = (0, 0, 0)
_NOBODY = bcrypt.hashpw(b"nobody", bcrypt.gensalt(rounds=5))


class BadCredentials(NotAuthenticated):
    """The credentials are missing or wrong; answered in the form of http_basic."""


PUBLIC = Caller(user="public", roles=(), system=False)
"""Who calls a public route."""


class Authenticator(Protocol):
    """Finds out who calls."""

    async def authenticate(self, headers: CIMultiDictProxy[str], request_id: str) -> Caller:
        """The caller.

        Raises:
            NotAuthenticated: nobody proved who they are.
        """


class NoAuth:
    """Whoever reaches the address may do everything."""

    async def authenticate(self, headers: CIMultiDictProxy[str], request_id: str) -> Caller:  # noqa: ARG002
        """See Authenticator."""
        return Caller(request_id=request_id)


class HttpBasic:
    """Users and bcrypt hashes from an htpasswd file.

    Args:
        path: the file.

    Raises:
        ConfigError: it cannot be read, or a line is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        self._checks = asyncio.Semaphore(2)
        self._stamp, self._users = self._load()

    def _load(self) -> tuple[tuple[int, int, int], dict[str, bytes]]:
        try:
            stat = self._path.stat()
            lines = self._path.read_bytes().splitlines()
        except OSError as error:
            raise ConfigError(f"api.htpasswd: {self._path} cannot be read ({error.strerror}). Give the file of users.") from None
        users: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            user, colon, hashed = line.strip().partition(b":")
            if not line.strip() or line.startswith(b"#"):
                continue
            if not colon or _HASH.fullmatch(hashed) is None:
                raise ConfigError(f"api.htpasswd: {self._path} line {number} is not user:bcrypt-hash. Make it with htpasswd -B.")
            users[user.decode(errors="replace")] = hashed
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino), users

    def _refresh(self) -> None:
        """Read the file again if it has changed; a broken or missing one lets nobody in."""
        try:
            stat = self._path.stat()
            if (stat.st_mtime_ns, stat.st_size, stat.st_ino) == self._stamp:
                return
            self._stamp, self._users = self._load()
        except (OSError, ConfigError) as error:
            if self._stamp != _NO_FILE:
                _log.error("nobody can log in until this is mended: %s", error)
            self._stamp, self._users = _NO_FILE, {}
        self._remembered.clear()

    async def authenticate(self, headers: CIMultiDictProxy[str], request_id: str) -> Caller:
        """See Authenticator."""
        user, password = _credentials(headers)
        self._refresh()
        proof = hmac.digest(self._key, b"\0".join((user.encode(), password)), hashlib.sha256)
        if self._remembered.get(proof, 0.0) < time.monotonic():
            await self._check(user, password, proof)
        return Caller(user=user, request_id=request_id)

    async def _check(self, user: str, password: bytes, proof: bytes) -> None:
        # a name that is not there costs as much as one that is
        hashed = self._users.get(user) or max(self._users.values(), key=_cost, default=_NOBODY)
        async with self._checks:
            good = await asyncio.to_thread(_matches, password, hashed)
        if not good or self._users.get(user) is not hashed:
            raise BadCredentials("Incorrect username or password")
        self._remembered[proof] = time.monotonic() + _REMEMBERED
        while len(self._remembered) > _MOST:
            self._remembered.popitem(last=False)


def _cost(hashed: bytes) -> bytes:
    """The two digits after the version: each step doubles the work."""
    return hashed[4:6]


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


def build(settings: Api) -> Authenticator:
    """The authenticator that the settings ask for.

    Raises:
        ConfigError: the settings would let anybody in, or cannot work.
    """
    if settings.auth == "http_basic":
        if not settings.htpasswd:
            raise ConfigError("api.htpasswd: http_basic needs a file of users. Make it with: htpasswd -B -c FILE USER.")
        return HttpBasic(Path(settings.htpasswd))
    if settings.auth == "keystone":
        raise ConfigError("api.auth: keystone is not built in. Use http_basic, or noauth on a loopback address.")
    host, _port = parse_listen(settings.listen)
    if not is_loopback(host) and not settings.allow_insecure:
        raise ConfigError(
            f"api.auth: noauth on {settings.listen} would let every machine of the network in. Use http_basic, listen on 127.0.0.1, "
            "or set api.allow_insecure."
        )
    return NoAuth()
