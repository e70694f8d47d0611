"""Settings: where they come from, and what a wrong one says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from metald.config import ConfigError, Settings, is_loopback, parse_listen
from metald.configfile import load, reference


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "metald.toml"
    file.write_text('state_dir = "/a"\n[api]\nlisten = "127.0.0.1:1"\nmax_limit = 7\n')
    settings = load(file, {"METALD__API__LISTEN": "127.0.0.1:2", "HOME": "/"})
    assert (settings.state_dir, settings.api.listen, settings.api.max_limit) == ("/a", "127.0.0.1:2", 7)


def test_texts_of_the_environment_become_the_settings_types() -> None:
    settings = load(
        None,
        {
            "METALD__DRIVERS__FAKE__POWER_DELAY": "1.5",
            "METALD__CONDUCTOR__AUTOMATED_CLEAN": "false",
            "METALD__IMAGES__FILE_ROOTS": "/a, /b",
            "METALD__IMAGES__CACHE_SIZE": "1000",
        },
    )
    assert settings.drivers.fake.power_delay == 1.5
    assert settings.conductor.automated_clean is False
    assert settings.images.file_roots == ["/a", "/b"]
    assert settings.images.cache_size == 1000


@pytest.mark.parametrize(
    ("name", "default", "given", "value"),
    [
        ("METALD__AGENT__HEARTBEAT_TIMEOUT", 300, "20", 20),
        ("METALD__AGENT__POWER_OFF_TIMEOUT", 35.0, "7", 7.0),
        ("METALD__AGENT__REQUIRE_TLS", True, "false", False),
        ("METALD__INSPECTION__REQUIRE_MANAGED_BOOT", False, "true", True),
        ("METALD__IMAGES__FILE_ROOTS", ["/var/lib/metald/files"], "/a", ["/a"]),
        ("METALD__DHCP__PROVIDER", "none", "proxy", "proxy"),
    ],
)
def test_settings_that_others_script_keep_their_names_and_defaults(name: str, default: object, given: str, value: object) -> None:
    _, section, setting = name.lower().split("__")
    assert getattr(getattr(load(None, {}), section), setting) == default
    assert getattr(getattr(load(None, {name: given}), section), setting) == value


def test_a_value_where_a_section_belongs_is_named_also_when_the_environment_adds_to_it(tmp_path: Path) -> None:
    file = tmp_path / "metald.toml"
    file.write_text("api = 3\n")
    with pytest.raises(ConfigError, match=r"metald\.toml: api is a section, not a setting"):
        load(file, {"METALD__API__LISTEN": "127.0.0.1:2"})


def test_a_keystone_may_say_who_calls() -> None:
    assert load(None, {"METALD__API__AUTH": "keystone"}).api.auth == "keystone"


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("METALD__API__LISTN", "x", ["METALD__API__LISTN", "listn", "listen"]),
        ("METALD__API__LISTEN", "6385", ["api.listen", "host:port"]),
        ("METALD__API__LISTEN", "::1:6385", ["api.listen", "[address]:port"]),
        ("METALD__API__MAX_LIMIT", "many", ["METALD__API__MAX_LIMIT", "int", "many"]),
        ("METALD__API__MAX_LIMIT", "0", ["METALD__API__MAX_LIMIT", "api.max_limit", ">= 1"]),
        ("METALD__API", "x", ["section"]),
        ("METALD__STATE_DIR", "", ["METALD__STATE_DIR", "state_dir", ">= 1"]),
        ("METALD__API__AUTH", "magic", ["METALD__API__AUTH", "noauth, http_basic, keystone"]),
        ("METALD__API__AUTH", "http_basic", ["api.htpasswd", "htpasswd -nbB"]),
        ("METALD__AMQP__URL", "http://x", ["amqp.url", "amqps://"]),
        ("METALD__AMQP__TLS_KEY", "key.pem", ["amqp.tls_certificate", "both or neither"]),
        ("METALD__API__TLS_KEY", "/k", ["tls_certificate", "both or neither"]),
        ("METALD__STORE__URL", "mysql://x", ["store.url", "mysql", "sqlite:///"]),
        ("METALD__DHCP__PROVIDER", "dnsmasq", ["dnsmasq_hostsdir"]),
    ],
)
def test_a_wrong_setting_says_where_what_and_the_remedy(name: str, value: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load(None, {name: value})
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[api]\nfoo = 3\n", ["api.foo", "config-reference"]),
        ("[api]\nlisten = 3\n", ["api.listen", "str"]),
        ("[api\n", ["not valid TOML"]),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, parts: list[str]) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(file, {})
    for part in [str(file), *parts]:
        assert part in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml", {})


def test_the_reference_uncommented_is_the_defaults() -> None:
    text = "\n".join(
        line.removeprefix("#") if line.startswith("#") and " = " in line and line[1] != " " else line for line in reference().splitlines()
    )
    assert msgspec.convert(tomllib.loads(text), Settings) == Settings()


def test_the_committed_reference_is_up_to_date() -> None:
    assert Path("conf/metald.toml").read_text() == reference(), "run: make generate"


@pytest.mark.parametrize(
    ("text", "expected"), [("1.2.3.4:5", ("1.2.3.4", 5)), ("[::1]:80", ("::1", 80)), ("localhost:0", ("localhost", 0))]
)
def test_listen_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["", ":", "host", "host:", ":80", "host:99999", "host:x", "::1"])
def test_wrong_listen_addresses(text: str) -> None:
    with pytest.raises(ValueError):
        parse_listen(text)


def test_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.org")
