"""Tokens of a Keystone v3: who calls is asked of the identity service, and remembered for a while.

Rules: a token is asked about once, however many requests carry it; answers are kept under a keyed hash of the token, the
good ones until the token or the answer grows old, the bad ones shortly. metald's own token is renewed before it ends, and
when Keystone refuses it. Each question has a deadline. While Keystone cannot be asked, what is remembered goes on, and
everything else is 503. Tokens are never logged. Application credentials with access rules are refused, since only a
service that enforces such rules may take them (Keystone does so: metald does not claim to know them).

Source: Identity API v3, `GET /v3/auth/tokens`; headers as keystonemiddleware reads and answers them.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
from multidict import CIMultiDictProxy

from metald.config import ConfigError, Keystone, Settings
from metald.errors import MetaldError, Unavailable
from metald.http.problem import BadCredentials
from metald.model.caller import Caller

_TOKEN = re.compile(r"[\x21-\x7e]{1,8000}")
_MOST = 10_000
_REFUSED_FOR = 10.0
_EARLY = 60.0
_LARGEST = 1 << 20
_CONNECTIONS = 32
_UNKNOWN = (400, 404)
_SERVICE = "service"


class _Named(msgspec.Struct):
    id: str = ""
    name: str = ""


class _Token(msgspec.Struct):
    """What of Keystone's answer is read."""

    expires_at: datetime
    user: _Named
    roles: list[_Named] = []
    project: _Named | None = None
    system: dict[str, Any] | None = None


class _Body(msgspec.Struct):
    token: _Token


@dataclass(slots=True)
class _Known:
    """What is remembered of a token: its caller, or that it is none (None)."""

    token: _Token | None
    until: float


@dataclass(slots=True)
class _Question:
    """A question on its way to Keystone, and whoever waits for it."""

    done: asyncio.Event
    known: _Known | None = None
    error: MetaldError | None = None


def build(settings: Settings) -> KeystoneAuth:
    """The authenticator for the settings.

    Raises:
        ConfigError: something that it needs is missing or cannot be read.
    """
    wanted = settings.keystone
    for name in ("auth_url", "username", "password"):
        if not getattr(wanted, name):
            raise ConfigError(f"keystone.{name}: api.auth is keystone, which needs it. Set METALD__KEYSTONE__{name.upper()}.")
    if not wanted.auth_url.startswith(("http://", "https://")):
        raise ConfigError("keystone.auth_url: it is no http or https URL, such as https://identity.example.org/v3.")
    if bool(wanted.project) == wanted.system_scope:
        raise ConfigError("keystone.project: name the project of metald's own account, or set keystone.system_scope, not both.")
    tls: ssl.SSLContext | None = None
    if wanted.auth_url.startswith("https://"):
        try:
            tls = ssl.create_default_context(cafile=wanted.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"keystone.ca_file: {wanted.ca_file} cannot be used ({error}). Give a PEM file.") from None
    elevated = settings.api.service_project_name if settings.api.service_role_elevated_access else None
    return KeystoneAuth(wanted, elevated, tls)


class KeystoneAuth:
    """Asks Keystone who calls.

    Args:
        settings: where it is and who we are there.
        elevated_project: name of the project whose services see all; None where there is none.
        tls: how its certificate is checked, for https.
        now: the present moment in seconds since the epoch; tests turn it.
    """

    def __init__(
        self, settings: Keystone, elevated_project: str | None, tls: ssl.SSLContext | None, now: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._elevated = elevated_project
        self._tls = tls
        self._now = now
        url = settings.auth_url.rstrip("/")
        self._url = f"{url}/auth/tokens" if url.endswith("/v3") else f"{url}/v3/auth/tokens"
        self._challenge = f'Keystone uri="{settings.www_authenticate_uri or settings.auth_url}"'
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._questions: dict[bytes, _Question] = {}
        self._own: tuple[str, float] | None = None
        self._logging_in = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def authenticate(self, headers: CIMultiDictProxy[str], request_id: str) -> Caller:
        """See Authenticator."""
        service = self._one(headers, "X-Service-Token")
        trusted = False
        if service is not None:
            trusted = any(role.name == _SERVICE for role in (await self._token(service, expired=False)).roles)
        given = self._one(headers, "X-Auth-Token")
        if given is None:
            raise self._refusal()
        # A service that finishes a long work for a user is let through with the user's token of the time it began.
        return self._caller(await self._token(given, expired=trusted), request_id)

    def _one(self, headers: CIMultiDictProxy[str], name: str) -> str | None:
        values = headers.getall(name, ())
        if not values:
            return None
        if len(values) > 1 or _TOKEN.fullmatch(values[0]) is None:
            raise self._refusal()
        return values[0]

    def _refusal(self) -> BadCredentials:
        return BadCredentials("The request you have made requires authentication.", self._challenge)

    def _caller(self, token: _Token, request_id: str) -> Caller:
        project = token.project
        return Caller(
            user=token.user.name or token.user.id,
            request_id=request_id,
            roles=tuple(sorted(role.name.lower() for role in token.roles)),
            project=project.id if project is not None else None,
            system=project is None and token.system is not None and token.system.get("all") is True,
            elevated=project is not None and self._elevated is not None and project.name == self._elevated,
        )

    async def _token(self, text: str, *, expired: bool) -> _Token:
        """What Keystone says of a token."""
        key = hashlib.blake2b(text.encode(), key=self._key, digest_size=24, person=b"expired" if expired else b"valid").digest()
        while True:
            known = self._known.get(key)
            if known is not None and known.until > self._now():
                break
            question = self._questions.get(key)
            if question is None:
                known = await self._ask(key, text, expired=expired)
                break
            await question.done.wait()
            if question.error is not None:
                raise question.error
            if question.known is not None:
                known = question.known
                break
        if known.token is None:
            raise self._refusal()
        return known.token

    async def _ask(self, key: bytes, text: str, *, expired: bool) -> _Known:
        question = self._questions[key] = _Question(asyncio.Event())
        try:
            question.known = known = await self._validate(text, expired=expired)
            self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > _MOST:
                self._known.popitem(last=False)
            return known
        except MetaldError as error:
            question.error = error
            raise
        finally:
            # Nothing is said where the asker was cancelled: whoever waits asks again.
            del self._questions[key]
            question.done.set()

    async def _validate(self, text: str, *, expired: bool) -> _Known:
        for attempt in (1, 2):
            own = await self._own_token()
            query = {"nocatalog": "", **({"allow_expired": "1"} if expired else {})}
            status, body, _ = await self._send("GET", {"X-Auth-Token": own, "X-Subject-Token": text}, query)
            if status == 200:
                return self._judge(_decoded(body).token, expired=expired)
            if status in _UNKNOWN:
                return _Known(None, self._now() + min(_REFUSED_FOR, self._settings.cache_seconds))
            if status != 401:
                raise _unavailable(f"Keystone answered {status} to the question about a token")
            if self._own is not None and self._own[0] == own:
                self._own = None
            if attempt == 2:
                break
        raise _unavailable("Keystone refuses metald's own token")

    def _judge(self, token: _Token, *, expired: bool) -> _Known:
        now = self._now()
        ends = _seconds(token.expires_at)
        if not expired and ends <= now:
            return _Known(None, now + min(_REFUSED_FOR, self._settings.cache_seconds))
        until = now + self._settings.cache_seconds
        return _Known(token, until if expired else min(ends, until))

    async def _own_token(self) -> str:
        """The token that metald asks with."""
        async with self._logging_in:
            if self._own is not None and self._own[1] > self._now():
                return self._own[0]
            status, body, headers = await self._send("POST", {}, {"nocatalog": ""}, _login(self._settings))
            token = str(headers.get("X-Subject-Token", ""))
            if status == 401:
                raise _unavailable("Keystone refuses metald's user or password", "Check keystone.username, password and the domains.")
            if status not in (200, 201) or _TOKEN.fullmatch(token) is None:
                raise _unavailable(f"Keystone answered {status} to metald's log-in")
            ends = _seconds(_decoded(body).token.expires_at)
            early = min(_EARLY, max(0.0, (ends - self._now()) / 2))
            self._own = token, ends - early
            return token

    async def _send(self, method: str, headers: dict[str, str], query: dict[str, str], body: Any = None) -> tuple[int, bytes, Any]:
        try:
            async with (
                asyncio.timeout(self._settings.timeout),
                self._client().request(method, self._url, headers=headers, params=query, json=body, allow_redirects=False) as answer,
            ):
                content = await answer.content.read(_LARGEST + 1)
                while len(content) <= _LARGEST and (more := await answer.content.read(_LARGEST)):
                    content += more
                if len(content) > _LARGEST:
                    raise _unavailable("Keystone's answer is too long")
                return answer.status, content, answer.headers
        except TimeoutError:
            raise _unavailable(f"Keystone did not answer within {self._settings.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _unavailable(f"Keystone cannot be reached ({type(error).__name__})") from None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=self._tls if self._tls is not None else True)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers={"Accept": "application/json", "User-Agent": "metald"}
            )
        return self._session

    async def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _login(settings: Keystone) -> dict[str, Any]:
    user = {"name": settings.username, "domain": {"name": settings.user_domain}, "password": settings.password}
    project = {"name": settings.project, "domain": {"name": settings.project_domain}}
    scope: dict[str, Any] = {"system": {"all": True}} if settings.system_scope else {"project": project}
    return {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}


def _decoded(body: bytes) -> _Body:
    try:
        return msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _unavailable("Keystone's answer is not that of an Identity API v3", "Check keystone.auth_url.") from None


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _unavailable(what: str, remedy: str = "Try again; the log and Keystone's own tell more.") -> Unavailable:
    return Unavailable(f"{what}.", remedy=remedy)
