"""The disk of a light machine: what is small is kept, images are counted and their beginning is shared.

Ten thousand machines with the same image hold its partition table once. What is kept is enough for metald to find
partitions, to add one and to wipe them; the inside of an image reads as zeros.
"""

from __future__ import annotations

from typing import Final

PAGE: Final = 4096
KEPT: Final = 64 << 10
"""So many bytes at the beginning of an image are kept."""

_ZERO: Final = bytes(PAGE)


class Shelf:
    """Pages that several disks hold, each once."""

    def __init__(self) -> None:
        self._pages: dict[bytes, bytes] = {}

    def one(self, page: bytes) -> bytes:
        """The page that equals `page`."""
        return self._pages.setdefault(page, page)


class Disk:
    """Bytes at offsets; a page that was never written reads as zeros.

    Args:
        size: bytes.
        shelf: shared with other disks.
    """

    __slots__ = ("_pages", "_shelf", "size")

    def __init__(self, size: int, shelf: Shelf) -> None:
        self.size = size
        self._pages: dict[int, bytes] = {}
        self._shelf = shelf

    @property
    def bootable(self) -> bool:
        """Whether the first sector ends in 55 AA."""
        return self.read(510, 2) == b"\x55\xaa"

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of a range, cut off at the disk's end."""
        length = max(0, min(length, self.size - offset))
        first, last = offset // PAGE, (offset + length - 1) // PAGE
        whole = b"".join(self._pages.get(number, _ZERO) for number in range(first, last + 1)) if length else b""
        return whole[offset - first * PAGE :][:length]

    def write(self, offset: int, data: bytes) -> None:
        """Keep bytes.

        Raises:
            ValueError: they lie behind the disk's end.
        """
        if offset + len(data) > self.size:
            raise ValueError("the disk ends before")
        at = 0
        while at < len(data):
            number, within = divmod(offset + at, PAGE)
            piece = data[at : at + PAGE - within]
            old = self._pages.get(number, _ZERO)
            new = old[:within] + piece + old[within + len(piece) :]
            if new == _ZERO:
                self._pages.pop(number, None)
            else:
                self._pages[number] = self._shelf.one(new)
            at += len(piece)

    def zero(self, offset: int, length: int) -> None:
        """Forget a range."""
        end = min(offset + length, self.size)
        for number in [number for number in self._pages if number * PAGE < end and (number + 1) * PAGE > offset]:
            begin, stop = max(offset, number * PAGE), min(end, (number + 1) * PAGE)
            self.write(begin, bytes(stop - begin))
