"""Tells what an image file really is, by its bytes, and refuses what would make a program reach beyond the file.

An image is never handed to `qemu-img` with the format left open: a raw disk that begins with a qcow2 header naming
`/etc/shadow` as its backing file would otherwise be read through it. The formats themselves are in `formats/`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import BinaryIO

from metald.errors import ImageError
from metald.images.formats import packed, qcow2, vdi, vhd, vhdx, vmdk
from metald.images.formats.marks import DISKS, HEAD, PACKINGS, TAIL, detect
from metald.images.formats.reader import Reader, UnsafeError

CHECKS: dict[str, Callable[[Reader], int]] = {
    "qcow2": qcow2.check,
    "vmdk": vmdk.check,
    "vhd": vhd.check,
    "vhdx": vhdx.check,
    "vdi": vdi.check,
}
"""The formats that can be converted to a raw disk, and how each is checked."""

_SPELT = {"vpc": "vhd", "iso": "raw", "gpt": "raw", "ami": "raw"}
"""Other names of formats in `image_disk_format`."""


@dataclass(frozen=True, slots=True)
class Format:
    """What an image is: its format by its bytes, and how large the disk is that it describes.

    Attributes:
        name: `raw`, `gpt`, `mbr` or `iso` for a raw disk, a key of `CHECKS`, or `gzip` or `zstd`.
        size: of the disk in bytes; of a packed one, of the packed file.
    """

    name: str
    size: int

    @property
    def is_disk(self) -> bool:
        """Whether the bytes can be written to a disk as they are."""
        return self.name in DISKS

    @property
    def is_packed(self) -> bool:
        """Whether a raw disk is packed inside."""
        return self.name in PACKINGS


def spelt(declared: str) -> str:
    """The name here of a format that somebody declares."""
    return _SPELT.get(declared, declared)


def inspect(
    file: BinaryIO,
    shown: str,
    *,
    declared: str | None,
    largest: int,
    permitted: Collection[str] = ("raw", "qcow2"),
    inside: str = "",
) -> Format:
    """Look at an open image. Blocks; run it in a thread.

    Args:
        file: the image.
        shown: what errors call it.
        declared: the format that the deployment says, as in `CHECKS`, or `raw`.
        largest: the largest disk in bytes that may be described.
        permitted: the formats that may be deployed: `raw` and keys of `CHECKS`.
        inside: what the image was packed with, when this is what came out: it must be a raw disk.

    Raises:
        ImageError: it is not what was declared, not deployable, or unsafe.
    """
    reader = Reader(file)
    if not reader.size:
        raise ImageError(f"The image {shown} is empty.")
    head = reader.read(0, HEAD)
    tail = reader.read(reader.size - TAIL, TAIL) if reader.size > TAIL else b""
    name, *others = detect(head, tail)
    kind = "raw" if name in DISKS else name
    if others:
        raise ImageError(
            f"The image {shown} is {name} and {others[0]} at once; programs would disagree about what it is.",
            remedy="Check where the image came from.",
        )
    _check_kind(kind, name, shown, declared, permitted, inside)
    size = _size(reader, kind, shown, largest)
    if size > largest:
        raise ImageError(
            f"The image {shown} describes a disk of {size} bytes, more than the image cache may hold ({largest}).",
            remedy="Use a smaller image, or raise images.cache_size.",
        )
    return Format(name, size)


def _check_kind(kind: str, name: str, shown: str, declared: str | None, permitted: Collection[str], inside: str) -> None:
    """Whether a file of this kind may be deployed at all."""
    if inside and kind != "raw":
        raise ImageError(
            f"The image {shown} is {name}, packed with {inside}; only raw disks may be packed.",
            remedy="Give it unpacked, or convert it to raw and pack that.",
        )
    if kind in PACKINGS:
        if declared not in (None, "raw") or "raw" not in permitted:
            raise ImageError(
                f"The image {shown} is declared as {declared}, but it is packed ({kind}).", remedy="Unpack it, or declare raw."
            )
        return
    if declared is not None and declared != kind:
        remedy = f"Set instance_info/image_disk_format to {kind}." if kind in permitted else "Check where the image came from."
        raise ImageError(f"The image {shown} is declared as {declared}, but it is {name}.", remedy=remedy)
    if kind in permitted:
        return
    convert = "Convert it: qemu-img convert -O raw IN OUT"
    if kind in CHECKS or kind == "raw":
        raise ImageError(f"The image {shown} is {name}, which images.formats does not permit.", remedy=f"{convert}, or add {kind} there.")
    raise ImageError(f"The image {shown} is {name}, which cannot be deployed.", remedy=f"{convert}, or unpack it.")


def _size(reader: Reader, kind: str, shown: str, largest: int) -> int:
    """Size of the disk that a container describes, whose header is checked first."""
    try:
        if kind in PACKINGS:
            packed.check(reader, kind, largest)
        elif kind in CHECKS:
            return CHECKS[kind](reader)
    except UnsafeError as error:
        raise ImageError(f"The {kind} image {shown} is refused: {error.why}.", remedy=error.remedy) from None
    return reader.size
