"""A clock that jumps lets nothing go that is not old."""

from __future__ import annotations

import pytest

from metald.store.pace import Pace


def test_a_clock_that_jumped_is_not_believed_for_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    wall, steady = 1_700_000_000.0, 50.0
    pace = Pace(lambda: wall, lambda: steady)

    def later(seconds: float, jump: float = 0.0) -> bool:
        nonlocal wall, steady
        wall, steady = wall + seconds + jump, steady + seconds
        return pace.believed()

    assert pace.believed()
    assert later(3600, jump=2.0)
    assert not later(60, jump=365 * 86400.0)
    assert "jumped by 31536000 s" in caplog.text
    assert not later(3000)
    assert later(600)
    assert not later(60, jump=-365 * 86400.0)
    assert later(3600)
