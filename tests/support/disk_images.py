"""Images of disks in every format, made byte by byte from whatever numbers a test wants in their headers.

Also `honest`: images as `qemu-img` makes them.
"""

from __future__ import annotations

import struct
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

KIB, MIB, GIB, PIB = 1 << 10, 1 << 20, 1 << 30, 1 << 50


def qcow2(
    *,
    version: int = 3,
    backing: bytes = b"",
    bits: int = 16,
    virtual: int = MIB,
    crypt: int = 0,
    l1: int = 1,
    features: int = 0,
    table: int = 0x10000,
    clusters: int = 1,
    l1_offset: int = 0x30000,
    snapshots: int = 0,
    snapshots_offset: int = 0,
    order: int = 4,
    length: int = 104,
    extensions: bytes = bytes(8),
    backing_offset: int = 0,
    size: int = 0x40000,
) -> bytes:
    """A qcow2 file with a header of these numbers."""
    place = backing_offset or (0x200 if backing else 0)
    fields = (b"QFI\xfb", version, place, len(backing), bits, virtual, crypt, l1, l1_offset, table, clusters, snapshots, snapshots_offset)
    head = struct.pack(">4sIQIIQIIQQIIQ", *fields)
    if version != 2:
        head += struct.pack(">QQQII", features, 0, 0, order, length)
    head = (head + extensions).ljust(0x200, b"\0") + backing
    return head.ljust(size, b"\0")[:size]


def extension(kind: int, data: bytes, *, size: int | None = None) -> bytes:
    """An extension of a qcow2 header; `size` is what it claims to have."""
    return struct.pack(">II", kind, len(data) if size is None else size) + data.ljust((len(data) + 7) // 8 * 8, b"\0")


DESCRIPTOR = (
    '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="{kind}"\n\n{extents}\n\nddb.adapterType="ide"\n'
)


def descriptor(kind: str = "monolithicSparse", extents: str = 'RW 2048 SPARSE "disk.vmdk"', more: str = "") -> bytes:
    """The text of a VMDK descriptor."""
    return (DESCRIPTOR.format(kind=kind, extents=extents) + more).encode()


def vmdk(
    text: bytes | None = None,
    *,
    version: int = 1,
    capacity: int = 2048,
    grain: int = 128,
    place: int = 1,
    sectors: int = 20,
    entries: int = 512,
    directory: int = 26,
    redundant: int = 21,
    footer: bytes = b"",
) -> bytes:
    """A VMDK file of one part, with a header of these numbers."""
    numbers = (b"KDMV", version, 3, capacity, grain, place, sectors, entries, redundant, directory, 128, 0, 10, 32, 13, 10, 0)
    head = struct.pack("<4sIIQQQQIQQQBBBBBH", *numbers).ljust(512, b"\0")
    body = (head + (descriptor() if text is None else text)).ljust(128 * KIB, b"\0")
    return body + footer


AT_END = (1 << 64) - 1


def vhd_footer(*, size: int = MIB, kind: int = 2, place: int = AT_END) -> bytes:
    """The 512 bytes at the end, and for growing disks at the start, of a VHD."""
    numbers = (b"conectix", 2, 0x10000, place, bytes(4), b"test", bytes(4), b"Wi2k", size, size, 0, kind, 0, bytes(16))
    return struct.pack(">8sIIQ4s4s4s4sQQIII16s", *numbers).ljust(512, b"\0")


def vhd(
    *,
    size: int = MIB,
    kind: int = 3,
    entries: int = 1,
    block: int = 2 * MIB,
    table: int = 1536,
    parent: bytes = bytes(16),
    name: bytes = b"",
    locator: int = 0,
    place: int = 512,
    cookie: bytes = b"cxsparse",
) -> bytes:
    """A VHD that grows."""
    head = struct.pack(">8sQQIIII16sI4s512s", cookie, AT_END, table, 0x10000, entries, block, 0, parent, 0, bytes(4), name)
    head += struct.pack(">IIIIQ", locator, 512, 512, 0, 4096) + bytes(7 * 24)
    footer = vhd_footer(size=size, kind=kind, place=place)
    return (footer + head.ljust(1024, b"\0") + b"\xff" * 512).ljust(8192, b"\0") + footer


METADATA, BLOCKS = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e"), uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
PARAMETERS, SIZE = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b"), uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
PARENT = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
Item = tuple[uuid.UUID, int, bytes]


def vhdx(
    *,
    size: int = MIB,
    flags: int = 0,
    log: bytes = bytes(16),
    regions: tuple[tuple[uuid.UUID, int, int, int], ...] = ((METADATA, 2 * MIB, MIB, 1), (BLOCKS, 3 * MIB, MIB, 1)),
    second: tuple[tuple[uuid.UUID, int, int, int], ...] | None = None,
    items: tuple[Item, ...] | None = None,
    count: int | None = None,
    head: bytes = b"head",
) -> bytes:
    """A VHDX file; `items` are kind, place below the region, and content."""
    data = bytearray(4 * MIB)
    data[:8] = b"vhdxfile"
    for offset in (64 * KIB, 128 * KIB):
        data[offset : offset + 80] = struct.pack("<4sIQ16s16s16sHHIQ", head, 0, 1, bytes(16), bytes(16), log, 0, 1, MIB, MIB)
    for offset, listed in ((192 * KIB, regions), (256 * KIB, regions if second is None else second)):
        table = struct.pack("<4sIII", b"regi", 0, len(listed) if count is None else count, 0)
        table += b"".join(struct.pack("<16sQII", kind.bytes_le, place, length, required) for kind, place, length, required in listed)
        data[offset : offset + len(table)] = table
    every = items
    if every is None:
        every = ((PARAMETERS, 65536, struct.pack("<II", MIB, flags)), (SIZE, 65544, struct.pack("<Q", size)))
    table = struct.pack("<8sHH20s", b"metadata", 0, len(every), bytes(20))
    for kind, place, content in every:
        table += struct.pack("<16sIII4s", kind.bytes_le, place, len(content), 0, bytes(4))
        if place < MIB:
            data[2 * MIB + place : 2 * MIB + place + len(content)] = content
    data[2 * MIB : 2 * MIB + len(table)] = table
    return bytes(data)


def vdi(
    *,
    version: int = 0x00010001,
    kind: int = 1,
    size: int = MIB,
    blocks: int = 1,
    allocated: int = 0,
    table: int = 512,
    block: int = MIB,
    sector: int = 512,
    link: bytes = bytes(16),
    parent: bytes = bytes(16),
) -> bytes:
    """A VDI file."""
    numbers = (0xBEDA107F, version, 400, kind, 0, bytes(256), table, 1024, 0, 0, 0, sector, 0, size, block, 0, blocks, allocated)
    head = struct.pack("<IIIII256sIIIIIIIQIIII16s16s16s16s", *numbers, b"\x01" * 16, b"\x02" * 16, link, parent)
    return (b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(0x40, b"\0") + head).ljust(4096, b"\0")


def zstd(data: bytes, *more: str) -> bytes:
    """Pack by the program."""
    return subprocess.run(["zstd", "-q", "-c", *more], input=data, capture_output=True, check=True).stdout


def honest(folder: Path) -> Iterator[tuple[str, Path]]:
    """Images as `qemu-img` makes them, by format; each holds the same disk of 4 MiB with a partition table."""
    raw = folder / "disk.raw"
    raw.write_bytes((bytes(510) + b"\x55\xaa" + b"content" * 30_000).ljust(4 * MIB, b"\0"))
    kinds = {
        "qcow2-v2": ("qcow2", "-o", "compat=0.10"),
        "qcow2-v3": ("qcow2", "-o", "compat=1.1"),
        "qcow2-small-clusters": ("qcow2", "-o", "cluster_size=512"),
        "qcow2-big-clusters": ("qcow2", "-o", "cluster_size=2M"),
        "qcow2-packed": ("qcow2", "-c"),
        "qcow2-zstd": ("qcow2", "-c", "-o", "compression_type=zstd"),
        "qcow2-extended": ("qcow2", "-o", "extended_l2=on,cluster_size=128k"),
        "qcow2-lazy": ("qcow2", "-o", "lazy_refcounts=on"),
        "vmdk-sparse": ("vmdk", "-o", "subformat=monolithicSparse"),
        "vmdk-stream": ("vmdk", "-o", "subformat=streamOptimized"),
        "vhd-fixed": ("vpc", "-o", "subformat=fixed,force_size=on"),
        "vhd-growing": ("vpc", "-o", "subformat=dynamic,force_size=on"),
        "vhdx-growing": ("vhdx",),
        "vhdx-fixed": ("vhdx", "-o", "subformat=fixed"),
        "vdi-growing": ("vdi",),
        "vdi-fixed": ("vdi", "-o", "static=on"),
    }
    for name, (form, *options) in kinds.items():
        path = folder / name
        subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", form, *options, raw, path], check=True)
        yield {"vpc": "vhd"}.get(form, form), path
    yield "raw", raw
