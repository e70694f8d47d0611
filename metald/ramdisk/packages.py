"""Fetches Debian packages with the host's own apt and unpacks them, without installing anything.

Only the ordinary client is used: `apt-get download` checks what it fetches against the signed lists of the host.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from metald.errors import DeployError

_DEADLINE = 600.0


class BuildError(DeployError):
    """A part of the ramdisk cannot be made on this host."""


@dataclass(frozen=True, slots=True)
class Package:
    """One unpacked Debian package."""

    name: str
    version: str
    sha256: str
    root: Path


def run(*argv: str, cwd: Path | None = None) -> str:
    """Run a build tool and return its output.

    Raises:
        BuildError: it is missing, fails, or does not end in ten minutes.
    """
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=True, timeout=_DEADLINE)
    except FileNotFoundError:
        raise BuildError(
            f"The ramdisk cannot be built: {argv[0]} is not installed.",
            remedy=f"Install it: apt-get install {_PROVIDER.get(argv[0], argv[0])}.",
        ) from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"The ramdisk cannot be built: {argv[0]} did not end in {_DEADLINE:.0f} seconds.") from None
    except subprocess.CalledProcessError as wrong:
        raise BuildError(f"The ramdisk cannot be built: {' '.join(argv[:3])} failed: {wrong.stderr.strip()[-500:]}.") from None
    return done.stdout


_PROVIDER = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "gcc": "gcc libc6-dev",
    "mformat": "mtools",
    "mmd": "mtools",
    "mcopy": "mtools",
    "grub-mkimage": "grub-common",
}


def fetch(names: list[str], work: Path) -> dict[str, Package]:
    """Download and unpack packages below `work`, which keeps them for the next build.

    Raises:
        BuildError: apt does not know one of them, or cannot fetch it.
    """
    store = work / "packages"
    store.mkdir(parents=True, exist_ok=True)
    known = _known(names)
    wanted = [f"{name}={fields['Version']}" for name, fields in known.items() if not _whole(store, name, fields)]
    if wanted:
        run("apt-get", "-o", "APT::Sandbox::User=root", "download", *wanted, cwd=store)
    return {name: _unpack(store, name, known[name], work) for name in names}


def _known(names: list[str]) -> dict[str, dict[str, str]]:
    """What apt's lists say of each package's candidate. One call, for apt reads all its lists each time."""
    found: dict[str, dict[str, str]] = {}
    try:
        shown = run("apt-cache", "show", "--no-all-versions", *names)
    except BuildError as error:
        raise BuildError(f"{error} Wanted: {', '.join(names)}.", remedy="Run apt-get update.") from None
    for paragraph in shown.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line.startswith(" "))
        if "SHA256" in fields:
            found.setdefault(fields["Package"], fields)
    missing = [name for name in names if name not in found]
    if missing:
        raise BuildError(f"The ramdisk cannot be built: apt does not know the package {missing[0]}.", remedy="Run apt-get update.")
    return found


def _archive(store: Path, name: str, fields: dict[str, str]) -> Path:
    return store / f"{name}_{fields['Version'].replace(':', '%3a')}_{fields['Architecture']}.deb"


def _whole(store: Path, name: str, fields: dict[str, str]) -> bool:
    archive = _archive(store, name, fields)
    return archive.exists() and _sha256(archive) == fields["SHA256"]


def _unpack(store: Path, name: str, fields: dict[str, str], work: Path) -> Package:
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


def kernel_package(name: str) -> str:
    """The package that holds the kernel itself, for a name that may be a meta package such as `linux-image-cloud-amd64`."""
    for line in run("apt-cache", "depends", "--important", name).splitlines():
        word = line.strip().removeprefix("Depends: ")
        if line.strip().startswith("Depends: linux-image-"):
            return word
    return name
