"""Boot images for UEFI HTTP boot: a disk image with shim, GRUB, kernel and initramfs, made for one boot of one node.

Firmware loads it whole, takes it for a disk in memory, and boots from it as from a removable medium (UEFI 2.10 sections 3.5.1 and
24.7.3.1). shim and GRUB come from the distribution, so machines with secure boot accept them, and GRUB needs no network. Only
the parts of the file system are made; the files in it are sent from where they lie.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from metald.boot import fat
from metald.boot.body import Body, Piece, of_file
from metald.boot.fills import Fills, Remote
from metald.boot.loaders import GRUB, SIGNED, Family
from metald.errors import NotFound, Unsupported

KERNEL, INITRAMFS = "/KERNEL", "/INITRD"
"""Where GRUB finds them in an image."""
CONTENT_TYPE = "application/vnd.efi-img"
ISO_CONTENT_TYPE = "application/vnd.efi-iso"
_CONFIGURATION = "GRUB/GRUB.CFG"
_DEFAULTS: Mapping[Family, tuple[str, str]] = {
    "x86_64": ("EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/GRUBX64.EFI"),
    "arm64": ("EFI/BOOT/BOOTAA64.EFI", "EFI/BOOT/GRUBAA64.EFI"),
}
"""Where firmware looks for a loader (UEFI 2.10 table 3.3), and shim for GRUB."""


@dataclass(frozen=True, slots=True)
class BootImage:
    """What an image is made of."""

    configuration: str
    """GRUB's."""
    kernel: Path | Remote
    initramfs: Path | Remote
    loaders: Mapping[str, Path]
    """Loaders' files by the names of `boot.loader_file_paths`."""

    async def body(self, fills: Fills) -> Body:
        """The image, to be sent once all of it is here.

        Raises:
            NotFound: a file is missing.
            ImageError: a file of another server cannot be fetched.
            Unsupported: the files do not fit.
        """
        kernel, initramfs = await fills.local(self.kernel), await fills.local(self.initramfs)
        return await asyncio.to_thread(self._body, kernel, initramfs)

    def _body(self, kernel: Path, initramfs: Path) -> Body:
        files = {**self._loader_files(), KERNEL[1:]: kernel, INITRAMFS[1:]: initramfs}
        text = self.configuration.encode()
        with ExitStack() as stack:
            opened = {name: stack.enter_context(_Opened(path)) for name, path in files.items()}
            version = hashlib.sha256(repr([(name, each.body.etag) for name, each in opened.items()]).encode() + text)
            sizes = {_CONFIGURATION: len(text), **{name: each.body.size for name, each in opened.items()}}
            try:
                gaps = fat.layout(sizes, int.from_bytes(version.digest()[:4], "big"))
            except fat.TooBig as error:
                raise Unsupported(f"No boot image can be made: {error}.", remedy="Set boot_interface to http-ipxe.") from error
            pieces = []
            for gap in gaps:
                data = gap.data + text if gap.file == _CONFIGURATION else gap.data
                pieces.append(Piece(len(data), data))
                if gap.file in opened:
                    pieces.append(opened.pop(gap.file).body.pieces[0])
            for empty in opened.values():
                empty.body.close()
            stack.pop_all()
        return Body(pieces, version.hexdigest()[:32], content_type=CONTENT_TYPE)

    def _loader_files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for family, (shim, grub) in _DEFAULTS.items():
            both = self.loaders.get(SIGNED[family]), self.loaders.get(GRUB[family])
            if both[0] and both[1] and both[0].is_file() and both[1].is_file():
                found |= {shim: both[0], grub: both[1]}
        if not found:
            raise NotFound("There are no shim and GRUB to put into a boot image.", remedy="See boot.loader_file_paths.")
        return found


class _Opened:
    """A file that is closed unless somebody takes it."""

    def __init__(self, path: Path) -> None:
        self.body = of_file(path)

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.body.close()
