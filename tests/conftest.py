"""What tests of several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest

from metald.ramdisk.build import compile_program


@pytest.fixture(scope="session")
def ramdisk_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ramdisk's program, compiled for this host."""
    path = tmp_path_factory.mktemp("ramdisk") / "metald-ramdisk"
    path.write_bytes(compile_program())
    path.chmod(0o755)
    return path
