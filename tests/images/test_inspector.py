"""A corpus of images that are not what they seem."""

from __future__ import annotations

import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.errors import ImageError
from metald.images.inspector import HEAD, check_qcow2, detect, inspect


def qcow2(
    *,
    version: int = 3,
    backing: int = 0,
    bits: int = 16,
    virtual: int = 1 << 20,
    crypt: int = 0,
    l1: int = 1,
    features: int = 0,
    table: int = 0x10000,
    clusters: int = 1,
    l1_offset: int = 0x30000,
    length: int = 104,
    extensions: bytes = bytes(8),
) -> bytes:
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, backing, 10 if backing else 0, bits, virtual, crypt, l1, l1_offset, table, clusters, 0, 0
    )
    head += struct.pack(">QQQII", features, 0, 0, 4, length)
    return (head + extensions).ljust(0x40000, b"\0")


def look(data: bytes, declared: str | None = None, largest: int = 1 << 40) -> str:
    return inspect(io.BytesIO(data), "http://host/i", declared=declared, largest=largest).name


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0" * 510 + b"\x55\xaa", "mbr"),
        (b"\0" * 512 + b"EFI PART", "gpt"),
        (b"\0" * 4096 + b"EFI PART", "gpt"),
        (b"plain bytes" * 100, "raw"),
        (b"\0" * 0x8001 + b"CD001", "iso"),
        (qcow2(), "qcow2"),
    ],
)
def test_takes(data: bytes, name: str) -> None:
    assert look(data) == name


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"\x1f\x8b" + bytes(600), "packed"),
        (b"\xfd7zXZ\0" + bytes(600), "packed"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "packed"),
        (b"PK\x03\x04" + bytes(600), "packed"),
        (b"KDMV" + bytes(600), "vmdk"),
        (b"# Disk DescriptorFile\n" + bytes(600), "vmdk"),
        (b"QED\0" + bytes(600), "qed"),
        (b"vhdxfile" + bytes(600), "vhdx"),
        (b"conectix" + bytes(600), "vhd"),
        (bytes(600) + b"conectix".ljust(512, b"\0"), "vhd"),
        (bytes(0x40) + b"\x7f\x10\xda\xbe" + bytes(600), "vdi"),
        (b"LUKS\xba\xbe" + bytes(600), "luks"),
        (qcow2(backing=0x100), "backing file"),
        (qcow2(crypt=1), "encrypted"),
        (qcow2(features=4), "another file"),
        (qcow2(features=1), "dirty or corrupt"),
        (qcow2(features=2), "dirty or corrupt"),
        (qcow2(features=1 << 40), "unknown features"),
        (qcow2(extensions=struct.pack(">II", 0x44415441, 8) + b"/etc/pwd" + bytes(8)), "another file"),
        (qcow2(version=4), "version 4"),
        (qcow2(bits=60), "impossible"),
        (qcow2(bits=0), "impossible"),
        (qcow2(l1=1 << 30), "impossible"),
        (qcow2(virtual=0), "impossible"),
        (qcow2(clusters=0), "impossible"),
        (qcow2(length=99), "impossible"),
        (qcow2(l1_offset=1 << 50), "outside"),
        (qcow2(table=0x123), "outside"),
        (qcow2(virtual=1 << 62), "more than the image cache"),
        (b"QFI\xfb" + bytes(20), "cut off"),
    ],
)
def test_refuses(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        look(data)


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


def test_version_2_is_known() -> None:
    assert check_qcow2(qcow2(version=2), 0x40000, "i") == 1 << 20


@given(st.binary(max_size=2048), st.sampled_from([b"", b"QFI\xfb\0\0\0\2", b"QFI\xfb\0\0\0\3", b"\0" * 512 + b"EFI PART"]))
def test_any_bytes_are_taken_or_refused(data: bytes, begin: bytes) -> None:
    whole = begin + data
    assert detect(whole[:HEAD], len(whole))
    with contextlib.suppress(ImageError):
        look(whole)
