"""Headers of qcow2 images. Layout: QEMU, docs/interop/qcow2.rst."""

from __future__ import annotations

import struct

from metald.images.formats.reader import FLATTEN, Reader, UnsafeError, check_table

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_3 = struct.Struct(">QQQII")
_DIRTY, _CORRUPT, _EXTERNAL, _COMPRESSION, _EXTENDED = 1, 2, 4, 8, 16
_KNOWN = 0b11111
_EXTENSION_END, _EXTENSION_DATA_FILE, _EXTENSION_ENCRYPTION = 0, 0x44415441, 0x0537BE77
_MOST_SNAPSHOTS = 65536
_LARGEST_REFCOUNT_TABLE = 8 << 20


def check(reader: Reader) -> int:
    """Check the header and return the size of the disk in bytes.

    Raises:
        UnsafeError: it refers to other files, is encrypted, damaged, or uses features that are not known to be safe.
    """
    fields = reader.unpack(_HEADER, 0, "its header")
    _, version, backing, backing_size, cluster_bits, virtual, crypt, l1_size, l1_offset, table, clusters, snapshots, snapshots_offset = (
        fields
    )
    if version not in (2, 3):
        raise UnsafeError(f"version {version} is not known")
    if backing or backing_size:
        raise UnsafeError("it has a backing file", FLATTEN)
    if crypt:
        raise UnsafeError("it is encrypted", "Decrypt it: qemu-img convert.")
    if not 9 <= cluster_bits <= 21 or not clusters or not virtual:
        raise UnsafeError("its header holds impossible numbers")
    cluster = 1 << cluster_bits
    features, length = _features(reader) if version == 3 else (0, _HEADER.size)
    _check_extensions(reader, length, cluster)
    check_table(l1_size * 8, "its table of clusters")
    if clusters * cluster > _LARGEST_REFCOUNT_TABLE:
        raise UnsafeError(f"its table of reference counts would take {clusters * cluster} bytes")
    if snapshots > _MOST_SNAPSHOTS:
        raise UnsafeError(f"it claims {snapshots} snapshots")
    for offset, least in ((l1_offset, l1_size * 8), (table, 8), (snapshots_offset, snapshots * 40)):
        if not least:
            continue
        if offset % cluster:
            raise UnsafeError("its tables do not begin at a cluster")
        reader.check_inside(offset, least, "one of its tables")
    entry = 16 if features & _EXTENDED else 8
    if l1_size * cluster * (cluster // entry) < virtual:
        raise UnsafeError(f"its table of clusters is too short for a disk of {virtual} bytes")
    return int(virtual)


def _features(reader: Reader) -> tuple[int, int]:
    """The incompatible features and the length of the header."""
    features, _, _, refcount_order, length = reader.unpack(_VERSION_3, _HEADER.size, "its header")
    if features & _EXTERNAL:
        raise UnsafeError("its data lies in another file", FLATTEN)
    if features & (_DIRTY | _CORRUPT):
        raise UnsafeError("it is marked as dirty or corrupt", "Repair it: qemu-img check -r all IMAGE.")
    if features & ~_KNOWN:
        raise UnsafeError(f"it needs unknown features ({features & ~_KNOWN:#x})")
    if length < 104 or length % 8 or refcount_order > 6:
        raise UnsafeError("its header holds impossible numbers")
    if features & _COMPRESSION and (length < 112 or reader.read(104, 1) != b"\x01"):
        raise UnsafeError("it is compressed in an unknown way")
    return features, length


def _check_extensions(reader: Reader, at: int, cluster: int) -> None:
    """Walk the header's extensions, which end in the first cluster."""
    head = reader.read(0, cluster)
    while at + 8 <= len(head):
        kind, size = struct.unpack_from(">II", head, at)
        if kind == _EXTENSION_END:
            return
        if kind == _EXTENSION_DATA_FILE:
            raise UnsafeError("it names another file for its data", FLATTEN)
        if kind == _EXTENSION_ENCRYPTION:
            raise UnsafeError("it is encrypted", "Decrypt it: qemu-img convert.")
        at += 8 + (size + 7) // 8 * 8
    raise UnsafeError("its header does not end")
