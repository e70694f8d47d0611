"""Reads from ELF files what a ramdisk's builder needs: sections, needed libraries, the loader.

Only 64-bit little-endian files (System V ABI, chapters 4 and 5), which is what amd64 and arm64 have.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MAGIC = b"\x7fELF\x02\x01"
_LOAD, _DYNAMIC, _INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB = 1, 5


@dataclass(frozen=True, slots=True)
class Linkage:
    """What a program or library asks the loader for.

    Attributes:
        interpreter: path of the loader that the kernel starts; empty for libraries.
        needed: names of libraries, in the file's order.
    """

    interpreter: str
    needed: tuple[str, ...]


def section(data: bytes, wanted: bytes) -> bytes:
    """A section's bytes; empty when there is no such section or the file is no ELF file."""
    if not data.startswith(_MAGIC):
        return b""
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + size * index) for index in range(count)]
    names = headers[names_index][4]
    for name, _, _, _, offset, length in headers:
        if data.startswith(wanted + b"\0", names + name):
            return data[offset : offset + length]
    return b""


def linkage(data: bytes) -> Linkage | None:
    """What a dynamically linked ELF file needs; None for any other file."""
    if not data.startswith(_MAGIC):
        return None
    (table,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    headers = [struct.unpack_from("<IIQQQQ", data, table + size * index) for index in range(count)]
    interpreter = ""
    dynamic: list[tuple[int, int]] = []
    for kind, _, offset, _, _, length in headers:
        if kind == _INTERP:
            interpreter = data[offset : offset + length].rstrip(b"\0").decode()
        elif kind == _DYNAMIC:
            dynamic = list(struct.iter_unpack("<QQ", data[offset : offset + length // 16 * 16]))
    if not dynamic:
        return None
    address = next(value for tag, value in dynamic if tag == _DT_STRTAB)
    strings = next(
        offset + address - start for kind, _, offset, start, _, length in headers if kind == _LOAD and start <= address < start + length
    )
    needed = (_text(data, strings + value) for tag, value in dynamic if tag == _DT_NEEDED)
    return Linkage(interpreter, tuple(needed))


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()
