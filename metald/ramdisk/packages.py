"""Fetches Debian packages with the host's own apt and unpacks them, without installing anything.

Only the ordinary client is used: `apt-get download` checks what it fetches against signed lists. For the host's own
architecture these are the host's lists; for another one they are fetched into the work directory, from the same sources.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from metald.errors import DeployError

_DEADLINE = 600.0
_LISTS_AGE = 86400.0
"""Seconds after which the lists of another architecture are fetched again."""

MULTIARCH = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
"""The architectures that ramdisks are made for, by Debian's names, and the directory of their libraries."""


class BuildError(DeployError):
    """A part of the ramdisk cannot be made on this host."""


@dataclass(frozen=True, slots=True)
class Package:
    """One unpacked Debian package."""

    name: str
    version: str
    sha256: str
    root: Path


def run(*argv: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a build tool and return its output.

    Args:
        env: the whole environment; by default this process's own.

    Raises:
        BuildError: it is missing, fails, or does not end in ten minutes.
    """
    try:
        done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=True, timeout=_DEADLINE)
    except FileNotFoundError:
        raise missing(argv[0]) from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"The ramdisk cannot be built: {argv[0]} did not end in {_DEADLINE:.0f} seconds.") from None
    except subprocess.CalledProcessError as wrong:
        raise BuildError(f"The ramdisk cannot be built: {' '.join(argv[:3])} failed: {wrong.stderr.strip()[-500:]}.") from None
    return done.stdout


def missing(tool: str) -> BuildError:
    """The error for a tool that this host lacks, with the package that brings it."""
    return BuildError(
        f"The ramdisk cannot be built: {tool} is not installed.", remedy=f"Install it: apt-get install {_PROVIDER.get(tool, tool)}."
    )


_PROVIDER = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "gcc": "gcc libc6-dev",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "x86_64-linux-gnu-gcc": "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
    "mformat": "mtools",
    "mmd": "mtools",
    "mcopy": "mtools",
    "grub-mkimage": "grub-common",
    "mksquashfs": "squashfs-tools",
    "depmod": "kmod",
}
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")


def native_architecture() -> str:
    """The host's architecture by Debian's name."""
    return run("dpkg", "--print-architecture").strip()


class Debian:
    """The packages that apt knows for one architecture.

    Args:
        work: directory that keeps what was fetched and unpacked for the next build.
        architecture: `amd64` or `arm64`; by default the host's.

    Raises:
        BuildError: no ramdisk can be made for the architecture.
    """

    def __init__(self, work: Path, architecture: str = "") -> None:
        self.native = native_architecture()
        self.architecture = architecture or self.native
        if self.architecture not in MULTIARCH:
            raise BuildError(f"No ramdisk can be built for {self.architecture}.", remedy=f"Known are {', '.join(MULTIARCH)}.")
        self.multiarch = MULTIARCH[self.architecture]
        self.work = work
        self._options: tuple[str, ...] = ("-o", "APT::Sandbox::User=root")
        if self.architecture != self.native:
            self._foreign()

    def _foreign(self) -> None:
        state = self.work.absolute() / f"apt-{self.architecture}"
        lists = state / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        for name, value in (
            ("APT::Architecture", self.architecture),
            ("APT::Architectures", self.architecture),
            ("Dir::State::lists", str(lists)),
            ("Dir::State::status", str(state / "status")),
            ("Dir::Cache::pkgcache", str(state / "pkgcache.bin")),
            ("Dir::Cache::srcpkgcache", ""),
        ):
            self._options += ("-o", f"{name}={value}")
        stamp = state / "updated"
        if not stamp.exists() or time.time() - stamp.stat().st_mtime > _LISTS_AGE:
            run("apt-get", *self._options, "update", "-qq")
            stamp.touch()

    def describe(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """The fields of each package's candidate. One call, for apt reads all its lists each time.

        Raises:
            BuildError: apt does not know one of them.
        """
        wanted = list(names)
        for name in wanted:
            if not _NAME.fullmatch(name):
                raise BuildError(f"The ramdisk cannot be built: {name!r} is no name of a Debian package.")
        found: dict[str, dict[str, str]] = {}
        try:
            shown = run("apt-cache", *self._options, "show", "--no-all-versions", *wanted)
        except BuildError as error:
            raise BuildError(f"{error} Wanted: {', '.join(wanted)}.", remedy="Run apt-get update.") from None
        for paragraph in shown.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line.startswith(" "))
            if "SHA256" in fields and fields["Architecture"] in (self.architecture, "all"):
                found.setdefault(fields["Package"], fields)
        unknown = [name for name in wanted if name not in found]
        if unknown:
            raise BuildError(f"The ramdisk cannot be built: apt does not know the package {unknown[0]}.", remedy="Run apt-get update.")
        return found

    def with_libraries(self, names: Iterable[str]) -> list[str]:
        """The packages and the packages of libraries (`lib...`, `zlib1g`) that they depend on, to any depth, sorted.

        Raises:
            BuildError: apt does not know one of them.
        """
        chosen = set(names)
        added = set(chosen)
        while added:
            described = self.describe(sorted(added))
            needed = {name for fields in described.values() for name in _libraries(fields)}
            added = needed - chosen
            chosen |= added
        return sorted(chosen)

    def fetch(self, names: Iterable[str]) -> dict[str, Package]:
        """Download and unpack packages.

        Raises:
            BuildError: apt does not know one of them, or cannot fetch it.
        """
        store = self.work / "packages"
        store.mkdir(parents=True, exist_ok=True)
        known = self.describe(names)
        wanted = [f"{name}={fields['Version']}" for name, fields in known.items() if not _whole(store, name, fields)]
        if wanted:
            run("apt-get", *self._options, "download", *wanted, cwd=store)
        return {name: _unpack(store, name, fields, self.work) for name, fields in known.items()}

    def kernel_package(self, name: str) -> str:
        """The package that holds the kernel itself, for a name that may be a meta package such as `linux-image-cloud-amd64`."""
        depends = self.describe([name])[name].get("Depends", "")
        for one in depends.split(","):
            word = one.split()[0] if one.split() else ""
            if word.startswith("linux-image-"):
                return word
        return name


def _libraries(fields: Mapping[str, str]) -> list[str]:
    """The packages of libraries that a package depends on: of alternatives the first, as apt does."""
    depends = f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}".split(",")
    words = (one.split("|")[0].split() for one in depends)
    names = (word[0].partition(":")[0] for word in words if word)
    return [name for name in names if name.startswith(("lib", "zlib1g")) and not name.endswith("-perl")]


def _archive(store: Path, name: str, fields: Mapping[str, str]) -> Path:
    return store / f"{name}_{fields['Version'].replace(':', '%3a')}_{fields['Architecture']}.deb"


def _whole(store: Path, name: str, fields: Mapping[str, str]) -> bool:
    archive = _archive(store, name, fields)
    return archive.exists() and _sha256(archive) == fields["SHA256"]


def _unpack(store: Path, name: str, fields: Mapping[str, str], work: Path) -> Package:
    version, sha256 = fields["Version"], fields["SHA256"]
    if not _whole(store, name, fields):
        raise BuildError(f"The ramdisk cannot be built: the package {name} {version} was not fetched whole.", remedy="Run apt-get update.")
    root = work / "unpacked" / sha256[:16]
    if not root.exists():
        partial = root.with_name(root.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        run("dpkg-deb", "-x", str(_archive(store, name, fields)), str(partial))
        partial.rename(root)
    return Package(name, version, sha256, root)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
