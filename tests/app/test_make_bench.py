"""`make bench`: one benchmark that misses a bar, or cannot run, hides none of those after it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _bench(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "-f", str(ROOT / "Makefile"), "-o", ".venv/.complete", "-o", "packages", "bench", "BIN=bin"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_all_run_and_those_that_missed_are_listed(tmp_path: Path) -> None:
    for name in ("benchmarks", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    programs = {"a": "raise SystemExit(1)", "b": "print('b ran')", "c": "import os; os.kill(os.getpid(), 9)", "d": "print('d ran')"}
    for name, text in programs.items():
        (tmp_path / f"benchmarks/{name}.py").write_text(text)
    ended = _bench(tmp_path)
    assert ended.returncode
    assert "missed or failed: benchmarks/a.py benchmarks/c.py\n" in ended.stderr
    assert "b ran" in ended.stdout
    assert "d ran" in ended.stdout
    for name in ("a", "c"):
        (tmp_path / f"benchmarks/{name}.py").write_text("")
    assert _bench(tmp_path).returncode == 0
