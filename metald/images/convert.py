"""Turns a qcow2 image into the raw disk it describes, by `qemu-img` in a process of its own.

The process gets the format of its input named, limits on memory, processor time and file size, and a deadline: an image
comes from outside, and `qemu-img` is a large program.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
from pathlib import Path

from metald.errors import ImageError

_MEMORY = 2 << 30
_BASE = 60.0
_PER_GIB = 120.0
"""Seconds of processor time and of waiting: these, and these per GiB of disk."""


async def convert(source: Path, target: Path, *, size: int, shown: str) -> None:
    """Convert the qcow2 file `source` to the raw file `target` of `size` bytes. Holes stay holes.

    Raises:
        ImageError: `qemu-img` is missing, failed, or did not end in time.
        OSError: with ENOSPC, when the file system is full.
    """
    seconds = _BASE + _PER_GIB * size / (1 << 30)
    limits = (f"--as={_MEMORY}", f"--cpu={int(seconds) + 1}", f"--fsize={size}", "--core=0")
    argv = ("prlimit", *limits, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-t", "writeback", str(source), str(target))
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin:/usr/local/bin", "LC_ALL": "C", "MALLOC_ARENA_MAX": "3"},
            start_new_session=True,
        )
    except FileNotFoundError:
        raise _missing(shown) from None
    try:
        async with asyncio.timeout(seconds):
            _, stderr = await process.communicate()
    except TimeoutError:
        raise ImageError(f"Converting the image {shown} took longer than {seconds:.0f} seconds.", remedy="Provide it as raw.") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
    text = stderr.decode("utf-8", "replace").strip()[-300:]
    if process.returncode == 0:
        return
    if "No space left" in text:
        raise OSError(errno.ENOSPC, "No space left on device")
    if process.returncode == 127 or "failed to execute" in text:
        raise _missing(shown)
    raise ImageError(f"The image {shown} cannot be converted: {text.replace(str(source), 'the image') or process.returncode}.")


def _missing(shown: str) -> ImageError:
    return ImageError(
        f"The image {shown} is qcow2, and qemu-img is not installed.",
        remedy="Install it (apt-get install qemu-utils), or provide it as raw.",
    )
