"""The contents that TFTP serves, in memory: read once in a thread, kept while they are used and the file is unchanged."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from pathlib import Path

from metald.boot.opened import open_regular
from metald.boot.tftp.blocks import Blocks
from metald.errors import NotFound, TooLarge

MAX_FILE = 256 << 20
KEPT = 128 << 20
"""Bytes of files that are kept when nobody is loading them any more; at least the last file is."""
_BLOCK_SIZES = 4
_DEADLINE = 60.0

_Version = tuple[int, int, int]


class Content:
    """Bytes to serve, and their datagrams for the block sizes that clients asked for last."""

    __slots__ = ("_blocks", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._blocks: OrderedDict[int, Blocks] = OrderedDict()

    def blocks(self, blksize: int) -> Blocks:
        """The datagrams at a block size."""
        blocks = self._blocks.get(blksize)
        if blocks is None:
            blocks = self._blocks[blksize] = Blocks(self.data, blksize)
            if len(self._blocks) > _BLOCK_SIZES:
                self._blocks.popitem(last=False)
        return blocks


class Contents:
    """Files by path. Many clients that ask for one file at once cause one read of it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, tuple[_Version, Content]] = OrderedDict()
        self._size = 0
        self._loading: dict[Path, asyncio.Task[Content]] = {}

    def ready(self, path: Path) -> Content | None:
        """The content when it is in memory and the file has not changed since."""
        kept = self._kept.get(path)
        if kept is None:
            return None
        try:
            facts = os.stat(path)  # noqa: PTH116  # a third of the time of Path.stat, for every request
        except OSError:
            return None
        if kept[0] != (facts.st_ino, facts.st_size, facts.st_mtime_ns):
            return None
        self._kept.move_to_end(path)
        return kept[1]

    async def load(self, path: Path) -> Content:
        """The content, read from disk unless it is in memory.

        Raises:
            NotFound: there is no such file.
            TooLarge: it is too large for TFTP.
            TimeoutError: the disk does not answer.
        """
        found = self.ready(path)
        if found is not None:
            return found
        task = self._loading.get(path)
        if task is None:
            task = self._loading[path] = asyncio.create_task(self._load(path))
            task.add_done_callback(lambda done: self._loaded(path, done))
        return await asyncio.shield(task)

    def close(self) -> None:
        """Stop reading and forget everything."""
        for task in self._loading.values():
            task.cancel()
        self._kept.clear()
        self._size = 0

    def _loaded(self, path: Path, task: asyncio.Task[Content]) -> None:
        self._loading.pop(path, None)
        if not task.cancelled():
            task.exception()

    async def _load(self, path: Path) -> Content:
        async with asyncio.timeout(_DEADLINE):
            version, data = await asyncio.to_thread(_read, path)
        before = self._kept.pop(path, None)
        if before is not None:
            self._size -= len(before[1].data)
        content = Content(data)
        self._kept[path] = (version, content)
        self._size += len(data)
        while self._size > KEPT and len(self._kept) > 1:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._size -= len(oldest.data)
        return content


def _read(path: Path) -> tuple[_Version, bytes]:
    file, facts = open_regular(path)
    with file:
        if facts.st_size > MAX_FILE:
            raise TooLarge("The file is too large for TFTP.", remedy="Fetch it by HTTP.")
        data = file.read(MAX_FILE + 1)
    if len(data) != facts.st_size:
        raise NotFound("The file changed while it was read.")
    return (facts.st_ino, facts.st_size, facts.st_mtime_ns), data
