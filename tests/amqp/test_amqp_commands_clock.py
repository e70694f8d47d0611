"""The wall clock is moved while commands wait: each is still done once, when its time has come by the clock that there is."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from metald import model
from metald.amqp.commands import lanes, ledger
from metald.model import Event, Node
from metald.model.command import Command
from metald.store.changes import Change
from tests.support.commanding import PATIENCE, Place, commanded, producing

pytestmark = pytest.mark.rabbit

FAKE = {"driver": "fake-hardware"}


class Clock:
    """The wall clock of the commands, which a test moves."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.off = timedelta()
        for module in (lanes, ledger):
            patch.setattr(module, "now", self.now)
        patch.setattr(lanes, "_LOOK", 0.02)

    def now(self) -> datetime:
        return model.now() + self.off


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_what_waits_for_its_time_notices_a_jump(tmp_path: Path, place: Place, clock: Clock) -> None:
    due = (clock.now() + timedelta(hours=1)).isoformat()
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await producer.send("node.create", "1", FAKE, headers={"notbefore": due})
        await site.until(lambda: site.commands.lanes.delayed == 1)
        clock.off = timedelta(hours=-5)
        assert (await producer.ask("node.create", "2", FAKE))["status"] == "accepted"
        assert site.commands.lanes.delayed == 1
        clock.off = timedelta(hours=2)
        assert (await producer.reply())["command"] == "1"
        clock.off = timedelta()
        assert (await producer.ask("node.create", "1", FAKE, headers={"notbefore": due}))["status"] == "accepted"
        assert len(site.api.house.store.table(Node)) == 2


async def test_patience_with_a_busy_node_outlives_a_jump_back(tmp_path: Path, place: Place, clock: Clock) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        node = await site.api.node(name="n1")
        await site.api.force(node["uuid"], provision_state="manageable", reservation="somebody")
        await producer.send("node.provide", "1", {"node": "n1"})
        await site.until(lambda: bool(site.commands.lanes._sleepers))
        clock.off = timedelta(hours=-5)
        await site.api.force(node["uuid"], reservation=None)
        await site.api.house.store.commit(Change(events=[Event(type="node.update", node_uuid=node["uuid"])]))
        assert (await producer.reply())["status"] == "accepted"


async def test_answers_outlive_a_clock_that_was_ahead(tmp_path: Path, place: Place, clock: Clock) -> None:
    clock.off = timedelta(days=2)
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        done = await producer.ask("node.create", "1", FAKE)
        clock.off = timedelta()
        async with asyncio.timeout(PATIENCE):
            while site.command("1").state.value != "settled":
                await asyncio.sleep(0.01)
        assert await site.commands.ledger.forget() == 0
        assert await producer.ask("node.create", "1", FAKE) == done
        clock.off = timedelta(days=4)
        assert await site.commands.ledger.forget() == 1
        assert site.api.house.store.table(Command).all() == []
