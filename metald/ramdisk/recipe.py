"""What a ramdisk is to be made of: what its builder is asked for, and what it fetched for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metald.ramdisk.packages import Debian, Package

EPOCH = 1_700_000_000
"""Modification time of everything inside, unless SOURCE_DATE_EPOCH says otherwise."""

Say = Callable[[str], None]


def quiet(_: str) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a ramdisk has beside what every one has.

    Attributes:
        architecture: `amd64` or `arm64`; empty for the host's.
        kernel: Debian package of the kernel, or a meta package that leads to it; empty for the agent's default.
        modules: names of further kernel modules; one that ends with `/` is a directory of them (`kernel/drivers/net/wan/`).
        firmware: directories laid out as below `/lib/firmware`.
        keys: lines of `authorized_keys` for root.
        packages: further Debian packages, taken whole with the libraries they need.
        certificates: PEM files of authorities that the agent trusts beside the public ones.
        epoch: modification time of everything inside, in seconds since 1970.
    """

    architecture: str = ""
    kernel: str = ""
    modules: tuple[str, ...] = ()
    firmware: tuple[Path, ...] = ()
    keys: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    certificates: tuple[Path, ...] = ()
    epoch: int = EPOCH

    @property
    def authorized_keys(self) -> bytes:
        """The keys as a file."""
        return "".join(f"{key}\n" for key in self.keys).encode()


@dataclass(frozen=True, slots=True)
class Parts:
    """What a ramdisk is made of.

    Attributes:
        debian: where its packages come from.
        kernel: the kernel's file.
        kernel_version: such as `6.1.0-57-amd64`.
        modules_root: the unpacked `lib/modules/VERSION`.
        packages: unpacked, by name.
    """

    debian: Debian
    kernel: bytes
    kernel_version: str
    modules_root: Path
    packages: dict[str, Package]
