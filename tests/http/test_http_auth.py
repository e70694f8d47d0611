"""Who may call: noauth, http_basic, and what TLS needs."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import bcrypt
import msgspec
import pytest

from metald.config import Api as ApiSettings
from metald.config import ConfigError, Settings
from metald.http import auth, tls
from tests.support.api import Api, api_settings, serving


def hashed(password: str, prefix: bytes = b"2b") -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=4)).replace(b"$2b$", b"$" + prefix + b"$", 1).decode()


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_noauth_is_for_loopback_only() -> None:
    assert isinstance(auth.build(Settings(api=ApiSettings())), auth.NoAuth)
    assert isinstance(auth.build(Settings(api=ApiSettings(listen="[::1]:1"))), auth.NoAuth)
    with pytest.raises(ConfigError, match="allow_insecure"):
        auth.build(Settings(api=ApiSettings(listen="0.0.0.0:6385")))
    assert isinstance(auth.build(Settings(api=ApiSettings(listen="0.0.0.0:6385", allow_insecure=True))), auth.NoAuth)


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    for settings in (
        ApiSettings(auth="http_basic"),
        ApiSettings(auth="http_basic", htpasswd=str(tmp_path / "none")),
        ApiSettings(auth="keystone"),
    ):
        with pytest.raises(ConfigError):
            auth.build(Settings(api=settings))
    for line in ("nocolon", "user:plain", "user:$apr1$x$y"):
        (tmp_path / "bad").write_text(f"# users\n{line}\n")
        with pytest.raises(ConfigError, match="line 2"):
            auth.build(Settings(api=ApiSettings(auth="http_basic", htpasswd=str(tmp_path / "bad"))))


async def test_basic_lets_users_in_and_nobody_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    users = tmp_path / "htpasswd"
    users.write_text("".join(f"{name}:{hashed('pass:word', kind)}\n" for name, kind in (("a", b"2b"), ("b", b"2y"), ("c", b"2a"))))
    async with serving(tmp_path / "state", api_settings(auth="http_basic", htpasswd=str(users))) as api:
        for name in ("a", "b", "c", "a"):
            assert (await api.ask("GET", "/v1/nodes", headers=basic(name, "pass:word"))).status == 200
        refused = [
            basic("a", "wrong"),
            basic("nobody", "pass:word"),
            basic("", "x"),
            {},
            {"Authorization": "Bearer x"},
            {"Authorization": "Basic %%%"},
            {"Authorization": "Basic " + base64.b64encode(b"nocolon").decode()},
            {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:x").decode()},
            {"Authorization": "Basic"},
        ]
        for headers in refused:
            answer = await api.ask("GET", "/v1/nodes", headers=headers)
            assert answer.status == 401, headers
            assert answer.json["error"]["code"] == 401
            assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        for path in ("/", "/v1", "/v1/lookup?addresses=52:54:00:00:00:01", "/healthz", "/readyz"):
            assert (await api.ask("GET", path)).status != 401, path
        assert (await api.ask("POST", "/v1/heartbeat/x", {"callback_url": "http://x"})).status == 404
        await changed_file(api, users)
    said = [record.getMessage() for record in caplog.records if "nobody can log in" in record.getMessage()]
    assert len(said) == 1
    assert "line 1 is not user:bcrypt-hash" in said[0]


async def changed_file(api: Api, users: Path) -> None:
    """What stands in the file now is what counts, also for those who were in."""
    users.write_text(f"new:{hashed('other')}\n")
    os.utime(users, (1, 1))
    assert (await api.ask("GET", "/v1/nodes", headers=basic("a", "pass:word"))).status == 401
    assert (await api.ask("GET", "/v1/nodes", headers=basic("new", "other"))).status == 200
    users.write_text("broken")
    assert (await api.ask("GET", "/v1/nodes", headers=basic("new", "other"))).status == 401
    users.unlink()
    assert (await api.ask("GET", "/v1/nodes", headers=basic("new", "other"))).status == 401
    users.write_text(f"new:{hashed('other')}\n")
    assert (await api.ask("GET", "/v1/nodes", headers=basic("new", "other"))).status == 200


async def test_a_success_is_remembered_without_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = tmp_path / "htpasswd"
    users.write_text(f"a:{hashed('secret')}\n")
    checks: list[bytes] = []
    real = bcrypt.checkpw

    def counted(password: bytes, kept: bytes) -> bool:
        checks.append(kept)
        return real(password, kept)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    settings = api_settings(auth="http_basic", htpasswd=str(users))
    async with serving(tmp_path / "state", settings) as api:
        for _ in range(3):
            assert (await api.ask("GET", "/v1/nodes", headers=basic("a", "secret"))).status == 200
        assert len(checks) == 1
        for name in ("a", "nobody"):
            assert (await api.ask("GET", "/v1/nodes", headers=basic(name, "wrong"))).status == 401
        assert len(checks) == 3
        assert len(set(checks)) == 1, "a name that is not there is told by the time that a cheaper hash takes"


def test_tls_takes_a_pair_and_nothing_less(tmp_path: Path) -> None:
    assert tls.context(ApiSettings()) is None
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    good = ApiSettings(tls_certificate=str(certificate), tls_key=str(key))
    assert tls.context(good) is not None
    for bad in (
        msgspec.structs.replace(good, tls_key=""),
        msgspec.structs.replace(good, tls_certificate=""),
        msgspec.structs.replace(good, tls_key=str(certificate)),
        msgspec.structs.replace(good, tls_certificate=str(tmp_path / "none")),
    ):
        with pytest.raises(ConfigError, match="tls"):
            tls.context(bad)
