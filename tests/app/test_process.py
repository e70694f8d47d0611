"""The process's edges: systemd, log lines, the command line, and what check-config finds."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from pathlib import Path

import msgspec
import pytest

from metald import log, sdnotify
from metald.__main__ import main
from metald.cli.check import check
from metald.config import Api, Boot, ConfigError, Dhcp, Images, Log, Settings
from metald.configfile import reference


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        sdnotify.notify("READY=1")
        assert server.recv(100) == b"READY=1"


def test_systemd_is_told_by_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0metald-test-notify")
        monkeypatch.setenv("NOTIFY_SOCKET", "@metald-test-notify")
        sdnotify.notify("STOPPING=1")
        assert server.recv(100) == b"STOPPING=1"


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    sdnotify.notify("READY=1")


async def test_the_watchdog_is_reassured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.setblocking(False)
        server.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        task = asyncio.create_task(sdnotify.watchdog())
        for _ in range(2):
            assert await asyncio.get_running_loop().sock_recv(server, 100) == b"WATCHDOG=1"
        task.cancel()


async def test_without_a_watchdog_there_is_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    await sdnotify.watchdog()


@pytest.fixture
def _root_logger() -> object:
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    yield
    root.handlers[:], level = kept
    root.setLevel(level)


@pytest.mark.usefixtures("_root_logger")
def test_log_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Log(level="info"))
    logging.getLogger("metald.x").info("node %s is ready", "n1")
    logging.getLogger("metald.x").debug("not shown")
    logging.getLogger("library").info("not shown")
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("metald.x").exception("failed")
    err = capsys.readouterr().err
    assert "Z info    x: node n1 is ready" in err
    assert "ValueError: boom" in err
    assert "not shown" not in err


@pytest.mark.usefixtures("_root_logger")
def test_log_lines_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Log(level="debug", format="json"))
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("metald.x").exception("failed")
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["logger"], line["message"]) == ("error", "metald.x", "failed")
    assert "boom" in line["exception"]


def test_check_config_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "metald.toml"
    file.write_text('[api]\nlisten = "0.0.0.0:6385"\n')
    assert main(["check-config", "--config", str(file)]) == 2
    assert "allow_insecure" in capsys.readouterr().err
    file.write_text("")
    assert main(["check-config", "--config", str(file)]) == 0
    assert "good" in capsys.readouterr().out


def test_config_reference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config-reference"]) == 0
    assert capsys.readouterr().out == reference()


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "metald serve --config" in out
    assert "check-config" in out


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (Settings(boot=Boot(tftp_listen="127.0.0.1:tftp")), "boot.tftp_listen"),
        (Settings(boot=Boot(http_listen="example:1")), "boot.http_listen"),
        (Settings(api=Api(htpasswd="/nonexistent")), "api.htpasswd"),
        (Settings(api=Api(tls_certificate="/nonexistent", tls_key="/nonexistent")), "api.tls_certificate"),
        (Settings(dhcp=Dhcp(dnsmasq_hostsdir="/nonexistent")), "dhcp.dnsmasq_hostsdir"),
        (Settings(api=Api(public_url="baremetal.example")), "api.public_url"),
        (Settings(boot=Boot(http_url="http://[::1")), "boot.http_url"),
        (Settings(boot=Boot(http_url="http://boot:99999")), "boot.http_url"),
        (Settings(boot=Boot(tftp_listen="127.0.0.1:69", ipxe_dir="/nonexistent")), "boot.ipxe_dir"),
        (Settings(images=Images(file_roots=["files"])), "images.file_roots"),
    ],
)
def test_what_check_finds(settings: Settings, text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace(".", r"\.")):
        check(settings)


def test_closed_networks_may_go_without_authentication() -> None:
    api = msgspec.structs.replace(Api(), listen="0.0.0.0:1", allow_insecure=True)
    check(Settings(api=api))
