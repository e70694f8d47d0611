"""The DATA datagrams of a content, laid one behind the other in one buffer, so that a window is one slice of it.

The kernel cuts such a slice into datagrams itself (UDP_SEGMENT), for each but the last is equally long.
"""

from __future__ import annotations

from metald.boot.tftp.packet import header

PREBUILT = 8192
"""Contents of up to so many blocks have their datagrams made once per block size, which takes a few milliseconds; those
of larger ones, or of smaller blocks, are made when they are sent."""


class Blocks:
    """One content at one block size. Blocks count from 1; the last one is shorter than the others, perhaps empty."""

    __slots__ = ("_built", "_data", "blksize", "count", "segment", "size")

    def __init__(self, data: bytes, blksize: int) -> None:
        self.size = len(data)
        self.blksize = blksize
        self.segment = blksize + 4
        """Bytes of each datagram but the last."""
        self.count = len(data) // blksize + 1
        self._data = data
        self._built = memoryview(self._join(1, self.count)) if self.count <= PREBUILT else None

    def span(self, first: int, last: int) -> bytes | memoryview:
        """The datagrams of the blocks `first` to `last`, both included."""
        if self._built is None:
            return self._join(first, last)
        return self._built[(first - 1) * self.segment : last * self.segment]

    def _join(self, first: int, last: int) -> bytes:
        data, size = self._data, self.blksize
        return b"".join([header(block) + data[(block - 1) * size : block * size] for block in range(first, last + 1)])
