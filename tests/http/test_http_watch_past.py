"""The past of the sequence: histories and streams that begin in it miss nothing in silence, and hold little of it at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from metald.http.watch.stream import _SIZE
from metald.model import now
from metald.store.queries import Page
from metald.store.store import Store
from tests.http.test_http_watch import STREAM, api_with, tell, watching
from tests.support.api import Api
from tests.support.watching import PATIENCE


async def purge(api: Api, kept: int = 0) -> None:
    """Let all events go but the newest."""
    for _ in range(api.house.store.last_seq):
        if (await api.house.store.page(since=0, limit=1, size=1)).first > api.house.store.last_seq - kept:
            return
        await api.house.store.purge(before=now() + timedelta(seconds=1), limit=1)


async def test_history_of_what_is_not_kept_is_410_with_a_remedy(api: Api) -> None:
    await tell(api, 5)
    await purge(api)
    await tell(api, 2)
    answer = await api.ask("GET", "/v1/events?since=2")
    assert (answer.status, answer.json["metald"]["field"]) == (410, "since")
    assert "the next is 6" in answer.fault
    assert "snapshot=true" in answer.json["metald"]["remedy"]
    for query in ("", "?since=0", "?since=5", "?since=0&limit=5"):
        found = await api.get(f"/v1/events{query}")
        assert [event["seq"] for event in found["events"]] == [6, 7], query
        assert (found["first_seq"], found["last_seq"], found["next"]) == (6, 7, 7)
    assert (await api.get("/v1/events?since=7")) == {"events": [], "first_seq": 6, "last_seq": 7, "next": 7}
    assert (await api.get("/v1/events?limit=1"))["last_seq"] == 7


async def test_history_that_is_all_let_go_can_be_gone_on_from(api: Api) -> None:
    assert (await api.get("/v1/events")) == {"events": [], "first_seq": 1, "last_seq": 0, "next": 0}
    await tell(api, 3)
    await purge(api)
    assert (await api.get("/v1/events")) == {"events": [], "first_seq": 4, "last_seq": 3, "next": 3}
    assert (await api.ask("GET", "/v1/events?since=2")).status == 410
    await tell(api)
    assert [event["seq"] for event in (await api.get("/v1/events?since=3"))["events"]] == [4]


@pytest.mark.parametrize("path", ["/v1/events", STREAM])
async def test_a_number_that_no_event_has_had_is_410(api: Api, path: str) -> None:
    """Who comes with it has seen a database that is not there any more; waiting for it would take silently for ever."""
    await tell(api, 3)
    answer = await api.ask("GET", f"{path}?since=4")
    assert answer.status == 410
    assert "backup" in answer.fault
    assert answer.json["metald"]["remedy"]


async def test_history_of_one_node_is_read_by_its_index(api: Api) -> None:
    node = (await api.node(name="n1"))["uuid"]
    await tell(api, 20)
    await tell(api, 2, node_uuid=node)
    await tell(api, 5)
    found = await api.get("/v1/events?node=n1&limit=2")
    assert [event["seq"] for event in found["events"]] == [1, 22]
    found = await api.get(f"/v1/events?node=n1&limit=2&since={found['next']}")
    assert ([event["seq"] for event in found["events"]], found["next"]) == ([23], 23)
    assert (await api.get("/v1/events?node=n1&since=23"))["next"] == 28


async def test_history_is_bounded_in_size(api: Api) -> None:
    await tell(api, 40, data={"x": "y" * 60_000})
    seen, since = [], 0
    while (found := await api.get(f"/v1/events?since={since}"))["next"] > since:
        assert len(found["events"]) < 20
        seen += [event["seq"] for event in found["events"]]
        since = found["next"]
    assert seen == list(range(1, 41))


def between_pages(monkeypatch: pytest.MonkeyPatch, then: Callable[[Page], Awaitable[None]]) -> None:
    """Have something happen behind each page that is read."""
    original = Store.page

    async def page(self: Store, **given: Any) -> Page:
        found = await original(self, **given)
        await then(found)
        return found

    monkeypatch.setattr(Store, "page", page)


@pytest.mark.parametrize("narrow", [False, True])
async def test_what_is_let_go_between_two_pages_is_told_as_a_gap(api: Api, monkeypatch: pytest.MonkeyPatch, narrow: bool) -> None:
    node = (await api.node(name="n1"))["uuid"]
    await tell(api, 9, node_uuid=node, data={"x": "y" * 60_000})
    purging = asyncio.Lock()  # which reads pages too

    async def meanwhile(found: Page) -> None:
        if not purging.locked() and any(event.seq == 1 for event in found.events):
            async with purging:
                await purge(api, kept=3)

    between_pages(monkeypatch, meanwhile)
    async with watching(api, "?since=0" + "&node=n1" * narrow) as source:
        told = await source.take(6)
    first = [event.data["seq"] for event in told[: [event.kind for event in told].index("gap")]]
    assert first[0] == 1
    gap = told[len(first)]
    assert (gap.data["since"], gap.data["next"]) == (first[-1], 8)
    assert gap.id == "7"
    assert [event.data["seq"] for event in told[len(first) + 1 :]][:3] == [8, 9, 10][: len(told) - len(first) - 1]


async def test_all_that_is_let_go_while_a_stream_catches_up_is_told_as_a_gap(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await tell(api, 9, data={"x": "y" * 60_000})
    purging = asyncio.Lock()

    async def meanwhile(_found: Page) -> None:
        if not purging.locked():
            async with purging:
                await purge(api)

    between_pages(monkeypatch, meanwhile)
    async with watching(api, "?since=0") as source:
        told = await source.until("gap")
        seen = [event.data["seq"] for event in told[:-1]]
        assert (told[-1].data["since"], told[-1].data["next"], told[-1].id) == (seen[-1], 10, "9")
        await tell(api)
        assert (await source.next()).data["seq"] == 10


async def test_of_the_past_a_watcher_holds_little(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many events there are and however large: a page is small, and the next is read when the last has been taken."""
    sizes: list[tuple[int, int]] = []

    async def measure(found: Page) -> None:
        sizes.append((len(found.events), sum(len(event.shown) for event in found.events)))

    await tell(api, 30, data={"x": "y" * 60_000})
    await tell(api, 2000)
    between_pages(monkeypatch, measure)
    async with watching(api, "?since=0") as source:
        told = await source.take(2030)
    assert [event.data["seq"] for event in told] == list(range(1, 2031))
    assert max(size for _, size in sizes) < _SIZE + (64 << 10)
    assert sizes[0][0] == 2
    assert max(count for count, _ in sizes) > 200, "but no smaller than it must be"


async def test_who_waits_long_for_something_of_the_past_sees_that_the_stream_lives(tmp_path: Path) -> None:
    """And may go on from where it was when the connection breaks meanwhile."""
    async with api_with(tmp_path, heartbeat=0.000001) as api:
        await tell(api, 10, data={"x": "y" * 60_000})
        places: list[int] = []
        async with watching(api, "?since=0&type=wanted") as source, asyncio.timeout(PATIENCE):
            while not places or places[-1] < 10:
                line = await source.answer.content.readline()
                places += [int(line[4:])] if line.startswith(b"id: ") else []
        assert places[0] == 0
        assert places == sorted(places)
        assert set(places) - {0, 10}, "places in the past"
