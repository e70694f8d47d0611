"""The Python part of the agent's ramdisk: Debian's interpreter, and the agent with all that it needs from PyPI.

Rules: every wheel is named in the lock with its digest, and only wheels are taken, so nothing of a package runs on this
host. Modules are compiled by the interpreter that will run them, so that the bytes depend on packages alone.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from metald.ramdisk.packages import BuildError, Debian, Package, run

_PLATFORMS = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC = ("2_36", "2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")
_UNUSED = ("test", "tests", "idlelib", "lib2to3", "ensurepip", "tkinter", "turtledemo", "pydoc_data", "venv", "__pycache__")
"""Directories of modules that nobody imports in a ramdisk."""

_VERSION = re.compile(r"python(3\.\d+)-minimal")


class Python:
    """One interpreter of Debian, and where its files lie.

    Args:
        debian: the packages.

    Raises:
        BuildError: apt knows no Python.
    """

    def __init__(self, debian: Debian) -> None:
        fields = debian.describe(["python3-minimal"])["python3-minimal"]
        found = _VERSION.search(f"{fields.get('Pre-Depends', '')} {fields.get('Depends', '')}")
        if found is None:
            raise BuildError("The ramdisk cannot be built: apt does not say which Python is Debian's.", remedy="Run apt-get update.")
        self.version = found[1]
        self._debian = debian

    @property
    def packages(self) -> tuple[str, str, str]:
        """The interpreter, and its library in two packages."""
        return f"python{self.version}-minimal", f"libpython{self.version}-minimal", f"libpython{self.version}-stdlib"

    @property
    def library(self) -> str:
        """Where the standard library belongs."""
        return f"usr/lib/python{self.version}"

    @property
    def site(self) -> str:
        """Where packages from PyPI belong."""
        return f"usr/local/lib/python{self.version}/dist-packages"

    def stage(self, packages: Mapping[str, Package], wheels: list[Path], folder: Path) -> None:
        """Lay the standard library and the wheels out below `folder`, and compile them where this host can.

        Raises:
            BuildError: the interpreter does not run here although it should, or a wheel is not what it seems.
        """
        shutil.rmtree(folder, ignore_errors=True)
        for name in self.packages[1:]:
            source = packages[name].root / self.library
            shutil.copytree(source, folder / self.library, symlinks=True, ignore=_ignore, dirs_exist_ok=True)
        for wheel in wheels:
            _unpack(wheel, folder / self.site)
        if self._debian.architecture == self._debian.native:
            self._compile(packages, folder)

    def _compile(self, packages: Mapping[str, Package], folder: Path) -> None:
        """Compile for good: the modules are never changed, so their times and contents need no look (PEP 552)."""
        interpreter = packages[self.packages[0]].root / "usr/bin" / f"python{self.version}"
        libraries = [
            str(path) for package in packages.values() for path in package.root.glob(f"**/{self._debian.multiarch}") if path.is_dir()
        ]
        loader = next(path for path in sorted(packages["libc6"].root.rglob("ld-linux*.so.*")) if path.is_file() and not path.is_symlink())
        environment = {
            "PYTHONHOME": str(folder / "usr"),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "PATH": "/usr/bin:/bin",
        }
        compiler = ("-S", "-m", "compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", "/")
        run(
            str(loader),
            "--library-path",
            ":".join(libraries),
            str(interpreter),
            *compiler,
            str(folder / self.library),
            str(folder / self.site),
            env=environment,
        )

    def wheels(self, lock: Path, work: Path) -> list[Path]:
        """Download the wheels of a lock made by `pip-compile --generate-hashes`, or find them from an earlier build.

        Raises:
            BuildError: there is no pip, or a wheel cannot be had for this Python and architecture.
        """
        name = hashlib.sha256(lock.read_bytes() + f"{self.version} {self._debian.architecture}".encode()).hexdigest()[:16]
        folder = work / "wheels" / name
        if not folder.exists():
            partial = folder.with_name(f"{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            tag = f"cp{self.version.replace('.', '')}"
            machine = _PLATFORMS[self._debian.architecture]
            platforms = [word for glibc in _GLIBC for word in ("--platform", f"manylinux_{glibc}_{machine}")]
            platforms += ["--platform", f"manylinux2014_{machine}"]
            which = ("--only-binary=:all:", "--python-version", self.version, "--implementation", "cp", *platforms)
            abis = ("--abi", tag, "--abi", "abi3", "--abi", "none")
            how = ("download", "-q", "--disable-pip-version-check", "--no-deps", "--require-hashes", *which, *abis)
            try:
                run(sys.executable, "-m", "pip", *how, "-d", str(partial), "-r", str(lock))
            except BuildError as error:
                if "No module named pip" in str(error):
                    raise BuildError(
                        f"The ramdisk cannot be built: {sys.executable} has no pip.", remedy=f"Install it: {sys.executable} -m ensurepip."
                    ) from None
                raise
            partial.rename(folder)
        return sorted(folder.glob("*.whl"))


def _ignore(_: str, names: list[str]) -> set[str]:
    return {name for name in names if name in _UNUSED or name.startswith("config-") or name.endswith(".pyi")}


def _unpack(wheel: Path, site: Path) -> None:
    """Unpack a wheel's modules and what describes it (binary distribution format, PyPA)."""
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            parts = Path(info.filename).parts
            if parts[0].endswith(".data"):
                if parts[1] not in ("purelib", "platlib"):
                    continue
                parts = parts[2:]
            if info.is_dir() or not parts or any(part in _UNUSED for part in parts) or parts[-1].endswith((".pyi", "RECORD")):
                continue
            target = site.joinpath(*parts)
            if not target.resolve().is_relative_to(site.resolve()):
                raise BuildError(f"The ramdisk cannot be built: the wheel {wheel.name} reaches out of its directory.")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(info))
            target.chmod(0o755 if target.name.endswith(".so") or ".so." in target.name else 0o644)


def describe(wheels: list[Path]) -> dict[str, dict[str, str]]:
    """Name, version and SHA-256 of wheels, for the manifest."""
    found = {}
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        found[name.lower().replace("_", "-")] = {"version": version, "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}
    return found
