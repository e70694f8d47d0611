"""The crash matrix in short: a hundred nodes in all phases, and three of the worst moments. `make crash-matrix` is the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.matrix.matrix import Options, run

pytestmark = [pytest.mark.crash, pytest.mark.timeout(240), pytest.mark.xdist_group("crash")]


async def test_nothing_is_lost_and_nothing_is_done_twice(tmp_path: Path) -> None:
    options = Options(
        folder=tmp_path,
        nodes=90,
        wire=10,
        rounds=3,
        seed=11,
        pace=0.1,
        kinds=("power loss", "disk full", "broken disk"),
        bases=("127.23.0.0", "127.83.0.0"),
    )
    report = await run(options)
    assert report.lost == []
    assert report.twice == []
    assert report.failed == []
    assert report.wrong == []
    assert [row.wrong for row in report.rows] == [[], [], []]
    assert min(row.resumed for row in report.rows) > 0
    assert report.rows[1].refused > 0
    assert sum(report.done.values()) >= 100
    assert report.notes > 0
