"""Commands on a real broker: one effect and one answer each, in the order of each node."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from metald.amqp.commands import ledger
from metald.model import Node, Port, now
from metald.model.command import Command, CommandState
from tests.support.commanding import Place, Site, commanded, producing

pytestmark = pytest.mark.rabbit


def _nodes(site: Site) -> list[str | None]:
    return [node.name for node in site.api.house.store.table(Node)]


async def _types(site: Site) -> list[str]:
    return [event.type for event in await site.api.house.store.events()]


async def test_a_node_by_commands_alone(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        made = await producer.ask("node.create", "1", {"name": "n1", "driver": "fake-hardware"})
        assert (made["status"], made["command"], made["_correlation"]) == ("accepted", "1", "c-1")
        node = site.api.house.node(made["node"])
        assert (node.name, node.provision_state.value) == ("n1", "enroll")
        port = await producer.ask("port.create", "2", {"node_uuid": node.uuid, "address": "52:54:00:00:00:01"})
        assert site.api.house.store.table(Port).get(port["port"]) is not None
        for number, verb in enumerate(("manage", "provide", "deploy"), 3):
            done = await producer.ask(f"node.{verb}", str(number), {"node": "n1"})
            assert done["status"] == "accepted", done
            assert done["workflow"]
        await site.api.until(node.uuid, "active")
        patch = [{"op": "add", "path": "/extra/rack", "value": 7}]
        assert (await producer.ask("node.update", "6", {"node": "n1", "patch": patch}))["status"] == "accepted"
        assert (await producer.ask("node.maintenance", "7", {"node": "n1", "reason": "fan"}))["status"] == "accepted"
        assert site.api.house.node(node.uuid).maintenance
        assert (await producer.ask("node.maintenance", "8", {"node": "n1", "maintenance": False}))["status"] == "accepted"
        assert (await producer.ask("node.boot_device", "9", {"node": "n1", "boot_device": "pxe"}))["status"] == "accepted"
        assert (await producer.ask("node.power", "10", {"node": "n1", "target": "power off"}))["workflow"]
        assert (await producer.ask("node.undeploy", "11", {"node": "n1"}))["workflow"]
        await site.api.until(node.uuid, "available")
        assert (await producer.ask("port.delete", "12", {"port": port["port"]}))["status"] == "accepted"
        assert (await producer.ask("node.delete", "13", {"node": "n1"}))["status"] == "accepted"
        assert _nodes(site) == []
        assert await producer.waiting() == 0


async def test_refused_with_the_problem_of_http(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await site.api.node(name="n1")
        refused = await producer.ask("node.deploy", "1", {"node": "n1"})
        over_http = await site.api.ask("PUT", "/v1/nodes/n1/states/provision", {"target": "deploy"})
        assert (refused["status"], refused["code"]) == ("refused", over_http.status)
        assert refused["error"] == over_http.json
        missing = await producer.ask("node.manage", "2", {"node": "nobody"})
        assert missing["code"] == 404
        assert site.command("1").state in (CommandState.ANSWERED, CommandState.SETTLED)


async def test_the_same_command_again_has_no_effect_and_the_same_answer(tmp_path: Path, place: Place) -> None:
    body = {"driver": "fake-hardware"}
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        first = await producer.ask("node.create", "once", body)
        again = await producer.ask("node.create", "once", body)
        assert again == first
        assert len(_nodes(site)) == 1
        refused = await producer.ask("node.deploy", "wrong", {"node": "nobody"})
        assert await producer.ask("node.deploy", "wrong", {"node": "nobody"}) == refused
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        assert await producer.ask("node.create", "once", body) == first
        assert len(_nodes(site)) == 1


async def test_many_copies_at_once_are_one(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await asyncio.gather(*(producer.send("node.create", "same", {"driver": "fake-hardware"}) for _ in range(50)))
        await site.until(lambda: site.commands.intakes[1].taken == 50)
        await producer.reply()
        assert len(_nodes(site)) == 1


async def test_an_id_that_was_another_commands_is_put_aside(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place), producing(place) as producer:
        await producer.ask("node.create", "1", {"driver": "fake-hardware"})
        refused = await producer.ask("node.create", "1", {"driver": "fake-hardware", "name": "other"})
        assert (refused["status"], refused["code"]) == ("refused", 409)
        assert "used for another command" in (await producer.dead()).headers["metald-reason"]


async def test_cloud_events_in_both_modes(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        event = {
            "specversion": "1.0", "id": "a", "source": "/test", "type": "metald.command.node.create",
            "datacontenttype": "application/json", "data": {"name": "n1", "driver": "fake-hardware"},
        }  # fmt: skip
        done = await producer.ask("node.x", "unused", json.dumps(event).encode(), content_type="application/cloudevents+json")
        assert (done["status"], done["command"]) == ("accepted", "a")
        assert done["_headers"]["cloudEvents:type"] == "metald.reply.accepted"
        headers = {f"cloudEvents:{name}": event[name] for name in ("specversion", "source", "type")} | {"cloudEvents:id": "b"}
        done = await producer.ask("node.x", "unused", {"name": "n2", "driver": "fake-hardware"}, headers=headers)
        assert (done["status"], done["command"]) == ("accepted", "b")
        assert _nodes(site) == ["n1", "n2"]


@pytest.mark.parametrize(
    ("verb", "fields", "word"),
    [
        ("node.create", {"data": b"{"}, "not JSON"),
        ("node.create", {"data": b"[]"}, "not a JSON object"),
        ("node.create", {"data": b"x", "content_type": "text/plain"}, "Content type"),
        ("node.explode", {}, "no command 'node.explode'"),
        ("node.deploy", {}, "node is missing"),
        ("node.deploy", {"data": {"node": "n", "target": "active"}}, "Leave target out"),
        ("node.create", {"data": {}, "content_type": "application/cloudevents+json"}, "specversion"),
        ("node.create", {"headers": {"notbefore": "soon"}}, "notbefore is no time"),
        ("node.create", {"data": {"items": []}}, "items must be a list"),
        ("node.create", {"data": b'{"a":"%s"}' % (b"x" * 70_000)}, "max_size"),
    ],
)
async def test_what_is_no_command_is_put_aside_with_the_reason(
    tmp_path: Path, place: Place, verb: str, fields: dict[str, Any], word: str
) -> None:
    async with commanded(tmp_path, place, max_size=65_536) as site, producing(place) as producer:
        refused = await producer.ask(verb, "1", fields.pop("data", None), **fields)
        assert refused["status"] == "refused"
        dead = await producer.dead()
        assert word in dead.headers["metald-reason"]
        assert dead.headers["metald-code"] == "invalid"
        assert "command.rejected" in await _types(site)
        assert await producer.waiting() == 0
        assert (await producer.ask("node.create", "next", {"driver": "fake-hardware"}))["status"] == "accepted"


async def test_order_of_a_node_is_kept_and_each_waits_for_the_last(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await producer.send("node.create", "0", {"name": "n1", "driver": "fake-hardware"})
        for number, verb in enumerate(("manage", "provide", "deploy", "undeploy", "manage"), 1):
            await producer.send(f"node.{verb}", str(number), {"node": "n1"})
        replies = await producer.replies(6)
        assert {reply["status"] for reply in replies.values()} == {"accepted"}, replies
        node = site.api.house.store.table(Node).by("name", "n1")
        assert node is not None
        await site.api.until(node.uuid, "manageable")


async def test_a_slow_node_holds_up_no_other_and_abort_overtakes(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        slow, quick = await site.api.node(name="slow", driver="scripted"), await site.api.node(name="quick")
        site.api.house.deploy.ready = False
        site.api.house.deploy.uses_ramdisk = True  # type: ignore[misc]
        await site.api.force(slow["uuid"], provision_state="available")
        assert (await producer.ask("node.deploy", "1", {"node": "slow"}))["status"] == "accepted"
        await site.until(lambda: site.api.house.node(slow["uuid"]).provision_state.value == "wait call-back")
        await producer.send("node.rebuild", "2", {"node": "slow"})
        assert (await producer.ask("node.manage", "3", {"node": quick["uuid"]}))["command"] == "3"
        assert site.command("2").state is CommandState.PENDING
        aborted = await producer.ask("node.abort", "4", {"node": "slow"})
        assert (aborted["command"], aborted["status"]) == ("4", "accepted")
        assert (await producer.reply())["command"] == "2"


async def test_many_at_once_is_one_command_with_one_answer(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        items = [{"name": f"n{i}", "driver": "fake-hardware"} for i in range(20)]
        done = await producer.ask("node.create", "1", {"items": [*items, {"driver": "nonsense"}]})
        assert (done["status"], done["accepted"], done["refused"]) == ("partly accepted", 20, 1)
        assert [part["status"] for part in done["parts"]] == ["accepted"] * 20 + ["refused"]
        done = await producer.ask("node.manage", "2", {"nodes": [f"n{i}" for i in range(20)]})
        assert (done["status"], done["accepted"]) == ("accepted", 20)
        assert await producer.ask("node.manage", "2", {"nodes": [f"n{i}" for i in range(20)]}) == done
        assert len([row for row in site.api.house.store.table(Command) if row.parent]) == 0


async def test_not_before_survives_a_restart(tmp_path: Path, place: Place) -> None:
    due = datetime.now(UTC) + timedelta(seconds=2)
    async with producing(place) as producer:
        async with commanded(tmp_path, place) as site:
            await producer.send("node.create", "1", {"driver": "fake-hardware"}, headers={"notbefore": due.isoformat()})
            await site.until(lambda: site.commands.lanes.delayed == 1)
            assert await producer.waiting() == 0
            assert _nodes(site) == []
        async with commanded(tmp_path, place) as site:
            assert (await producer.reply())["status"] == "accepted"
            assert datetime.now(UTC) >= due
            assert len(_nodes(site)) == 1


async def test_expired_commands_are_refused(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
        refused = await producer.ask("node.create", "1", {"driver": "fake-hardware"}, headers={"expirytime": past})
        assert (refused["code"], refused["error"]["metald"]["code"]) == (408, "expired")
        assert _nodes(site) == []


async def test_a_command_does_not_wait_for_a_busy_node_for_ever(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place, patience=0.1) as site, producing(place) as producer:
        node = await site.api.node(name="n1")
        await site.api.force(node["uuid"], provision_state="manageable", reservation="somebody")
        refused = await producer.ask("node.provide", "1", {"node": "n1"})
        assert refused["code"] == 409
        soon = (datetime.now(UTC) + timedelta(seconds=0.05)).isoformat()
        refused = await producer.ask("node.provide", "2", {"node": "n1"}, headers={"expirytime": soon})
        assert refused["code"] == 408


async def test_the_urgent_queue_is_another_way(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        assert (await producer.ask("node.create", "1", {"driver": "fake-hardware"}, key="urgent.node.create"))["status"] == "accepted"
        assert site.commands.intakes[0].taken == 1


async def test_who_may_send(tmp_path: Path, place: Place) -> None:
    users = tmp_path / "users.toml"
    users.write_text('[guest]\nroles = ["reader"]\nsystem = true\n')
    async with commanded(tmp_path, place, users=str(users)) as site, producing(place) as producer:
        unknown = await producer.ask("node.create", "1", {"driver": "fake-hardware"})
        assert (unknown["status"], unknown["code"]) == ("refused", 403)
        assert "user_id" in (await producer.dead()).headers["metald-reason"]
        refused = await producer.ask("node.create", "2", {"driver": "fake-hardware"}, user_id="guest")
        assert (refused["status"], refused["code"]) == ("refused", 403)
        assert _nodes(site) == []
        assert (await producer.dead()).headers["cloudEvents:id"] == "2"
        assert (await _types(site)).count("command.rejected") == 2


async def test_old_answers_leave_memory_and_are_known_all_the_same(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with commanded(tmp_path, place, answers=3) as site, producing(place) as producer:
        made = [await producer.ask("node.create", str(number), {"driver": "fake-hardware"}) for number in range(6)]
        table = site.api.house.store.table(Command)
        await site.until(lambda: [row.sender_id for row in table] == ["3", "4", "5"])
        assert await site.commands.ledger.forget() == 0
        again = await asyncio.gather(*(producer.send("node.create", str(number), {"driver": "fake-hardware"}) for number in range(6)))
        assert len(again) == 6
        answers = await producer.replies(6)
        assert [answers[str(number)]["node"] for number in range(6)] == [answer["node"] for answer in made]
        refused = await producer.ask("node.create", "0", {"driver": "fake-hardware", "name": "other"})
        assert "used for another command" in refused["error"]["error_message"]
        assert len(_nodes(site)) == 6
    async with commanded(tmp_path, place, answers=3) as site, producing(place) as producer:
        table = site.api.house.store.table(Command)
        assert table.all() == []
        assert (await producer.ask("node.create", "1", {"driver": "fake-hardware"}))["node"] == made[1]["node"]
        assert len(_nodes(site)) == 6
        monkeypatch.setattr(ledger, "now", lambda: now() + timedelta(hours=25))
        monkeypatch.setattr(ledger, "_TOGETHER", 4)
        assert [await site.commands.ledger.forget() for _ in range(3)] == [4, 2, 0]
        assert (await producer.ask("node.create", "1", {"driver": "fake-hardware"}))["node"] != made[1]["node"]


async def test_without_the_right_to_declare_it_is_only_looked_for(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place):
        pass
    async with commanded(tmp_path, place, amqp={"declare": False}), producing(place) as producer:
        assert (await producer.ask("node.create", "1", {"driver": "fake-hardware"}))["status"] == "accepted"
        assert await producer.waiting(".dead") == 0
