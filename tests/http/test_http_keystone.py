"""Tokens of a Keystone: who they make of a caller, how often it is asked, and what happens when it does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from multidict import CIMultiDict, CIMultiDictProxy

from metald.config import Api as ApiSettings
from metald.config import ConfigError, Settings
from metald.config import Keystone as KeystoneSettings
from metald.errors import Unavailable
from metald.http import auth, keystone
from metald.http.problem import BadCredentials
from metald.model.caller import Caller
from tests.support.api import api_settings, serving
from tests.support.keystone import PASSWORD, FakeKeystone, fake_keystone


class Asker:
    """An authenticator, its Keystone, and a clock that tests turn."""

    def __init__(self, fake: FakeKeystone, **changes: Any) -> None:
        self.fake = fake
        self.later = 0.0
        wanted = KeystoneSettings(**{"auth_url": fake.url, "username": "metald", "password": PASSWORD, "project": "service", **changes})
        self.auth = keystone.KeystoneAuth(wanted, "service", None, now=self.now)

    def now(self) -> float:
        return time.time() + self.later

    async def __call__(self, token: str | None, service: str | None = None, *more: tuple[str, str]) -> Caller:
        headers = CIMultiDict(more)
        if token is not None:
            headers.add("X-Auth-Token", token)
        if service is not None:
            headers.add("X-Service-Token", service)
        return await self.auth.authenticate(CIMultiDictProxy(headers), "req-1")


@pytest_asyncio.fixture
async def ask() -> AsyncIterator[Asker]:
    async with fake_keystone() as fake:
        asker = Asker(fake)
        yield asker
        await asker.auth.close()


async def test_what_a_token_makes_of_its_caller(ask: Asker) -> None:
    issue = ask.fake.issue
    assert await ask(issue("a", "admin", "reader", system=True)) == Caller(
        user="user-a", request_id="req-1", roles=("admin", "reader"), system=True
    )
    assert await ask(issue("b", "Member", project="p1")) == Caller(
        user="user-b", request_id="req-1", roles=("member",), project="p1", system=False
    )
    nova = await ask(issue("n", "service", project="s", name="service"))
    assert (nova.elevated, nova.system, nova.project) == (True, False, "s")
    assert not (await ask(issue("u", "admin"))).system


async def test_a_token_is_asked_about_once(ask: Asker) -> None:
    ask.fake.issue("a", "reader", project="p")
    for _ in range(5):
        await ask("a")
    assert ask.fake.asked["a"] == 1
    ask.later = 61.0
    await ask("a")
    assert ask.fake.asked["a"] == 2
    assert ask.fake.asked["login"] == 1


async def test_many_at_once_ask_once(ask: Asker) -> None:
    ask.fake.issue("a", "reader", project="p")
    ask.fake.hold = asyncio.Event()
    waiting = [asyncio.create_task(ask("a")) for _ in range(50)]
    while not ask.fake.asked["a"]:
        await asyncio.sleep(0.001)
    ask.fake.hold.set()
    assert len(await asyncio.gather(*waiting)) == 50
    assert ask.fake.asked["a"] == 1


async def test_whoever_waits_asks_anew_when_the_asker_goes_away(ask: Asker) -> None:
    ask.fake.issue("a", "reader", project="p")
    ask.fake.hold = asyncio.Event()
    first = asyncio.create_task(ask("a"))
    while not ask.fake.asked["a"]:
        await asyncio.sleep(0.001)
    second = asyncio.create_task(ask("a"))
    await asyncio.sleep(0)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    ask.fake.hold.set()
    assert (await second).user == "user-a"


async def test_forged_and_ended_tokens_are_refused_and_remembered_shortly(ask: Asker) -> None:
    for _ in range(3):
        with pytest.raises(BadCredentials) as refused:
            await ask("forged")
    assert refused.value.challenge == f'Keystone uri="{ask.fake.url}"'
    assert ask.fake.asked["forged"] == 1
    ask.fake.issue("forged", "reader", project="p")
    ask.later = 11.0
    assert (await ask("forged")).project == "p"
    ask.fake.issue("old", "reader", project="p", life=-5)
    with pytest.raises(BadCredentials):
        await ask("old")


async def test_a_token_ends_when_it_ends(ask: Asker) -> None:
    ask.fake.issue("a", "reader", project="p", life=30)
    await ask("a")
    ask.later = 31.0
    with pytest.raises(BadCredentials):
        await ask("a")


@pytest.mark.parametrize("token", ["", " ", "a b", "ü", "a\tb", "x" * 8001])
async def test_what_is_no_token_is_not_asked_about(ask: Asker, token: str) -> None:
    with pytest.raises(BadCredentials):
        await ask(token)
    assert ask.fake.asked["validate"] == 0


async def test_no_token_or_two(ask: Asker) -> None:
    ask.fake.issue("a", "reader", project="p")
    with pytest.raises(BadCredentials):
        await ask(None)
    with pytest.raises(BadCredentials):
        await ask("a", None, ("X-Auth-Token", "a"))
    with pytest.raises(BadCredentials):
        await ask("a", "forged")


async def test_a_service_may_carry_an_ended_token_on(ask: Asker) -> None:
    ask.fake.issue("old", "member", project="p", life=-60)
    ask.fake.issue("nova", "service", project="s")
    ask.fake.issue("user", "member", project="p")
    assert (await ask("old", "nova")).project == "p"
    with pytest.raises(BadCredentials):
        await ask("old", "user")
    with pytest.raises(BadCredentials):
        await ask("old")


async def test_metalds_own_token_is_renewed(ask: Asker) -> None:
    ask.fake.issue("a", "reader", project="p")
    ask.fake.issue("b", "reader", project="p")
    await ask("a")
    ask.fake.tokens.pop("own1")
    await ask("b")
    assert ask.fake.asked["login"] == 2
    ask.later = 3600.0 - 30
    ask.fake.issue("c", "reader", project="p", life=7200)
    await ask("c")
    assert ask.fake.asked["login"] == 3


async def test_while_keystone_is_away_remembered_tokens_go_on(ask: Asker) -> None:
    ask.fake.issue("a", "reader", project="p")
    ask.fake.issue("b", "reader", project="p")
    await ask("a")
    for status in (500, 503, 403, 429):
        ask.fake.break_with = status
        assert (await ask("a")).project == "p"
        with pytest.raises(Unavailable, match=str(status)):
            await ask("b")
    ask.fake.break_with = None
    assert (await ask("b")).project == "p"


async def test_answers_that_are_none(ask: Asker) -> None:
    ask.fake.issue("a", "reader", project="p")
    for garbage in (b"", b"[]", b"<html>", b'{"token": {}}', b'{"token": {"user": {}, "expires_at": "soon"}}', b"x" * (1 << 20) + b"y"):
        ask.fake.garbage = garbage
        with pytest.raises(Unavailable):
            await ask("a")
    ask.fake.garbage = None
    assert (await ask("a")).project == "p"


async def test_silence_has_a_deadline_and_a_closed_port_a_reason() -> None:
    async with fake_keystone() as fake:
        asker = Asker(fake, timeout=0.05)
        fake.issue("a", "reader", project="p")
        fake.hold = asyncio.Event()
        with pytest.raises(Unavailable, match="within"):
            await asker("a")
        fake.hold.set()
    with pytest.raises(Unavailable, match="reached"):
        await asker("a")
    await asker.auth.close()


async def test_a_wrong_password_is_ours_to_mend() -> None:
    async with fake_keystone() as fake:
        asker = Asker(fake, password="wrong", system_scope=True, project="")
        fake.issue("a", "reader", project="p")
        with pytest.raises(Unavailable, match="metald's user or password"):
            await asker("a")
        await asker.auth.close()


async def test_what_is_remembered_is_bounded(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keystone, "_MOST", 3)
    for number in range(6):
        await ask(ask.fake.issue(f"t{number}", "reader", project="p"))
    await ask("t5")
    assert ask.fake.asked["t5"] == 1
    await ask("t0")
    assert ask.fake.asked["t0"] == 2


async def test_over_http(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with fake_keystone() as fake:
        wanted = KeystoneSettings(auth_url=fake.url, username="metald", password=PASSWORD, project="service")
        settings = msgspec.structs.replace(api_settings(auth="keystone"), keystone=wanted)
        async with serving(tmp_path, settings) as api:
            fake.issue("root-token", "admin", system=True)
            fake.issue("mine-token", "reader", project="p")
            refused = await api.ask("GET", "/v1/nodes")
            assert (refused.status, refused.json["error"]["code"]) == (401, 401)
            assert refused.headers["WWW-Authenticate"] == f'Keystone uri="{fake.url}"'
            for path in ("/", "/v1", "/healthz"):
                assert (await api.ask("GET", path)).status == 200
            root, mine = {"X-Auth-Token": "root-token"}, {"X-Auth-Token": "mine-token"}
            made = await api.ask("POST", "/v1/nodes", {"driver": "fake-hardware", "owner": "p"}, headers=root)
            await api.ask("POST", "/v1/nodes", {"driver": "fake-hardware"}, headers=root)
            listed = await api.ask("GET", "/v1/nodes", headers=mine)
            assert [node["uuid"] for node in listed.json["nodes"]] == [made.json["uuid"]]
            fake.break_with = 500
            away = await api.ask("GET", "/v1/nodes", headers={"X-Auth-Token": "other"})
            assert away.status == 503
            assert "Retry-After" in away.headers
            assert (await api.ask("GET", "/v1/nodes", headers=mine)).status == 200
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert PASSWORD not in said
    assert "root-token" not in said


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"auth_url": ""}, "auth_url"),
        ({"username": ""}, "username"),
        ({"password": ""}, "password"),
        ({"auth_url": "identity"}, "auth_url"),
        ({"project": ""}, "project"),
        ({"system_scope": True}, "project"),
        ({"auth_url": "https://x/v3", "ca_file": "/nowhere.pem"}, "ca_file"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], named: str) -> None:
    wanted = {"auth_url": "http://127.0.0.1:1/v3", "username": "u", "password": "p", "project": "service", **changes}
    with pytest.raises(ConfigError, match=f"keystone.{named}"):
        auth.build(Settings(api=ApiSettings(auth="keystone"), keystone=KeystoneSettings(**wanted)))
