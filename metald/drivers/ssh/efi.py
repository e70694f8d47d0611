"""UEFI boot entries as bytes (UEFI specification 2.10, sections 3.1.3 and 10.3), and which loader an entry should name.

Pure code. A variable here is what follows the four attribute bytes of a file in efivarfs.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Mapping, Sequence

from metald.drivers.ssh.partitions import Partition

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""The vendor GUID of the boot variables."""

ORDER = f"BootOrder-{GLOBAL}"
FALLBACK = "/efi/boot/bootx64.efi"
"""What firmware boots from a disk that no entry names."""

_PERSISTENT = struct.pack("<I", 0x1 | 0x2 | 0x4)  # non-volatile, at boot, at run time
_ACTIVE = 1
_ENTRY_NAME = re.compile(rf"Boot([0-9A-F]{{4}})-{GLOBAL}")
_PREFERRED = ("shimx64.efi", "grubx64.efi", "systemd-bootx64.efi", "bootx64.efi")


def choose_loader(files: Sequence[str]) -> str | None:
    """The loader to boot among the files of an EFI system partition.

    A vendor's own goes before the fallback, for it may lead to the fallback's configuration; a shim before what it loads.
    """
    found = sorted(
        (path for path in files if path.lower().endswith(".efi")), key=lambda path: (path.lower().startswith("/efi/boot/"), path)
    )
    for name in _PREFERRED:
        for path in found:
            if path.lower().startswith("/efi/") and path.lower().rpartition("/")[2] == name:
                return path
    return None


def has_fallback(files: Sequence[str]) -> bool:
    """Whether the disk boots without an entry."""
    return any(path.lower() == FALLBACK for path in files)


def load_option(title: str, partition: Partition, loader: str) -> bytes:
    """An `EFI_LOAD_OPTION` that boots a loader on a partition of a GPT disk."""
    place = struct.pack("<BBHIQQ16sBB", 4, 1, 42, partition.number, partition.first, partition.sectors, partition.guid.bytes_le, 2, 2)
    text = (loader.replace("/", "\\") + "\0").encode("utf-16-le")
    path = place + struct.pack("<BBH", 4, 4, 4 + len(text)) + text + b"\x7f\xff\x04\x00"
    return struct.pack("<IH", _ACTIVE, len(path)) + (title + "\0").encode("utf-16-le") + path


def title_of(option: bytes) -> str:
    """The title of an `EFI_LOAD_OPTION`; empty when it cannot be read."""
    text = option[6:].decode("utf-16-le", "replace")
    return text.partition("\0")[0] if "\0" in text else ""


def boots_partition(option: bytes, guid: uuid.UUID) -> bool:
    """Whether an entry names a partition."""
    return guid.bytes_le in option


def plan(variables: Mapping[str, bytes], title: str, option: bytes) -> list[tuple[str, bytes]]:
    """Which variables to write so that `option` is booted first.

    An entry of the same title is replaced, so that deploying again does not fill the firmware's memory.

    Args:
        variables: every `Boot*` file of efivarfs with its attribute bytes.

    Returns:
        Names and contents with attribute bytes; empty when all is as it should be.
    """
    entries = {int(found[1], 16): content[4:] for name, content in variables.items() if (found := _ENTRY_NAME.fullmatch(name))}
    same = sorted(number for number, content in entries.items() if title_of(content) == title)
    number = same[0] if same else next(number for number in range(0x10000) if number not in entries)
    order = list(struct.iter_unpack("<H", _even(variables.get(ORDER, b"")[4:])))
    old = [one for (one,) in order]
    new = [number, *(one for one in old if one != number)]
    changes = []
    if entries.get(number) != option:
        changes.append((f"Boot{number:04X}-{GLOBAL}", _PERSISTENT + option))
    if new != old:
        changes.append((ORDER, _PERSISTENT + b"".join(struct.pack("<H", one) for one in new)))
    return changes


def _even(data: bytes) -> bytes:
    return data[: len(data) // 2 * 2]
