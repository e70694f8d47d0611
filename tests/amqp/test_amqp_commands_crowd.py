"""One node that is busy, or whose hardware is silent: whatever is sent to it, commands for others are carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metald.amqp.commands import lanes
from metald.amqp.commands.lane import Lane, Standing
from metald.drivers.fake.management import FakeManagement
from metald.model import Event, Node
from metald.store.changes import Change
from tests.support.commanding import Place, Site, commanded, producing

FAKE: dict[str, Any] = {"driver": "fake-hardware"}
BOOT: dict[str, Any] = {"boot_device": "pxe", "persistent": False}


async def _busy(site: Site, name: str) -> str:
    """A node that something drives."""
    node = await site.api.node(name=name)
    await site.api.force(node["uuid"], provision_state="manageable", reservation="somebody")
    return str(node["uuid"])


async def _free(site: Site, uuid: str) -> None:
    """Let the node go, in a state that no command of these tests leads on from."""
    await site.api.force(uuid, reservation=None, provision_state="enroll")
    await site.api.house.store.commit(Change(events=[Event(type="node.update", node_uuid=uuid)]))


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """Machines that answer nothing until the event is set."""
    answers = asyncio.Event()
    real = FakeManagement.set_boot_device

    async def waits(self: FakeManagement, *args: Any, **more: Any) -> Any:
        await answers.wait()
        return await real(self, *args, **more)

    monkeypatch.setattr(FakeManagement, "set_boot_device", waits)
    yield answers
    answers.set()


def test_what_stands_is_counted_once() -> None:
    freed: list[bool] = []
    standing, lane, other = Standing(lambda: freed.append(True)), Lane(), Lane()
    for _ in range(3):
        standing.come(lane)
    standing.come(other)
    assert standing.count == 0
    with standing.inside(lane):
        assert (standing.count, freed) == (3, [True])
        with standing.inside(lane):
            standing.come(lane)
            standing.done(lane)
            standing.done(lane)
        assert standing.count == 2
        with standing.inside(other):
            assert standing.count == 3
    assert (standing.count, lane.count, other.count) == (0, 2, 1)


@pytest.mark.rabbit
async def test_silent_hardware_holds_up_its_own_commands_only(tmp_path: Path, place: Place, silent: asyncio.Event) -> None:
    """More machines than there are slots, each asked for its boot device: all are asked at once, and the rest goes on."""
    number = lanes._AT_ONCE + 6
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        for i in range(number):
            await producer.ask("node.create", f"c{i}", {**FAKE, "name": f"n{i}"})
        for i in range(number):
            await producer.send("node.boot_device", f"b{i}", {"node": f"n{i}", **BOOT})
            await producer.send("node.maintenance", f"m{i}", {"node": f"n{i}"})
        await site.until(lambda: site.commands.lanes._standing.count == 2 * number)
        assert (await producer.ask("node.create", "other", {**FAKE, "name": "other"}))["command"] == "other"
        assert (await producer.ask("node.create", "soon", FAKE, key="urgent.node.create"))["command"] == "soon"
        assert (await producer.ask("node.boot_device", "seen", {"node": "other", "boot_device": "floppy"}))["code"] == 400
        silent.set()
        answers = await producer.replies(2 * number)
        assert {answer["status"] for answer in answers.values()} == {"accepted"}
        assert site.commands.lanes._standing.count == 0


@pytest.mark.rabbit
async def test_changes_that_wait_for_busy_nodes_hold_up_nobody(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of what the node's workflow reads waits a while for its end, as over HTTP, but not in a slot."""
    monkeypatch.setattr(lanes, "_AT_ONCE", 2)
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        for i in range(4):
            await _busy(site, f"n{i}")
        held = asyncio.Event()

        async def until_free(*_: Any) -> None:
            await held.wait()

        monkeypatch.setattr(site.api.fleet.nodes, "_until_free", until_free)
        for i in range(4):
            patch = [{"op": "add", "path": "/driver_info/ipmi_address", "value": "192.0.2.1"}]
            await producer.send("node.update", f"u{i}", {"node": f"n{i}", "patch": patch})
        await site.until(lambda: site.commands.lanes._standing.count == 4)
        assert (await producer.ask("node.create", "other", FAKE))["status"] == "accepted"
        for i in range(4):
            await site.api.force(site.api.house.store.table(Node).by("name", f"n{i}").uuid, reservation=None)  # type: ignore[union-attr]
        held.set()
        assert len(await producer.replies(4)) == 4


@pytest.mark.rabbit
async def test_what_waits_for_a_busy_node_takes_no_room_of_others(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place, pending=5, pending_per_node=100) as site, producing(place) as producer:
        uuid = await _busy(site, "busy")
        for i in range(5):
            await producer.send("node.provide", f"p{i}", {"node": "busy"})
        await site.until(lambda: site.commands.lanes._standing.count == 5)
        for i in range(20):
            assert (await producer.ask("node.create", f"c{i}", FAKE))["status"] == "accepted"
        refused = await producer.ask("node.provide", "p5", {"node": "busy"})
        assert (refused["code"], refused["error"]["metald"]["code"]) == (503, "full")
        assert "5 commands wait for nodes that are busy" in refused["error"]["error_message"]
        # an id that was refused for want of room is free: the same command may come again
        await _free(site, uuid)
        answers = await producer.replies(5)
        assert {answer["code"] for answer in answers.values()} == {400}
        assert (await producer.ask("node.provide", "p5", {"node": "busy"}))["code"] == 400


@pytest.mark.rabbit
async def test_more_than_enough_for_a_busy_node_is_refused_with_the_remedy(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place, pending_per_node=3) as site, producing(place) as producer:
        uuid = await _busy(site, "busy")
        free = (await site.api.node(name="free"))["uuid"]
        for i in range(3):
            await producer.send("node.provide", str(i), {"node": uuid if i % 2 else "busy"})
        await site.until(lambda: site.commands.lanes._standing.count == 3)
        refused = await producer.ask("node.provide", "3", {"node": uuid})
        assert (refused["status"], refused["code"], refused["error"]["metald"]["field"]) == ("refused", 503, "node")
        assert "amqp.commands.pending_per_node" in refused["error"]["error_message"]
        dead = await producer.dead()
        assert (dead.headers["metald-code"], dead.message_id) == ("full", "3")
        # what is known already is no new command, and is not refused for want of room
        await producer.send("node.provide", "2", {"node": "busy"})
        # of many, the one for that node is refused by itself
        many = await producer.ask("node.maintenance", "many", {"nodes": ["busy", "free"]})
        assert (many["status"], [part["status"] for part in many["parts"]]) == ("partly accepted", ["refused", "accepted"])
        assert (many["parts"][0]["code"], many["parts"][1]["node"]) == (503, free)
        # what is about that which drives the node goes past
        aborted = await producer.ask("node.abort", "abort", {"node": "busy"})
        assert (aborted["command"], aborted["code"] != 503) == ("abort", True)
        await _free(site, uuid)
        answers = [await producer.reply() for _ in range(3)]
        assert sorted(answer["command"] for answer in answers) == ["0", "1", "2"]
        assert site.commands.intakes[1].rejected == 1


@pytest.mark.rabbit
async def test_too_many_that_wait_for_their_time_are_refused(tmp_path: Path, place: Place) -> None:
    late = {"headers": {"notbefore": "2999-01-01T00:00:00Z"}}
    async with commanded(tmp_path, place, pending=2) as site, producing(place) as producer:
        for i in range(2):
            await producer.send("node.create", str(i), FAKE, **late)
        await site.until(lambda: site.commands.lanes.delayed == 2)
        refused = await producer.ask("node.create", "2", FAKE, **late)
        assert (refused["status"], refused["code"], refused["error"]["metald"]["field"]) == ("refused", 503, "notbefore")
        assert (await producer.dead()).headers["metald-code"] == "full"
        # one that is there already stays, and what is due is done
        await producer.send("node.create", "1", FAKE, **late)
        due = await producer.ask("node.create", "3", FAKE, headers={"notbefore": "2000-01-01T00:00:00Z"})
        assert (due["command"], due["status"]) == ("3", "accepted")
        assert (site.commands.lanes.delayed, site.commands.intakes[1].rejected) == (2, 1)
