"""Turns what is not a raw disk into one: containers by `qemu-img`, packed disks by `gzip` or `zstd`, each in a cage of its own.

The program gets the format of its input named and is told that there is no backing file, may open its input and its output alone,
and has limits on memory, processor time and size, and a deadline: an image comes from outside, and these are large programs.
"""

from __future__ import annotations

import asyncio
import errno
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from metald.errors import ImageError
from metald.images.sandbox import Cage, running
from metald.images.sink import Sink

_MEMORY = 2 << 30
_BASE = 60.0
_PER_GIB = 120.0
"""Seconds of processor time and of waiting: these, and these per GiB of disk."""

_SLACK = 16 << 20
"""Bytes by which a converted disk may be larger than its header says: sizes are rounded up to whole cylinders."""

_CHUNK = 1 << 20
_DRIVERS = {"vhd": "vpc"}
_OPTIONS: dict[str, dict[str, object]] = {"qcow2": {"backing": None}, "vhd": {"force_size_calc": "current_size"}}
_PACKAGES = {"qemu-img": "qemu-utils"}

Grown = Callable[[int], Awaitable[object]]
"""Called with how many bytes have been unpacked; makes room for them, or raises."""


def _seconds(size: int) -> float:
    return _BASE + _PER_GIB * size / (1 << 30)


async def convert(source: Path, target: Path, *, kind: str, size: int, shown: str) -> None:
    """Convert the file `source` to the raw file `target` of about `size` bytes. Holes stay holes.

    Args:
        kind: the format of `source`, as the inspector calls it.

    Raises:
        ImageError: `qemu-img` is missing, failed, or did not end in time.
        OSError: with ENOSPC, when the file system is full.
    """
    seconds = _seconds(size)
    file = {"driver": "file", "filename": str(source)}
    options = {"driver": _DRIVERS.get(kind, kind), "file": file, **_OPTIONS.get(kind, {})}
    cage = Cage(memory=_MEMORY, processor=int(seconds) + 1, file_size=size + _SLACK, reads=(source,), writes=(target,))
    argv = ("qemu-img", "convert", "-O", "raw", "-t", "writeback", f"json:{json.dumps(options)}", str(target))
    await asyncio.to_thread(target.touch, 0o600)
    async with running(argv, cage) as process:
        try:
            async with asyncio.timeout(seconds):
                _, stderr = await process.communicate()
        except TimeoutError:
            raise ImageError(f"Converting the image {shown} took longer than {seconds:.0f} seconds.", remedy="Provide it as raw.") from None
    text = stderr.decode("utf-8", "replace").strip()[-300:]
    _check_end(process.returncode, text.replace(str(source), "the image"), "qemu-img", shown, f"is {kind}")


async def unpack(source: Path, sink: Sink, *, kind: str, largest: int, shown: str, grown: Grown) -> None:
    """Unpack the file `source`, packed by `kind` (`gzip` or `zstd`), into an open sink. Holes become holes.

    Raises:
        ImageError: the program is missing or failed, or more than `largest` bytes came out.
        OSError: with ENOSPC, when the file system is full.
    """
    seconds = _seconds(largest)
    cage = Cage(memory=_MEMORY, processor=int(seconds) + 1, reads=(source,))
    async with running((kind, "-dc", str(source)), cage, output=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(seconds):
                while data := await _gathered(process.stdout):
                    if sink.size + len(data) > largest:
                        raise ImageError(
                            f"The image {shown} holds more than {largest} bytes when it is unpacked.",
                            remedy="Use a smaller image, or raise images.cache_size.",
                        )
                    await grown(sink.size + len(data))
                    await asyncio.to_thread(sink.write, data)
                stderr = await process.stderr.read()
                await process.wait()
        except TimeoutError:
            raise ImageError(f"Unpacking the image {shown} took longer than {seconds:.0f} seconds.", remedy="Provide it as raw.") from None
    text = stderr.decode("utf-8", "replace").strip()[-300:].replace(str(source), "the image")
    _check_end(process.returncode, text, kind, shown, f"is packed with {kind}")


async def _gathered(pipe: asyncio.StreamReader) -> bytes | bytearray:
    """About `_CHUNK` bytes; less at the end."""
    gathered = bytearray()
    while len(gathered) < _CHUNK and (data := await pipe.read(_CHUNK)):
        gathered += data
    return gathered


def _check_end(status: int | None, text: str, program: str, shown: str, what: str) -> None:
    if status == 0:
        return
    if "No space left" in text:
        raise OSError(errno.ENOSPC, "No space left on device")
    if status == 127:
        raise ImageError(
            f"The image {shown} {what}, and {program} is not installed.",
            remedy=f"Install it (apt-get install {_PACKAGES.get(program, program)}), or provide the image as raw.",
        )
    if status == -signal.SIGXFSZ or "File too large" in text:
        text = "it is larger than its header says"
    raise ImageError(f"The image {shown} cannot be converted: {text or f'{program} ended with status {status}'}.")
