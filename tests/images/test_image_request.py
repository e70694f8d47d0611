"""What deployments may ask for, and checksum files."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.errors import Invalid
from metald.images.request import find_digest, image_request, node_request, parse_digest, shown_url
from metald.images.sources import proxy_for
from metald.model import Node

A, B = "a" * 64, "b" * 128
HTTP = "http://host/i.raw"
OCI = "oci://host/images/debian:12"


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"image_os_hash_algo": "sha512", "image_os_hash_value": B, "image_checksum": A}, ("sha512", B, None)),
        ({"image_os_hash_value": A.upper()}, ("sha256", A, None)),
        ({"image_checksum": f"SHA-256:{A}"}, ("sha256", A, None)),
        ({"image_checksum": B}, ("sha512", B, None)),
        ({"image_checksum": "https://host/SUMS"}, (None, None, "https://host/SUMS")),
    ],
)
def test_precedence_of_checksums(info: dict[str, Any], expected: tuple[str | None, ...]) -> None:
    request = image_request({"image_source": HTTP, **info}, "n1")
    assert (request.algorithm, request.digest, request.checksum_url) == expected


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({}, "image_source"),
        ({"image_source": "ftp://host/i", "image_checksum": A}, "http, https, file or oci"),
        ({"image_source": "http:///i", "image_checksum": A}, "http, https, file or oci"),
        ({"image_source": "http://host:99999999/i", "image_checksum": A}, "http, https, file or oci"),
        ({"image_source": "http://ho st/i", "image_checksum": A}, "http, https, file or oci"),
        ({"image_source": "glance-uuid", "image_checksum": A}, "http, https, file or oci"),
        ({"image_source": 7}, "must be a text"),
        ({"image_source": HTTP}, "no checksum"),
        ({"image_source": HTTP, "image_checksum": "c" * 32}, "MD5"),
        ({"image_source": HTTP, "image_os_hash_algo": "sha1", "image_os_hash_value": "c" * 40}, "SHA1"),
        ({"image_source": HTTP, "image_checksum": "sha256:" + "z" * 64}, "no checksum that can be checked"),
        (
            {"image_source": HTTP, "image_checksum": A, "image_disk_format": "vmdk"},
            "qemu-img convert.*add vmdk to the setting images.formats",
        ),
        ({"image_source": HTTP, "image_checksum": A, "image_disk_format": "qed"}, "declare raw[.]"),
        ({"image_source": OCI, "image_checksum": "https://host/SUMS"}, "has its digest there"),
        ({"image_source": "oci:///name", "image_checksum": A}, "http, https, file or oci"),
        ({"image_source": HTTP, "image_checksum": A, "image_request_authorization": "nope!"}, "not base64"),
        ({"image_source": HTTP, "image_checksum": A, "image_server_auth_strategy": "kerberos"}, "noauth or http_basic"),
        (
            {"image_source": HTTP, "image_checksum": A, "image_server_auth_strategy": "http_basic", "image_server_user": "u"},
            "needs image_server_user",
        ),
        ({"image_source": HTTP, "image_checksum": A, "image_proxies": "http://proxy"}, "object of proxies"),
        ({"image_source": HTTP, "image_checksum": A, "image_proxies": {"http": "proxy"}}, "object of proxies"),
        ({"image_source": HTTP, "image_checksum": A, "kernel": "k", "ramdisk": "r"}, "partition images"),
        ({"image_source": HTTP, "image_checksum": A, "image_type": "partition"}, "partition images"),
    ],
)
def test_what_is_wrong_is_named(info: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        image_request(info, "n1")


def test_a_local_file_needs_no_checksum_and_whole_disks_may_name_kernels() -> None:
    request = image_request({"image_source": "file:///srv/i.raw", "image_type": "whole-disk", "kernel": "k", "ramdisk": "r"}, "n1")
    assert request.digest is None


def test_formats_that_a_setting_permits_may_be_declared_by_any_name() -> None:
    info = {"image_source": HTTP, "image_checksum": A, "image_disk_format": "VPC"}
    assert image_request(info, "n1", ("raw", "vhd")).disk_format == "vhd"
    assert image_request({**info, "image_disk_format": "iso"}, "n1").disk_format == "raw"


def test_logins() -> None:
    info = {"image_source": HTTP, "image_checksum": A}
    login = {"image_server_auth_strategy": "http_basic", "image_server_user": "me", "image_server_password": "word"}
    assert image_request({**info, **login}, "n1").authorization == "Basic bWU6d29yZA=="
    whole = {"image_request_authorization": "QmVhcmVyIGFiYw=="}
    assert image_request({**info, **login, **whole}, "n1").authorization == "Bearer abc"
    registry = {"image_source": OCI}
    assert image_request({**registry, "image_pull_secret": "me:wo:rd"}, "n1").login == ("me", "wo:rd")
    assert image_request({**registry, "image_pull_secret": "token"}, "n1").login == ("", "token")
    assert image_request({**registry, **login}, "n1").login == ("me", "word")
    assert "word" not in repr(image_request({**registry, **login}, "n1"))
    assert "bWU" not in repr(image_request({**info, **login}, "n1"))


def test_what_else_of_a_node_matters() -> None:
    node = Node(
        driver="ipmi",
        instance_info={"image_source": OCI, "image_proxies": {"https": "http://proxy:1"}, "image_no_proxy": ".local, host"},
        driver_info={"image_pull_secret": "robot:word"},
        properties={"cpu_arch": "aarch64"},
    )
    request = node_request(node)
    assert (request.login, request.architecture, request.no_proxy) == (("robot", "word"), "aarch64", (".local", "host"))
    assert proxy_for(OCI.replace("oci", "https"), request) is None
    assert proxy_for("https://a.local/", request) is None
    assert proxy_for("https://other/", request) == "http://proxy:1"
    assert proxy_for("http://other/", request) is None


def test_secrets_in_urls_are_not_shown() -> None:
    assert shown_url("https://user:word@host:8/p/i.raw?signature=abc#x") == "https://host:8/p/i.raw"


@pytest.mark.parametrize(
    "text",
    [
        f"{A}  other.raw\n{'c' * 64} *i.raw\n",
        f"# comment\nSHA256 (i.raw) = {'C' * 64}\n",
        f"{'c' * 64}\n",
        f"{'c' * 64}  ./build/i.raw\n",
    ],
)
def test_finds_the_digest_in_a_checksum_file(text: str) -> None:
    assert find_digest(text, "i.raw") == ("sha256", "c" * 64)


@pytest.mark.parametrize("text", ["", "<html>404</html>", f"{A}  other.raw\n", "c" * 32 + "  i.raw\n"])
def test_a_checksum_file_that_does_not_tell(text: str) -> None:
    assert find_digest(text, "i.raw") is None


@given(st.text())
def test_no_text_breaks_the_readers(text: str) -> None:
    find_digest(text, "i.raw")
    try:
        parse_digest(text, "image_checksum", "n1")
        image_request({"image_source": text, "image_checksum": text}, "n1")
    except Invalid:
        pass
