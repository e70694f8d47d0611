"""What an image is, as its bytes tell."""

from __future__ import annotations

import gzip
import io

import pytest

from metald.errors import ImageError
from metald.images.inspector import inspect
from tests.support.disk_images import qcow2, zstd


def look(data: bytes, declared: str | None = None, largest: int = 1 << 40, inside: str = "") -> str:
    return inspect(io.BytesIO(data), "http://host/i", declared=declared, largest=largest, inside=inside).name


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0" * 510 + b"\x55\xaa", "mbr"),
        (b"\0" * 512 + b"EFI PART", "gpt"),
        (b"\0" * 4096 + b"EFI PART", "gpt"),
        (b"plain bytes" * 100, "raw"),
        (b"# a script, and no descriptor\nversion of something\n" * 100, "raw"),
        (b"\0" * 510 + b"\x55\xaa" + b"\0" * (0x8001 - 512) + b"CD001", "iso"),
        (b"\0" * 0x8001 + b"CD001", "iso"),
        (qcow2(), "qcow2"),
        (qcow2(version=2), "qcow2"),
        (gzip.compress(bytes(4096), mtime=0), "gzip"),
        (zstd(bytes(4096)), "zstd"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_takes(data: bytes, name: str) -> None:
    assert look(data) == name


def test_what_is_packed_may_be_declared_raw() -> None:
    assert look(gzip.compress(bytes(4096), mtime=0), "raw") == "gzip"


@pytest.mark.parametrize(
    ("data", "declared", "remedy"),
    [
        (qcow2(), "raw", "image_disk_format to qcow2"),
        (b"\0" * 600, "qcow2", "image_disk_format to raw"),
        (b"KDMV" + bytes(600), "raw", "where the image came from"),
    ],
)
def test_a_lie_about_the_format(data: bytes, declared: str, remedy: str) -> None:
    with pytest.raises(ImageError, match=remedy):
        look(data, declared)


def test_a_disk_larger_than_the_cache_names_the_setting() -> None:
    with pytest.raises(ImageError, match=r"disk of 1048576 bytes, more than the image cache may hold \(512\).*images\.cache_size"):
        look(qcow2(), largest=512)


def test_what_comes_out_of_a_container_must_be_a_disk() -> None:
    assert look(b"\0" * 510 + b"\x55\xaa", inside="qcow2") == "mbr"
    with pytest.raises(ImageError, match="is qcow2, packed with qcow2; only raw disks may be packed"):
        look(qcow2(), inside="qcow2")
