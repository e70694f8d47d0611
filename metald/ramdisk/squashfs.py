"""Packs a file tree into a compressed, read-only file system that the kernel mounts without unpacking it.

A ramdisk of this kind keeps only the packed bytes in memory, and reads from them what is used.
"""

from __future__ import annotations

import io
import stat
import subprocess
import tarfile
from pathlib import Path

from metald.ramdisk.cpio import Tree
from metald.ramdisk.packages import BuildError, missing

_TYPES = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFREG: tarfile.REGTYPE, stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFCHR: tarfile.CHRTYPE}


def pack(tree: Tree, output: Path, time: int) -> None:
    """Write the file system to `output`. The same tree gives the same bytes.

    Args:
        time: every entry's modification time in seconds since 1970.

    Raises:
        BuildError: `mksquashfs` is missing or fails.
    """
    output.unlink(missing_ok=True)
    made = (
        "-comp",
        "zstd",
        "-Xcompression-level",
        "10",
        "-b",
        "128K",
        "-mkfs-time",
        str(time),
        "-all-time",
        str(time),
        "-reproducible",
        "-no-xattrs",
    )
    argv = ("mksquashfs", "-", str(output), "-tar", "-root-mode", "755", *made, "-quiet", "-no-progress")
    try:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise missing("mksquashfs") from None
    assert process.stdin is not None
    assert process.stderr is not None
    with process:
        try:
            with process.stdin as pipe, tarfile.open(fileobj=pipe, mode="w|", format=tarfile.GNU_FORMAT) as archive:
                for name, mode, data, device in tree.entries():
                    archive.addfile(*_member(name, mode, data, device, time))
        except BrokenPipeError:
            pass  # it says why itself
        words = process.stderr.read().decode(errors="replace").strip()
        if process.wait() or not output.exists():
            raise BuildError(f"The ramdisk cannot be built: mksquashfs failed: {words[-500:]}.")


def _member(name: str, mode: int, data: bytes, device: tuple[int, int], time: int) -> tuple[tarfile.TarInfo, io.BytesIO | None]:
    info = tarfile.TarInfo(name)
    info.type = _TYPES[stat.S_IFMT(mode)]
    info.mode = stat.S_IMODE(mode)
    info.mtime = time
    info.devmajor, info.devminor = device
    if stat.S_ISLNK(mode):
        info.linkname = data.decode()
        return info, None
    if stat.S_ISREG(mode):
        info.size = len(data)
        return info, io.BytesIO(data)
    return info, None
