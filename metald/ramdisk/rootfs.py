"""Gathers a root file system from unpacked packages: chosen files, and every library that a chosen program needs.

Rules: `/bin`, `/sbin` and `/lib*` lie below `/usr`, as in Debian since 12. What is wanted is named by pattern; a pattern
that finds nothing is an error, for the package has changed. A library that no package has is an error as well.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from metald.ramdisk.cpio import Tree
from metald.ramdisk.elf import linkage
from metald.ramdisk.packages import BuildError, Package

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64")


def merged(path: str) -> str:
    """Where a package's file lies in a system whose `/bin` is a link to `/usr/bin`."""
    first = path.partition("/")[0]
    return f"usr/{path}" if first in _MERGED else path


class Root:
    """See the module.

    Args:
        packages: the unpacked packages that programs and libraries are taken from.
        multiarch: the directory of libraries, such as `x86_64-linux-gnu`.
    """

    def __init__(self, packages: Mapping[str, Package], multiarch: str) -> None:
        self.tree = Tree()
        self._packages = packages
        self._multiarch = multiarch
        self._libraries = self._index()
        for name in _MERGED:
            self.tree.directory(f"usr/{name}")
            self.tree.link(name, f"usr/{name}")

    def _index(self) -> dict[str, tuple[str, Path]]:
        """Every library of the packages by its name: where it belongs, and the file. The shallowest of a name counts."""
        found: dict[str, tuple[str, Path]] = {}
        for package in self._packages.values():
            for path in package.root.rglob("*.so*"):
                place = merged(str(path.relative_to(package.root)))
                known = found.get(path.name)
                if place.startswith("usr/lib/") and (known is None or place.count("/") < known[0].count("/")):
                    found[path.name] = (place, path)
        return found

    def take(self, package: str, patterns: Iterable[str]) -> None:
        """Take a package's files whose merged path matches a pattern; `*` matches `/` too. `!PATTERN` leaves out.

        Raises:
            BuildError: a pattern finds nothing.
        """
        wanted = list(patterns)
        leave = tuple(pattern[1:] for pattern in wanted if pattern.startswith("!"))
        found = {pattern: False for pattern in wanted if not pattern.startswith("!")}
        root = self._packages[package].root
        for path in sorted(root.rglob("*")):
            place = merged(str(path.relative_to(root)))
            hits = [pattern for pattern in found if fnmatchcase(place, pattern)]
            if not hits or any(fnmatchcase(place, pattern) for pattern in leave):
                continue
            found |= dict.fromkeys(hits, True)
            self.put(place, path)
        lost = [pattern for pattern, hit in found.items() if not hit]
        if lost:
            raise BuildError(f"The package {package} {self._packages[package].version} has no {lost[0]}.")

    def put(self, place: str, path: Path) -> None:
        """Copy one file or link of this host; directories come by themselves."""
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            self.tree.link(place, str(path.readlink()))
        elif stat.S_ISREG(facts.st_mode):
            self.tree.file(place, path.read_bytes(), stat.S_IMODE(facts.st_mode) & ~0o022)

    def put_directory(self, place: str, directory: Path) -> None:
        """Copy a whole directory of this host."""
        for path in sorted(directory.rglob("*")):
            self.put(str(PurePosixPath(place) / path.relative_to(directory)), path)

    def add_libraries(self) -> None:
        """Add what the programs and libraries of the tree need, to any depth, and the loader's link.

        Raises:
            BuildError: names the library that no package has, and who needs it.
        """
        queue = [(name, data) for name, mode, data, _ in self.tree.entries() if stat.S_ISREG(mode)]
        have = {PurePosixPath(name).name for name, *_ in self.tree.entries()}
        while queue:
            name, data = queue.pop()
            found = linkage(data)
            if found is None:
                continue
            if found.interpreter:
                loader = PurePosixPath(found.interpreter).name
                self.tree.link(merged(found.interpreter.lstrip("/")), f"/usr/lib/{self._multiarch}/{loader}")
            for library in found.needed:
                if library not in have:
                    have.add(library)
                    queue.append(self._add_library(library, name))

    def _add_library(self, library: str, user: str) -> tuple[str, bytes]:
        if library not in self._libraries:
            raise BuildError(f"The ramdisk cannot be built: {user} needs {library}, which no package brings.")
        place, path = self._libraries[library]
        data = path.resolve().read_bytes()
        self.tree.file(place, data, 0o755)
        return place, data
