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
    return {name: _fetch(name, store, work) for name in names}


def _fetch(name: str, store: Path, work: Path) -> Package:
    shown = run("apt-cache", "show", "--no-all-versions", name)
    fields = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line and not line.startswith(" "))
    if "Filename" not in fields:
        raise BuildError(f"The ramdisk cannot be built: apt does not know the package {name}.", remedy="Run apt-get update.")
    version, sha256 = fields["Version"], fields["SHA256"]
    archive = store / f"{name}_{version.replace(':', '%3a')}_{fields['Architecture']}.deb"
    if not archive.exists() or _sha256(archive) != sha256:
        run("apt-get", "-o", "APT::Sandbox::User=root", "download", f"{name}={version}", cwd=store)
    if not archive.exists() or _sha256(archive) != sha256:
        raise BuildError(f"The ramdisk cannot be built: the package {name} {version} was not fetched whole.", remedy="Run apt-get update.")
    root = work / "unpacked" / sha256[:16]
    if not root.exists():
        partial = root.with_name(root.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        run("dpkg-deb", "-x", str(archive), str(partial))
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
