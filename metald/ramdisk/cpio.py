"""Writes cpio archives in the `newc` format that the Linux kernel unpacks as its initramfs.

Archives are reproducible: entries come in order of their names, owned by root, with one fixed time and running inode
numbers. Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import PurePosixPath


class Tree:
    """A file tree in memory. Parent directories appear by themselves."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes, tuple[int, int]]] = {}

    def __contains__(self, path: str) -> bool:
        return self._clean(path) in self._entries

    @staticmethod
    def _clean(path: str) -> str:
        return str(PurePosixPath("/" + path).relative_to("/"))

    def _add(self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        name = self._clean(path)
        for parent in reversed(PurePosixPath(name).parents):
            if str(parent) != ".":
                self._entries.setdefault(str(parent), (stat.S_IFDIR | 0o755, b"", (0, 0)))
        self._entries[name] = (mode, data, device)

    def directory(self, path: str, permissions: int = 0o755) -> None:
        """An empty directory."""
        self._add(path, stat.S_IFDIR | permissions)

    def file(self, path: str, data: bytes, permissions: int = 0o644) -> None:
        """A regular file."""
        self._add(path, stat.S_IFREG | permissions, data)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, permissions: int = 0o600) -> None:
        """A character device node."""
        self._add(path, stat.S_IFCHR | permissions, device=(major, minor))

    def entries(self) -> Iterator[tuple[str, int, bytes, tuple[int, int]]]:
        """Name, mode, content (of a link its target) and device numbers of everything, in order of names, parents first."""
        for name in sorted(self._entries):
            yield name, *self._entries[name]

    def pack(self, time: int = 0) -> bytes:
        """The archive. `time` is every entry's modification time in seconds since 1970."""
        parts: list[bytes] = []
        for inode, (name, mode, data, device) in enumerate(self.entries(), start=1):
            parts += self._entry(name, inode, mode, time, data, device)
        parts += self._entry("TRAILER!!!", 0, 0, 0, b"", (0, 0))
        archive = b"".join(parts)
        return archive + bytes(-len(archive) % 512)

    @staticmethod
    def _entry(name: str, inode: int, mode: int, time: int, data: bytes, device: tuple[int, int]) -> list[bytes]:
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (inode, mode, 0, 0, links, time, len(data), 0, 0, *device, len(encoded), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        return [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]
