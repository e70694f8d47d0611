"""A strict little Keystone v3: it knows users, tokens and who may ask about them, and counts what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

PASSWORD = "s3cret"


def moment(seconds: float) -> str:
    """A time so many seconds from now, as Keystone writes it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class FakeKeystone:
    """The server's state; tests change it while it runs."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.asked: Counter[str] = Counter()
        self.login_life = 3600.0
        self.break_with: int | None = None
        """Status of every answer, when set."""
        self.garbage: bytes | None = None
        """Body of every answer about a token, when set."""
        self.hold: asyncio.Event | None = None
        """What answers about tokens wait for, when set."""
        self.url = ""

    def issue(
        self, token: str, *roles: str, project: str | None = None, system: bool = False, life: float = 3600.0, name: str = "p"
    ) -> str:
        """Let a token be known."""
        body: dict[str, Any] = {
            "methods": ["password"],
            "user": {"id": f"id-{token}", "name": f"user-{token}", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": f"id-{role}", "name": role} for role in roles],
            "expires_at": moment(life),
            "issued_at": moment(0),
        }
        if project is not None:
            body["project"] = {"id": project, "name": name, "domain": {"id": "default", "name": "Default"}}
            body["is_admin_project"] = False
        if system:
            body["system"] = {"all": True}
        self.tokens[token] = body
        return token

    async def login(self, request: web.Request) -> web.Response:
        """POST /v3/auth/tokens."""
        self.asked["login"] += 1
        if self.break_with is not None:
            return web.json_response({"error": {}}, status=self.break_with)
        auth = (await request.json())["auth"]
        user = auth["identity"]["password"]["user"]
        assert auth["identity"]["methods"] == ["password"]
        assert user["domain"]["name"] == "Default"
        scope = auth["scope"]
        assert scope in ({"project": {"name": "service", "domain": {"name": "Default"}}}, {"system": {"all": True}})
        if (user["name"], user["password"]) != ("metald", PASSWORD):
            return web.json_response({"error": {"code": 401}}, status=401)
        token = self.issue(f"own{self.asked['login']}", "service", project="s", name="service", life=self.login_life)
        return web.json_response({"token": self.tokens[token]}, status=201, headers={"X-Subject-Token": token})

    async def validate(self, request: web.Request) -> web.Response:
        """GET /v3/auth/tokens."""
        subject = request.headers["X-Subject-Token"]
        self.asked["validate"] += 1
        self.asked[subject] += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.break_with is not None:
            return web.json_response({"error": {}}, status=self.break_with)
        own = self.tokens.get(request.headers.get("X-Auth-Token", ""))
        if own is None or own["expires_at"] < moment(0):
            return web.json_response({"error": {"code": 401}}, status=401)
        if self.garbage is not None:
            return web.Response(body=self.garbage, content_type="application/json")
        found = self.tokens.get(subject)
        if found is None or (found["expires_at"] < moment(0) and request.query.get("allow_expired") != "1"):
            return web.json_response({"error": {"code": 404}}, status=404)
        return web.json_response({"token": found}, headers={"X-Subject-Token": subject})


@contextlib.asynccontextmanager
async def fake_keystone() -> AsyncIterator[FakeKeystone]:
    """A server on a free port of the loopback address."""
    fake = FakeKeystone()
    application = web.Application()
    application.router.add_post("/v3/auth/tokens", fake.login)
    application.router.add_get("/v3/auth/tokens", fake.validate)
    async with TestServer(application) as server:
        fake.url = str(server.make_url("/v3"))
        yield fake
