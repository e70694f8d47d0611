"""Starts that cannot succeed say why in one line; starts as root end as an ordinary account; a start can be called off."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from metald import account, app
from metald.config import Api, Boot, ConfigError, Drivers, Images, Settings, StoreSettings
from tests.support.daemon import Daemon, api, free_port

NOBODY = "nobody"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that other accounts can reach too, unlike pytest's own, whose parents belong to root alone."""
    with tempfile.TemporaryDirectory(prefix="metald-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with Daemon(tmp_path / "daemon") as made:
        yield made
        made.assert_clean()


async def refusal(daemon: Daemon) -> str:
    """Why a daemon did not start."""
    await daemon.start(ready=False)
    assert await daemon.ended() == 1
    [line] = [line for line in daemon.output().splitlines() if "cannot run: " in line]
    return line.partition("cannot run: ")[2]


def taken(kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", free_port(kind)))
    if kind is socket.SOCK_STREAM:
        sock.listen()
    return sock


@pytest.mark.parametrize(
    ("setting", "kind"),
    [("api.listen", socket.SOCK_STREAM), ("boot.http_listen", socket.SOCK_STREAM), ("boot.tftp_listen", socket.SOCK_DGRAM)],
)
async def test_an_address_in_use_is_named_with_its_setting(daemon: Daemon, setting: str, kind: socket.SocketKind) -> None:
    with closing(taken(kind)) as other:
        address = "{}:{}".format(*other.getsockname())
        daemon.settings[setting] = address
        assert await refusal(daemon) == (
            f"{setting}: {address} cannot be used: Address already in use. Another program has this address: end it, or set another."
        )


async def test_a_state_directory_that_cannot_be_made(daemon: Daemon) -> None:
    daemon.settings["state_dir"] = "/proc/metald"
    assert "Set state_dir" in await refusal(daemon)


async def test_a_database_server_that_is_down_is_not_promised_to_be_tried_again(daemon: Daemon) -> None:
    daemon.settings["store.url"] = f"postgresql://metald:hunter2@127.0.0.1:{free_port()}/metald"
    text = await refusal(daemon)
    assert "can be reached; a metald that runs goes on by itself" in text
    assert "hunter2" not in daemon.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_start_that_hangs_can_be_called_off(daemon: Daemon, number: signal.Signals) -> None:
    with closing(taken(socket.SOCK_STREAM)) as silent:
        silent.setblocking(False)
        daemon.settings["store.url"] = "postgresql://metald@{}:{}/metald".format(*silent.getsockname())
        daemon.settings["store.timeout"] = 600
        starting = asyncio.ensure_future(daemon.start(ready=False))
        asked, _address = await asyncio.get_running_loop().sock_accept(silent)
        with closing(asked):
            os.kill(daemon.pid, number)
            await starting
            assert await daemon.ended() == 0
    assert "told to stop before it was ready" in daemon.output()


def as_seen_by_the_kernel(pid: int) -> list[dict[str, list[str]]]:
    """The status of each thread."""
    return [
        {name: value.split() for name, _, value in (line.partition(":") for line in path.read_text().splitlines())}
        for path in Path(f"/proc/{pid}/task").glob("*/status")
    ]


@as_root
async def test_root_is_given_up_and_the_state_stays_writable(daemon: Daemon, tmp_path: Path) -> None:
    daemon.folder.chmod(0o755)
    database, images = tmp_path / "database", tmp_path / "images"
    nobody = pwd.getpwnam(NOBODY)
    for folder in (database, images):
        folder.mkdir()
    os.chown(database, nobody.pw_uid, nobody.pw_gid)
    (images / "old").write_bytes(b"x")
    daemon.settings |= {"user": NOBODY, "store.url": f"sqlite:///{database}/metald.sqlite", "images.cache_dir": images}
    for starts in (1, 2):
        await daemon.start()
        for thread in as_seen_by_the_kernel(daemon.pid):
            assert set(thread["Uid"]) == {str(nobody.pw_uid)}
            assert set(thread["Gid"]) == {str(nobody.pw_gid)}
            assert thread["Groups"] == []
            assert {*thread["CapPrm"], *thread["CapEff"], *thread["CapInh"], *thread["CapAmb"]} == {"0" * 16}
        async with api(daemon) as client:
            await client.create(driver="fake-hardware")
            assert len((await client.ask("GET", "/v1/nodes"))["nodes"]) == starts
        owned = [daemon.state_dir, images, images / "old", *database.iterdir()]
        assert {path.stat().st_uid for path in owned} == {nobody.pw_uid}
        assert await daemon.stop() == 0


@as_root
async def test_an_account_that_could_not_work_is_refused_at_the_start(daemon: Daemon, tmp_path: Path) -> None:
    daemon.folder.chmod(0o755)
    users = tmp_path / "users"
    users.write_text("")
    users.chmod(0o600)
    daemon.settings |= {"user": NOBODY, "api.auth": "http_basic", "api.htpasswd": users}
    assert f"api.htpasswd: account 'nobody' cannot read {users}" in await refusal(daemon)


@as_root
def test_only_the_daemons_own_files_change_hands(tmp_path: Path) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    (own / "deep").mkdir(parents=True)
    foreign.mkdir()
    for path in (own / "deep" / "file", foreign / "linked", foreign / "second"):
        path.write_bytes(b"")
    (own / "link").symlink_to(foreign)
    (own / "linked").symlink_to(foreign / "linked")
    (own / "second").hardlink_to(foreign / "second")
    found = account.find(NOBODY)
    assert found is not None
    account.hand_over(found, [own, tmp_path / "missing"])
    assert {(own / name).lstat().st_uid for name in (".", "deep", "deep/file", "link")} == {found.pw_uid}
    assert {(foreign / name).stat().st_uid for name in (".", "linked", "second")} == {0}
    assert tmp_path.stat().st_uid == 0


def test_files_that_are_missing_are_no_obstacle(tmp_path: Path) -> None:
    account.check("me", {tmp_path / "missing": ("api.htpasswd", account.READ), tmp_path: ("state_dir", account.ENTER)})


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (Settings(user="no-such-account"), "user: there is no account"),
        (Settings(store=StoreSettings(url="sqlite://")), "store.url: an SQLite database is a file"),
        (Settings(store=StoreSettings(url="postgresql://u:p@h/db?foo=1")), "store.url: option 'foo'"),
        (Settings(drivers=Drivers(enabled_hardware_types=["ipmi", "foo"])), "enabled_hardware_types: 'foo' is not known"),
        (Settings(api=Api(auth="http_basic", htpasswd=__file__)), "api.htpasswd: .* line 1 is not user:bcrypt-hash"),
        (Settings(api=Api(tls_certificate=__file__, tls_key=__file__)), "api.tls_certificate: .* cannot be used"),
    ],
)
def test_check_config_asks_the_parts(settings: Settings, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        app.check(settings)


def test_checking_touches_nothing(tmp_path: Path) -> None:
    app.check(Settings(state_dir=str(tmp_path / "state"), images=Images(cache_dir=str(tmp_path / "images")), boot=Boot()))
    assert list(tmp_path.iterdir()) == []


@as_root
async def test_the_key_of_the_certificate_may_stay_roots(daemon: Daemon, tmp_path: Path) -> None:
    daemon.folder.chmod(0o755)
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=x")
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    key.chmod(0o600)
    daemon.settings |= {"user": NOBODY, "api.tls_certificate": certificate, "api.tls_key": key}
    await daemon.start()
    assert "API on https://" in daemon.output()
    assert await daemon.stop() == 0
