"""What the boot HTTP server's answers are made of: files, files that are still on their way here, and bytes in between.

Rule: what was opened is what is sent: size and version are those of that moment, whatever happens to the names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from metald.boot.fills import Fill
from metald.boot.opened import open_regular


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a body: bytes, or a file."""

    size: int
    data: bytes | memoryview = b""
    file: BufferedReader | None = None
    fill: Fill | None = None
    """Where the file is still on its way."""

    async def ready(self, upto: int) -> None:
        """Return once the first `upto` bytes of it can be sent.

        Raises:
            ImageError: they will not come.
        """
        if self.fill is not None:
            await self.fill.reached(upto)


@dataclass(slots=True)
class Body:
    """A body, open; to be closed by whoever sends it."""

    pieces: Sequence[Piece]
    etag: str
    modified: float | None = None
    """When it was last changed, seconds since 1970."""
    content_type: str = "application/octet-stream"
    path: Path | None = None
    """Where it lies, when it is one whole file here."""
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(piece.size for piece in self.pieces)

    def spans(self, start: int, count: int, most: int) -> Iterator[tuple[Piece, int, int]]:
        """A range of the body in order: of each piece where to begin and how many bytes, at most `most` at a time."""
        at = 0
        for piece in self.pieces:
            first, last = max(start - at, 0), min(start + count - at, piece.size)
            while first < last:
                size = min(most, last - first)
                yield piece, first, size
                first += size
            at += piece.size

    def close(self) -> None:
        """Close its files."""
        for piece in self.pieces:
            if piece.file is not None:
                piece.file.close()


def of_file(path: Path) -> Body:
    """A file. Blocks.

    Raises:
        NotFound: see `open_regular`.
    """
    file, facts = open_regular(path)
    return Body([Piece(facts.st_size, file=file)], f"{facts.st_mtime_ns:x}-{facts.st_size:x}", facts.st_mtime, path=path)


async def of_fill(fill: Fill) -> Body:
    """A file of another server.

    Raises:
        ImageError: it will not come.
    """
    size = await fill.sized()
    version = fill.etag or fill.modified or str(fill.checked)
    etag = hashlib.sha256(f"{fill.url} {version} {size}".encode()).hexdigest()[:32]
    return Body([Piece(size, file=fill.open(), fill=None if fill.complete else fill)], etag)
