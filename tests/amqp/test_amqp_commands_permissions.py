"""Who may what by commands: users of a real broker, whose names it checks, and the rules of the HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiormq.exceptions import ChannelPreconditionFailed
from yarl import URL

from metald.model import Node
from tests.support.commanding import PATIENCE, Place, Producer, Site, commanded, producing
from tests.support.rabbit import PrivateRabbit
from tests.support.signing import claims, keys_file, token

pytestmark = pytest.mark.rabbit

ON: dict[str, Any] = {"target": "power on"}
STANDING = """
[guest]
roles = ["admin"]
system = true

[tenant]
roles = ["member"]
project = "p1"
"""


@pytest.fixture
def users(tmp_path: Path) -> str:
    path = tmp_path / "users.toml"
    path.write_text(STANDING)
    return str(path)


@pytest.fixture
def tenant(broker: PrivateRabbit, place: Place) -> Iterator[Place]:
    """The same place, by another user of the broker."""
    url = URL(place.url)
    broker.add_user("tenant", "secret", url.path.removeprefix("/"))
    yield place._replace(url=str(url.with_user("tenant").with_password("secret")))
    broker.remove_user("tenant")


async def _nodes(site: Site) -> None:
    for name, owner in (("mine", "p1"), ("theirs", "p2")):
        node = await site.api.node(name=name, owner=owner)
        await site.api.force(node["uuid"], provision_state="active", power_state="power off")


async def _power(site: Site, name: str) -> str | None:
    """What the node's power is, once nothing drives it."""
    node = site.api.house.store.table(Node).by("name", name)
    assert node is not None
    await site.until(lambda: site.api.house.node(node.uuid).reservation is None)
    return site.api.house.node(node.uuid).power_state


async def _refused_as_not_there(producer: Producer, id_: str, data: dict[str, Any], **more: Any) -> None:
    refused = await producer.ask("node.power", id_, data, **more)
    assert (refused["status"], refused["code"]) == ("refused", 404)


async def test_a_member_may_use_the_nodes_of_its_project_alone(tmp_path: Path, place: Place, tenant: Place, users: str) -> None:
    async with commanded(tmp_path, place, users=users) as site, producing(tenant) as producer:
        await _nodes(site)
        done = await producer.ask("node.power", "1", {"node": "mine", **ON}, user_id="tenant")
        assert (done["status"], site.command("1").caller.project) == ("accepted", "p1")
        assert await _power(site, "mine") == "power on"
        await _refused_as_not_there(producer, "2", {"node": "theirs", **ON}, user_id="tenant")
        # nor may it give one to another project
        denied = await producer.ask("node.create", "3", {"driver": "fake-hardware", "owner": "p2"}, user_id="tenant")
        assert denied["code"] == 403
        assert (await producer.dead()).headers["metald-code"] == "not-allowed"
        assert await _power(site, "theirs") == "power off"


async def test_of_many_the_own_are_done_and_the_others_refused(tmp_path: Path, place: Place, tenant: Place, users: str) -> None:
    async with commanded(tmp_path, place, users=users) as site, producing(tenant) as producer:
        await _nodes(site)
        many = await producer.ask("node.power", "1", {"nodes": ["mine", "theirs"], **ON}, user_id="tenant")
        assert (many["status"], many["accepted"], many["refused"]) == ("partly accepted", 1, 1)
        assert [part.get("code") for part in many["parts"]] == [None, 404]
        assert (await _power(site, "mine"), await _power(site, "theirs")) == ("power on", "power off")


async def test_nobody_speaks_as_another_user_of_the_broker(tmp_path: Path, place: Place, tenant: Place, users: str) -> None:
    async with commanded(tmp_path, place, users=users) as site, producing(place) as admin:
        await _nodes(site)
        async with producing(tenant) as producer:
            with pytest.raises(ChannelPreconditionFailed, match="user_id"):
                async with asyncio.timeout(PATIENCE):
                    await producer.send("node.power", "1", {"node": "theirs", **ON}, user_id="guest")
        # the same id of two users is two commands
        assert (await admin.ask("node.power", "1", {"node": "theirs", **ON}, user_id="guest"))["status"] == "accepted"
        assert site.command("1").caller.user == "guest"
        async with producing(tenant) as producer:
            await _refused_as_not_there(producer, "1", {"node": "theirs", **ON}, user_id="tenant")
        assert await _power(site, "theirs") == "power on"


async def test_claims_of_a_project_go_as_far_as_its_nodes(tmp_path: Path, place: Place) -> None:
    def signed(id_: str, body: bytes) -> dict[str, str]:
        return {"metald-claim": token(claims(id_, "node.power", body, roles=["member"], project="p1"), kid="ci")}

    async with commanded(tmp_path, place, keys=str(keys_file(tmp_path))) as site, producing(place) as producer:
        await _nodes(site)
        for id_, name in (("1", "mine"), ("2", "theirs")):
            body = b'{"node": "%s", "target": "power on"}' % name.encode()
            await producer.send("node.power", id_, body, headers=signed(id_, body))
        answers = await producer.replies(2)
        assert {id_: answer.get("code") for id_, answer in answers.items()} == {"1": None, "2": 404}
        assert await _power(site, "theirs") == "power off"
