"""The wall clock jumps hours and days, back and forth: streams, places to resume from and histories go by numbers and do not notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from metald import app, model
from metald.model import resource
from metald.store.pace import Pace
from tests.http.test_http_watch import api_with, tell, watching
from tests.http.test_http_watch_standings import told_until
from tests.support.api import Api, api_settings
from tests.support.watching import PATIENCE

JUMPS = [timedelta(hours=5), timedelta(hours=-5), timedelta(days=365), timedelta(hours=-3), timedelta()]


class Clock:
    """The wall clock of the whole daemon, which a test moves, and the steady one, which goes on as time passes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.off = timedelta()
        self._passed = 0.0
        clock = self

        class Moved(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + clock.off

        patch.setattr(resource, "datetime", Moved)
        patch.setattr(app, "Pace", partial(Pace, lambda: time.time() + self.off.total_seconds(), lambda: time.monotonic() + self._passed))

    def wait(self, seconds: float) -> None:
        """Time passes, for both clocks."""
        self.off += timedelta(seconds=seconds)
        self._passed += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_streams_go_on_and_resume(tmp_path: Path, clock: Clock) -> None:
    async with api_with(tmp_path, heartbeat=0.02) as api:
        async with watching(api) as source, api.client.ws_connect("/v1/events/stream") as ws:
            for count, clock.off in enumerate(JUMPS, 1):
                await tell(api, 2)
                assert await told_until(source, 2 * count) == [2 * count - 1, 2 * count]
                while (message := await ws.receive_json(timeout=PATIENCE)).get("seq") != 2 * count:
                    assert message.get("kind") in ("heartbeat", None)
        last = 2 * len(JUMPS)
        times = [event["time"] for event in (await api.get("/v1/events"))["events"]]
        assert times != sorted(times), "the jumps are in the times of the events"
        for clock.off in JUMPS:
            for since in (0, 3, last - 1, last):
                async with watching(api, f"?since={since}") as source:
                    assert await told_until(source, last) == list(range(since + 1, last + 1))
                assert [event["seq"] for event in (await api.get(f"/v1/events?since={since}"))["events"]] == list(
                    range(since + 1, last + 1)
                )


@asynccontextmanager
async def retention(api: Api, clock: Clock, patch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Queue[float]]:
    """The daemon's own letting go; put into the queue by how much the wall clock jumps in the next hour."""
    hours: asyncio.Queue[float] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        if begun:
            hours.task_done()
        begun.append(True)
        jump = await hours.get()
        clock.off += timedelta(seconds=jump)
        clock.wait(seconds)

    begun: list[bool] = []
    patch.setattr(app, "asyncio", SimpleNamespace(sleep=sleep))
    purging = asyncio.create_task(app._purge(api.house.store, api_settings()))
    try:
        yield hours
    finally:
        purging.cancel()
        await asyncio.gather(purging, return_exceptions=True)


async def test_a_jump_takes_no_history_with_it(api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    day = 86400.0

    async def kept() -> list[int]:
        found = await api.get("/v1/events")
        return [found["first_seq"], *(event["seq"] for event in found["events"])]

    async with retention(api, clock, monkeypatch) as hours:
        await tell(api, 3)
        for jump in (0.0, 0.0, 400 * day, -400 * day, 0.0, -5 * 3600.0, 5 * 3600.0, 0.0, 0.0):
            hours.put_nowait(jump)
            await hours.join()
            await tell(api, 1)
            assert await kept() == [1, *range(1, api.house.store.last_seq + 1)], "nothing is old"
        ahead = next(
            i for i, event in enumerate((await api.get("/v1/events"))["events"], 1) if event["time"] > str(model.now() + timedelta(days=99))
        )
        for _ in range(2):
            clock.wait(31 * day)
            hours.put_nowait(0.0)
            await hours.join()
        assert await kept() == [ahead, *range(ahead, api.house.store.last_seq + 1)], "what is from the future stays, and what is behind it"
        async with watching(api, f"?since={ahead - 1}") as source:
            assert [told.data["seq"] for told in await source.take(2)] == [ahead, ahead + 1]
        assert (await api.ask("GET", "/v1/events?since=1")).status == 410
        clock.wait(400 * day)
        hours.put_nowait(0.0)
        await hours.join()
        assert await kept() == [api.house.store.last_seq + 1]
