"""The disk of the crash matrix: it fails on order, and a loss of power takes nothing that was synced."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lab.matrix.disk import DIES_IN_SYNC, FULL, SYNC_FAILS, Disk, compiled

pytestmark = pytest.mark.crash

_WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=20"):
    database.execute("PRAGMA " + pragma)
database.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, filler BLOB)")
number = database.execute("SELECT coalesce(max(n), 0) FROM t").fetchone()[0]
print("found", number, flush=True)
for number in range(number + 1, number + 1000):
    database.execute("INSERT INTO t VALUES (?, randomblob(3000))", (number,))
    print("kept", number, flush=True)
"""


@pytest.fixture
async def disk(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Disk:
    library = await compiled(tmp_path_factory.getbasetemp() / "shim")
    return Disk(library, tmp_path / "account", tmp_path / "x.sqlite", random.Random(5))


def _write(disk: Disk, database: Path) -> tuple[int, list[list[str]], str]:
    done = subprocess.run(
        [sys.executable, "-c", _WRITER, str(database)], env={**os.environ, **disk.environment}, capture_output=True, text=True, timeout=60
    )
    return done.returncode, [line.split() for line in done.stdout.splitlines()], done.stderr


def test_what_was_committed_outlives_every_loss_of_power(disk: Disk, tmp_path: Path) -> None:
    kept = torn = 0
    for countdown in (1, 5, 18, 21, 22, 40, 70, 99):
        disk.order(DIES_IN_SYNC, countdown)
        status, said, _ = _write(disk, tmp_path / "x.sqlite")
        assert status == -9
        assert all(int(number) >= kept for word, number in said if word == "found")
        kept = max([kept, *(int(number) for word, number in said if word == "kept")])
        torn += disk.lose_power()
    disk.close()
    assert kept > 100
    assert torn > 0


@pytest.mark.parametrize(("mode", "said"), [(FULL, "database or disk is full"), (SYNC_FAILS, "disk I/O error")])
def test_a_disk_that_fails_says_so(disk: Disk, tmp_path: Path, mode: int, said: str) -> None:
    disk.order(mode)
    status, _, error = _write(disk, tmp_path / "x.sqlite")
    assert status == 1
    assert said in error
    assert sum(disk.refusals) > 0
    disk.close()


def test_other_files_are_left_alone(disk: Disk, tmp_path: Path) -> None:
    disk.order(FULL | SYNC_FAILS)
    code = f"import os; f = open({str(tmp_path / 'y')!r}, 'w'); f.write('x'); f.flush(); os.fsync(f.fileno())"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, **disk.environment}).returncode == 0
    disk.close()
