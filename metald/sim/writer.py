"""How an image gets onto a light machine's disk: fetched for real, hashed for real, counted, and not kept.

Rules: a broken transfer is taken up where it stopped. A write is counted as started once and as done once, by the digest of
what came. The disk's speed holds the network back, as it does in a real ramdisk.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

from metald.sim.disk import KEPT, Disk
from metald.sim.faults import MachineCounters
from metald.sim.web import Answer, Web, WebError

_RETRY = 0.5


class DiskError(Exception):
    """An image cannot be on the disk; `kind` is what metald-ramdisk calls it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Writer:
    """One image on its way to the disk.

    Args:
        web: the machine's network.
        disk: the machine's.
        counters: the machine's.
        speed: bytes a second that the disk takes; 0 is as fast as can be.
        died: asked after each piece with the bytes so far; true ends the machine.
    """

    def __init__(self, web: Web, disk: Disk, counters: MachineCounters, *, speed: float, died: Callable[[int], bool]) -> None:
        self.done = 0
        self.retries = 0
        self._web = web
        self._disk = disk
        self._counters = counters
        self._speed = speed
        self._died = died
        self._head = bytearray()
        self._hash: Any = None

    async def write(self, url: str, *, algorithm: str, digest: str, size: int = 0, offset: int = 0, patience: float = 900.0) -> int:
        """Fetch, write and prove an image.

        Args:
            url: where it is.
            algorithm: of `digest`, as hashlib calls it.
            digest: what the bytes must have, in hexadecimal.
            size: what it must have; 0 is whatever comes.
            offset: where on the disk it goes.
            patience: seconds without a byte after which it is given up.

        Returns:
            The bytes written.

        Raises:
            DiskError: it is not on the disk as it should be.
        """
        self._counters.writes_started += 1
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        if offset + size > self._disk.size:
            raise DiskError("disk", f"writing at byte {self._disk.size} failed: No space left on device")
        await self._fetch(url, size, patience)
        if size and self.done != size:
            raise DiskError("size", f"metald serves {self.done} bytes instead of {size}")
        if self._hash.hexdigest() != digest.lower():
            raise DiskError("mismatch", f"the disk holds {algorithm} {self._hash.hexdigest()} instead of {digest}")
        self._disk.zero(offset, self.done)
        self._disk.write(offset, bytes(self._head))
        self._counters.writes_done += 1
        self._counters.bytes_written += self.done
        return self.done

    async def _fetch(self, url: str, size: int, patience: float) -> None:
        loop = asyncio.get_running_loop()
        silent_since, before = loop.time(), 0
        while True:
            headers = {"Range": f"bytes={self.done}-"} if self.done else {}
            try:
                answer = await self._web.get(url, sink=self._piece, headers=headers)
                if self._whole(answer, size):
                    return
            except WebError as error:
                if 400 <= error.status < 500 and error.status != 429:
                    raise DiskError("http", f"metald answered {error.status}") from None
                if loop.time() - silent_since > patience:
                    raise DiskError("network", str(error)) from None
            if self.done > before:
                silent_since, before = loop.time(), self.done
            self.retries += 1
            await asyncio.sleep(_RETRY)

    def _whole(self, answer: Answer, size: int) -> bool:
        if answer.status == 200 and answer.size < self.done:  # the server takes no ranges: the bytes came again
            raise DiskError("network", "the server cannot go on where it stopped")
        return not size or self.done >= size

    def _piece(self, data: bytes) -> float:
        self._hash.update(data)
        if self.done < KEPT:
            self._head += data[: KEPT - self.done]
        self.done += len(data)
        if self._died(self.done):
            return 3600.0
        return len(data) / self._speed if self._speed else 0.0
