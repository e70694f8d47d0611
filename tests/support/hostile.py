"""A corpus of images that nobody should deploy, each with the reason why, for tests and the benchmark."""

from __future__ import annotations

import gzip
import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.disk_images import (
    AT_END,
    BLOCKS,
    GIB,
    KIB,
    METADATA,
    MIB,
    PARAMETERS,
    PARENT,
    PIB,
    SIZE,
    descriptor,
    extension,
    qcow2,
    vdi,
    vhd,
    vhd_footer,
    vhdx,
    vmdk,
    zstd,
)

LARGEST = 20 * GIB
"""The largest disk that the corpus is held to."""

EVERY = ("raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi")
"""All formats that a setting can permit: what is refused even so is refused for what it holds."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """One image that must be refused.

    Attributes:
        name: what is wrong, in a file's name.
        data: the file's content; `size` may be larger, then the rest is a hole.
        why: what the refusal must say.
        declared: the format that the deployment declares.
        permitted: the formats that the setting permits.
        size: of the file; 0 for that of the data.
    """

    name: str
    data: bytes
    why: str
    declared: str | None = None
    permitted: tuple[str, ...] = EVERY
    size: int = 0

    def write(self, folder: Path) -> Path:
        """Make the file."""
        path = folder / self.name
        with path.open("wb") as file:
            file.write(self.data)
            if self.size:
                file.truncate(self.size)
        return path


def _of_1_pib(version: int) -> bytes:
    """Nothing is wrong with it but its size: clusters of 2 MiB, and tables that fit."""
    return qcow2(version=version, virtual=PIB, bits=21, l1=2048, table=2 * MIB, l1_offset=4 * MIB, size=6 * MIB)


def _qcow2s() -> Iterator[Hostile]:
    for version in (2, 3):
        for name, target in (
            ("shadow", b"/etc/shadow"),
            ("json", b'json:{"driver":"nbd","host":"h"}'),
            ("http", b"http://169.254.169.254/"),
        ):
            yield Hostile(f"qcow2-v{version}-backing-{name}", qcow2(version=version, backing=target), "backing file")
        yield Hostile(
            f"qcow2-v{version}-named-raw", qcow2(version=version, backing=b"/etc/shadow"), "declared as raw, but it is qcow2", "raw"
        )
        yield Hostile(f"qcow2-v{version}-1-PiB", _of_1_pib(version), "disk of 1125899906842624 bytes")
        yield Hostile(f"qcow2-v{version}-16-EiB", qcow2(version=version, virtual=(1 << 64) - 512, l1=1), "table of clusters is too short")
        yield Hostile(f"qcow2-v{version}-huge-L1", qcow2(version=version, l1=(1 << 32) - 1), "table of clusters would take")
        yield Hostile(f"qcow2-v{version}-L1-outside", qcow2(version=version, l1_offset=1 << 60), "outside the file")
        yield Hostile(f"qcow2-v{version}-L1-overflow", qcow2(version=version, l1_offset=(1 << 64) - 0x10000), "outside the file")
        yield Hostile(f"qcow2-v{version}-huge-refcounts", qcow2(version=version, clusters=(1 << 32) - 1), "reference counts would take")
        yield Hostile(f"qcow2-v{version}-refcounts-outside", qcow2(version=version, table=1 << 55), "outside the file")
        yield Hostile(f"qcow2-v{version}-refcounts-askew", qcow2(version=version, table=0x123), "do not begin at a cluster")
        yield Hostile(f"qcow2-v{version}-snapshots", qcow2(version=version, snapshots=1 << 31, snapshots_offset=0x10000), "snapshots")
        yield Hostile(
            f"qcow2-v{version}-snapshots-outside", qcow2(version=version, snapshots=9, snapshots_offset=1 << 48), "outside the file"
        )
        yield Hostile(f"qcow2-v{version}-aes", qcow2(version=version, crypt=1), "encrypted")
        yield Hostile(f"qcow2-v{version}-cluster-bits-63", qcow2(version=version, bits=63), "impossible numbers")
        yield Hostile(f"qcow2-v{version}-cluster-bits-0", qcow2(version=version, bits=0), "impossible numbers")
        yield Hostile(f"qcow2-v{version}-empty-disk", qcow2(version=version, virtual=0), "impossible numbers")
        named = qcow2(version=version, extensions=extension(0x44415441, b"/etc/shadow") + bytes(8))
        yield Hostile(f"qcow2-v{version}-data-file-named", named, "names another file for its data")
        endless = qcow2(version=version, extensions=extension(0x12345678, b"", size=0xFFFFFFF8))
        yield Hostile(f"qcow2-v{version}-extension-overflow", endless, "header does not end")
    yield from (
        Hostile("qcow2-v1", qcow2(version=1), "version 1"),
        Hostile("qcow2-v4", qcow2(version=4), "version 4"),
        Hostile("qcow2-data-file", qcow2(features=4, extensions=extension(0x44415441, b"/dev/sda") + bytes(8)), "lies in another file"),
        Hostile("qcow2-data-file-raw-declared", qcow2(features=4), "declared as raw, but it is qcow2", "raw"),
        Hostile("qcow2-dirty", qcow2(features=1), "dirty or corrupt"),
        Hostile("qcow2-corrupt", qcow2(features=2), "dirty or corrupt"),
        Hostile("qcow2-unknown-feature", qcow2(features=1 << 40), "unknown features"),
        Hostile("qcow2-luks", qcow2(crypt=2, extensions=extension(0x0537BE77, bytes(16)) + bytes(8)), "encrypted"),
        Hostile("qcow2-luks-hidden", qcow2(extensions=extension(0x0537BE77, bytes(16)) + bytes(8)), "encrypted"),
        Hostile("qcow2-odd-compression", qcow2(features=8, length=112, extensions=b"\x07" + bytes(15)), "compressed in an unknown way"),
        Hostile("qcow2-compression-unsaid", qcow2(features=8), "compressed in an unknown way"),
        Hostile("qcow2-refcount-order", qcow2(order=60), "impossible numbers"),
        Hostile("qcow2-header-length", qcow2(length=0xFFFFFFF8), "header does not end"),
        Hostile("qcow2-header-short", qcow2(length=72), "impossible numbers"),
        Hostile("qcow2-header-odd", qcow2(length=107), "impossible numbers"),
        Hostile("qcow2-L1-short", qcow2(virtual=10 * GIB, l1=1), "too short for a disk"),
        Hostile("qcow2-cut-in-magic", qcow2()[:6], "cut off"),
        Hostile("qcow2-cut-in-header", qcow2()[:80], "cut off"),
        Hostile("qcow2-cut-before-L1", qcow2()[:0x20000], "outside the file"),
        Hostile("qcow2-not-permitted", qcow2(), "images.formats does not permit", permitted=("raw",)),
    )


def _footer(**numbers: int) -> bytes:
    return bytes(512) + vmdk(b"", **numbers)[:512] + bytes(512)


def _vmdks() -> Iterator[Hostile]:
    flat = 'RW 2048 FLAT "/etc/shadow" 0'
    texts = {
        "flat": descriptor("monolithicFlat", flat),
        "vmfs": descriptor("vmfs", 'RW 2048 VMFS "../../etc/shadow"'),
        "device": descriptor("fullDevice", 'RW 2048 FLAT "/dev/sda" 0'),
        "split": descriptor("twoGbMaxExtentSparse", 'RW 2048 SPARSE "a.vmdk"\nRW 2048 SPARSE "b.vmdk"'),
        "no-comment": b'version=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n' + flat.encode(),
        "other-comment": b"# nothing to see\n\n\r\nversion=1\n" + flat.encode(),
        "spaces": b"  \nversion = 2\n" + flat.encode(),
    }
    for name, text in texts.items():
        yield Hostile(f"vmdk-text-{name}", text, "names other files")
        yield Hostile(f"vmdk-text-{name}.raw", text, "declared as raw, but it is vmdk", "raw")
        yield Hostile(f"vmdk-text-{name}-by-default", text, "images.formats does not permit", permitted=("raw", "qcow2"))
        yield Hostile(f"vmdk-text-{name}-in-a-disk", text, "declared as raw, but it is vmdk", "raw", size=64 * MIB)
    inside = {
        "flat": descriptor("monolithicFlat", flat),
        "flat-extent": descriptor(extents=flat),
        "two-extents": descriptor(extents='RW 2048 SPARSE "disk.vmdk"\nRW 2048 FLAT "/etc/shadow" 0'),
        "lower-case-extent": descriptor(extents='RW 2048 SPARSE "disk.vmdk"\nrw 2048 FLAT "/etc/shadow" 0'),
        "no-extent": descriptor(extents=""),
        "zero-extent": descriptor(extents="RW 2048 ZERO"),
        "custom": descriptor("custom"),
        "no-kind": b"# Disk DescriptorFile\nversion=1\n",
        "parent-file": descriptor(more='parentFileNameHint="/etc/shadow"\n'),
        "parent-id": descriptor().replace(b"parentCID=ffffffff", b"parentCID=12345678"),
    }
    whys = {"parent-file": "has a parent", "parent-id": "has a parent"}
    for name, text in inside.items():
        yield Hostile(f"vmdk-embedded-{name}", vmdk(text), whys.get(name, "data in other files"))
    yield from (
        Hostile("vmdk-named.raw", vmdk(), "declared as raw, but it is vmdk", "raw"),
        Hostile("vmdk-by-default", vmdk(), "images.formats does not permit", permitted=("raw", "qcow2")),
        Hostile("vmdk-cowd", b"COWD" + bytes(2000), "names other files"),
        Hostile("vmdk-1-PiB", vmdk(capacity=PIB // 512, grain=4096), "disk of 1125899906842624 bytes", size=8 * MIB),
        Hostile("vmdk-capacity-0", vmdk(capacity=0), "impossible numbers"),
        Hostile("vmdk-capacity-overflow", vmdk(capacity=(1 << 64) - 1), "directory of grains would take"),
        Hostile("vmdk-grain-0", vmdk(grain=0), "impossible numbers"),
        Hostile("vmdk-grain-odd", vmdk(grain=129), "impossible numbers"),
        Hostile("vmdk-grain-huge", vmdk(grain=1 << 40), "impossible numbers"),
        Hostile("vmdk-entries-0", vmdk(entries=0), "impossible numbers"),
        Hostile("vmdk-entries-huge", vmdk(entries=(1 << 32) - 1), "impossible numbers"),
        Hostile("vmdk-version-9", vmdk(version=9), "version 9"),
        Hostile("vmdk-no-descriptor", vmdk(place=0), "no descriptor of its own"),
        Hostile("vmdk-descriptor-huge", vmdk(sectors=1 << 40), "no descriptor of its own, or one too large"),
        Hostile("vmdk-descriptor-outside", vmdk(place=1 << 40), "outside the file"),
        Hostile("vmdk-directory-outside", vmdk(directory=1 << 40), "outside the file"),
        Hostile("vmdk-redundant-outside", vmdk(redundant=1 << 50), "outside the file"),
        Hostile("vmdk-cut", vmdk()[:50], "cut off"),
        Hostile("vmdk-footer-lies", vmdk(directory=AT_END, footer=_footer(capacity=4096)), "contradicts its header"),
        Hostile("vmdk-footer-moves", vmdk(directory=AT_END, footer=_footer(place=100)), "contradicts its header"),
        Hostile("vmdk-footer-again", vmdk(directory=AT_END, footer=_footer(directory=AT_END)), "contradicts its header"),
        Hostile("vmdk-no-footer", vmdk(directory=AT_END), "version 0 is not known"),
    )


def _vhds() -> Iterator[Hostile]:
    fixed = bytes(MIB)
    for name, disk in (("", fixed), ("-of-a-table", bytes(510) + b"\x55\xaa" + fixed[512:])):
        yield Hostile(f"vhd-fixed-named{name}.raw", disk + vhd_footer(), "declared as raw, but it is vhd", "raw")
        yield Hostile(f"vhd-fixed-by-default{name}", disk + vhd_footer(), "images.formats does not permit", permitted=("raw", "qcow2"))
    yield from (
        Hostile("vhd-fixed-lies", fixed + vhd_footer(size=2 * MIB), "claims a disk of 2097152 bytes"),
        Hostile("vhd-fixed-1-PiB", fixed + vhd_footer(size=PIB), "claims a disk of 1125899906842624"),
        Hostile("vhd-fixed-differencing", fixed + vhd_footer(kind=4), "has a parent"),
        Hostile("vhd-fixed-kind-9", fixed + vhd_footer(kind=9), "impossible numbers"),
        Hostile("vhd-empty-disk", fixed + vhd_footer(size=0), "impossible numbers"),
        Hostile("vhd-growing-named.raw", vhd(), "declared as raw, but it is vhd", "raw"),
        Hostile("vhd-growing-by-default", vhd(), "images.formats does not permit", permitted=("raw", "qcow2")),
        Hostile("vhd-differencing", vhd(kind=4), "has a parent"),
        Hostile("vhd-parent-id", vhd(parent=b"\x01" * 16), "has a parent"),
        Hostile("vhd-parent-name", vhd(name="/etc/shadow".encode("utf-16-be")), "has a parent"),
        Hostile("vhd-parent-locator", vhd(locator=0x57326B75), "has a parent"),
        Hostile("vhd-1-PiB", vhd(size=PIB, entries=1 << 22, block=256 * MIB), "outside the file"),
        Hostile("vhd-table-short", vhd(size=10 * GIB), "too short for a disk"),
        Hostile("vhd-table-huge", vhd(entries=(1 << 32) - 1), "table of blocks would take"),
        Hostile("vhd-table-outside", vhd(table=1 << 60), "outside the file"),
        Hostile("vhd-block-0", vhd(block=0), "impossible numbers"),
        Hostile("vhd-block-odd", vhd(block=MIB + 1), "impossible numbers"),
        Hostile("vhd-header-outside", vhd(place=1 << 60), "cut off"),
        Hostile("vhd-header-other", vhd(cookie=b"whatever"), "impossible numbers"),
        Hostile("vhd-cut", vhd()[:100], "cut off"),
    )


def _vhdxs() -> Iterator[Hostile]:
    size = (SIZE, 65544, struct.pack("<Q", MIB))
    parameters = (PARAMETERS, 65536, struct.pack("<II", MIB, 0))
    odd = uuid.UUID(int=7)
    metadata, blocks = (METADATA, 2 * MIB, MIB, 1), (BLOCKS, 3 * MIB, MIB, 1)
    yield from (
        Hostile("vhdx-named.raw", vhdx(), "declared as raw, but it is vhdx", "raw"),
        Hostile("vhdx-by-default", vhdx(), "images.formats does not permit", permitted=("raw", "qcow2")),
        Hostile("vhdx-has-parent", vhdx(flags=2), "has a parent"),
        Hostile("vhdx-parent-locator", vhdx(items=(parameters, size, (PARENT, 65600, bytes(20)))), "has a parent"),
        Hostile("vhdx-1-PiB", vhdx(size=PIB), "disk of 1125899906842624 bytes"),
        Hostile("vhdx-empty-disk", vhdx(size=0), "impossible numbers"),
        Hostile("vhdx-log", vhdx(log=b"\x01" * 16), "log was not played back"),
        Hostile("vhdx-no-header", vhdx(head=b"nope"), "has no header"),
        Hostile("vhdx-region-outside", vhdx(regions=((METADATA, 1 << 60, MIB, 1), blocks)), "outside the file"),
        Hostile("vhdx-blocks-huge", vhdx(regions=(metadata, (BLOCKS, 0, (1 << 32) - 1, 1))), "outside the file"),
        Hostile("vhdx-region-unknown", vhdx(regions=(metadata, blocks, (odd, 0, 1, 1))), "not known"),
        Hostile("vhdx-region-twice", vhdx(regions=(metadata, metadata, blocks)), "not known"),
        Hostile("vhdx-region-missing", vhdx(regions=(metadata,)), "lacks a region"),
        Hostile("vhdx-regions-65535", vhdx(count=65535), "impossible numbers"),
        Hostile("vhdx-regions-differ", vhdx(second=((METADATA, 2 * MIB, MIB, 1),)), "lacks a region"),
        Hostile("vhdx-no-size", vhdx(items=(parameters,)), "lacks the size"),
        Hostile("vhdx-size-twice", vhdx(items=(parameters, size, size)), "says things twice"),
        Hostile("vhdx-item-outside", vhdx(items=(parameters, size, (odd, (1 << 32) - 1, b"x"))), "outside its region"),
        Hostile("vhdx-cut", vhdx()[: 128 * KIB], "cut off"),
    )


def _vdis() -> Iterator[Hostile]:
    yield from (
        Hostile("vdi-named.raw", vdi(), "declared as raw, but it is vdi", "raw"),
        Hostile("vdi-by-default", vdi(), "images.formats does not permit", permitted=("raw", "qcow2")),
        Hostile("vdi-difference", vdi(kind=4), "difference to another image"),
        Hostile("vdi-undo", vdi(kind=3), "difference to another image"),
        Hostile("vdi-link", vdi(link=b"\x05" * 16), "difference to another image"),
        Hostile("vdi-parent", vdi(parent=b"\x05" * 16), "difference to another image"),
        Hostile("vdi-version-0", vdi(version=2), "version 0x2"),
        Hostile("vdi-1-PiB", vdi(size=PIB, blocks=1 << 30), "table of blocks would take"),
        Hostile("vdi-table-short", vdi(size=GIB), "too short for a disk"),
        Hostile("vdi-table-outside", vdi(table=(1 << 32) - 512), "outside the file"),
        Hostile("vdi-block-odd", vdi(block=3), "impossible numbers"),
        Hostile("vdi-sector", vdi(sector=4096), "impossible numbers"),
        Hostile("vdi-allocated", vdi(allocated=9), "impossible numbers"),
        Hostile("vdi-cut", vdi()[:0x60], "cut off"),
    )


def _others() -> Iterator[Hostile]:
    never = "cannot be deployed"
    marks = {
        "qed-backing": b"QED\0" + struct.pack("<IIIQQQQQII", 0x10000, 4, 1, 1, 0, 0, 0x10000, MIB, 0x40, 11) + b"/etc/shadow",
        "luks1": b"LUKS\xba\xbe\x00\x01",
        "luks2": b"LUKS\xba\xbe\x00\x02",
        "parallels": b"WithoutFreeSpace" + bytes(48),
        "parallels-2": b"WithouFreSpacExt" + bytes(48),
        "bochs": b"Bochs Virtual HD Image\0",
        "cloop": b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n",
        "cow": b"OOOM" + bytes(60),
        "xz": b"\xfd7zXZ\0" + bytes(60),
        "bzip2": b"BZh91AY&SY" + bytes(60),
        "lz4": b"\x04\x22\x4d\x18" + bytes(60),
        "zip": b"PK\x03\x04" + bytes(60),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(60),
        "wim": b"MSWIM\0\0\0" + bytes(60),
        "tar": bytes(257) + b"ustar\x0000" + bytes(300),
    }
    for name, data in marks.items():
        yield Hostile(name, data.ljust(70 * KIB, b"\0"), never)
        yield Hostile(f"{name}.raw", data.ljust(70 * KIB, b"\0"), "declared as raw, but it is", "raw")
    yield Hostile("dmg", bytes(70 * KIB) + b"koly".ljust(512, b"\0"), never)
    yield Hostile("dmg.raw", bytes(70 * KIB) + b"koly".ljust(512, b"\0"), "declared as raw, but it is dmg", "raw")
    yield Hostile("empty", b"", "is empty")
    yield Hostile("raw-8-TiB", bytes(512), "disk of 8796093022208 bytes", size=1 << 43)


def _at(data: bytes, *pieces: tuple[int, bytes]) -> bytes:
    whole = bytearray(data.ljust(max(64 * KIB, len(data)), b"\0"))
    for offset, piece in pieces:
        whole[offset : offset + len(piece)] = piece
    return bytes(whole)


def _polyglots() -> Iterator[Hostile]:
    iso, gpt, mbr = (0x8001, b"CD001"), (512, b"EFI PART"), (510, b"\x55\xaa")
    yield from (
        Hostile("polyglot-qcow2-iso", _at(qcow2(), iso), "at once"),
        Hostile("polyglot-qcow2-gpt", _at(qcow2(), gpt), "at once"),
        Hostile("polyglot-qcow2-mbr", _at(qcow2(), mbr), "at once"),
        Hostile("polyglot-qcow2-iso.raw", _at(qcow2(), iso), "at once", "raw"),
        Hostile("polyglot-qcow2-vdi", _at(qcow2(), (0x40, b"\x7f\x10\xda\xbe")), "at once"),
        Hostile("polyglot-qcow2-vhd", qcow2() + vhd_footer(size=0x40000), "at once"),
        Hostile("polyglot-qcow2-dmg", qcow2() + b"koly".ljust(512, b"\0"), "at once"),
        Hostile("polyglot-vmdk-gpt-iso", _at(vmdk(), gpt, iso), "at once"),
        Hostile("polyglot-vmdk-text-iso", _at(descriptor(), iso), "at once"),
        Hostile("polyglot-vmdk-text-mbr.raw", _at(descriptor(), mbr), "at once", "raw"),
        Hostile("polyglot-vmdk-tar", _at(vmdk(), (257, b"ustar")), "at once"),
        Hostile("polyglot-luks-iso", _at(b"LUKS\xba\xbe\x00\x01", iso), "at once"),
        Hostile("polyglot-iso-vdi", _at(b"", iso, (0x40, b"\x7f\x10\xda\xbe")), "at once"),
        Hostile("polyglot-tar-iso", _at(b"", iso, (257, b"ustar")), "at once"),
    )


def _packed() -> Iterator[Hostile]:
    """Packed files that are refused by their first bytes."""
    yield from (
        Hostile("gzip-cut", gzip.compress(bytes(4096), mtime=0)[:12], "cut off"),
        Hostile("gzip-odd-method", b"\x1f\x8b\x07" + bytes(100), "impossible numbers"),
        Hostile("gzip-declared-qcow2", gzip.compress(qcow2(), mtime=0), "is packed", "qcow2"),
        Hostile("zstd-1-PiB", b"\x28\xb5\x2f\xfd\xc0\x70" + struct.pack("<Q", PIB) + bytes(60), "holds 1125899906842624 bytes"),
        Hostile("zstd-window", b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(60), "bytes of memory"),
        Hostile("zstd-dictionary", b"\x28\xb5\x2f\xfd\x03\x58\1\2\3\4" + bytes(60), "dictionary"),
        Hostile("zstd-cut", b"\x28\xb5\x2f\xfd", "cut off"),
    )


def _inside_packed() -> Iterator[Hostile]:
    """Packed files whose content must be looked at."""
    table = bytes(510) + b"\x55\xaa"
    for kind, pack in (("gzip", gzip.compress), ("zstd", zstd)):
        for name, data in (
            ("qcow2", qcow2(backing=b"/etc/shadow")),
            ("vmdk-text", descriptor()),
            ("vmdk", vmdk()),
            ("luks", b"LUKS\xba\xbe\0\1"),
        ):
            yield Hostile(f"{kind}-of-{name}", pack(data), "only raw disks may be")
        yield Hostile(f"{kind}-of-{kind}", pack(pack(table)), "only raw disks may be")
        yield Hostile(f"{kind}-cut-inside", pack(table * 4096)[:-20], "cannot be converted")
        yield Hostile(f"{kind}-of-nothing", pack(b""), "is empty")
    yield Hostile("zip-of-tar.gz", gzip.compress(bytes(257) + b"ustar\x0000" + bytes(300)), "only raw disks may be")


def corpus() -> list[Hostile]:
    """Every hostile image that its own bytes give away."""
    makers: tuple[Callable[[], Iterator[Hostile]], ...] = (_qcow2s, _vmdks, _vhds, _vhdxs, _vdis, _others, _polyglots, _packed)
    return [one for make in makers for one in make()]


def packed_corpus() -> list[Hostile]:
    """Those that must be unpacked to be known."""
    return list(_inside_packed())
