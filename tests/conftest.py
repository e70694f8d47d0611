"""What tests of several rooms share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from metald.ramdisk.build import compile_program
from tests.support.events import WHOLE, Traffic, watched_events

_traffic = pytest.StashKey[Traffic]()

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
def traffic(pytestconfig: pytest.Config) -> Iterator[Traffic]:
    """The events that tests made metald emit, and what was wrong with them."""
    yield from watched_events(pytestconfig.stash.setdefault(_traffic, Traffic()))


@pytest.fixture(autouse=True)
def event_registry(traffic: Traffic) -> Iterator[None]:
    """Nothing is emitted that is not registered, or not as the AsyncAPI document says."""
    yield
    found = list(dict.fromkeys(traffic.faults))
    traffic.faults.clear()
    assert not found, "\n".join(found[:20])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Another process that ran tests has ended: take over which types it saw."""
    seen = node.config.stash.setdefault(_traffic, Traffic())
    seen.types.update(getattr(node, "workeroutput", {}).get("event_types", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run of the whole suite fails when there is a type of event that no test produced."""
    seen = session.config.stash.setdefault(_traffic, Traffic())
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["event_types"] = sorted(seen.types)
    elif os.environ.get(WHOLE) and seen.missing() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which types those were."""
    missing = config.stash.setdefault(_traffic, Traffic()).missing()
    if os.environ.get(WHOLE) and missing:
        terminalreporter.write_line(
            f"no test produced these types of event, and WITHOUT_TRAFFIC has no reason: {', '.join(missing)}", red=True
        )
