"""What tests of several rooms share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from metald.ramdisk.build import compile_program
from tests.support.events import watched_events

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # a busy machine is no defect


@pytest.fixture(scope="session")
def ramdisk_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ramdisk's program, compiled for this host."""
    path = tmp_path_factory.mktemp("ramdisk") / "metald-ramdisk"
    path.write_bytes(compile_program())
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def erasing_disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload into the ramdisk's program, by which plain files erase themselves as disks do."""
    path = tmp_path_factory.mktemp("erasing") / "erasing_disks.so"
    source = Path(__file__).parent / "ramdisk" / "erasing_disks.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(path), str(source), "-ldl"], check=True)
    return path


@pytest.fixture(scope="session")
def event_faults() -> Iterator[list[str]]:
    """What was wrong with the events that tests made metald emit."""
    yield from watched_events()


@pytest.fixture(autouse=True)
def event_registry(event_faults: list[str]) -> Iterator[None]:
    """Nothing is emitted that is not registered."""
    yield
    found = list(dict.fromkeys(event_faults))
    event_faults.clear()
    assert not found, "\n".join(found)
