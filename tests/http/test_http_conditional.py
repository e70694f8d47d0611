"""Entity tags, preconditions and long polls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.http import conditional, longpoll
from metald.store.watches import Watches
from tests.support.api import Answer, Api


async def _get(api: Api, path: str, tag: str | None = None, **more: Any) -> Answer:
    return await api.ask("GET", path, headers={"If-None-Match": tag} if tag else {}, **more)


@pytest.mark.parametrize("path", ["/v1/nodes/{}", "/v1/nodes/{}?fields=uuid", "/v1/nodes", "/v1/nodes/detail", "/v1/nodes/{}/states"])
async def test_what_has_not_changed_is_not_sent_again(api: Api, path: str) -> None:
    node = await api.node(name="n")
    path = path.format(node["uuid"])
    first = await _get(api, path)
    again = await _get(api, path, first.headers["ETag"])
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert "X-OpenStack-Ironic-API-Version" in again.headers
    assert (await _get(api, path, f'"other", W/{first.headers["ETag"]}')).status == 304
    await api.force(node["uuid"], last_error="the fan fell off", description="changed")
    changed = await _get(api, path, first.headers["ETag"])
    assert (changed.status, bool(changed.body)) == (200, True)
    assert changed.headers["ETag"] != first.headers["ETag"]


async def test_a_tag_is_of_one_form(api: Api) -> None:
    node = await api.node(name="n")
    tags = [
        (await _get(api, path, version=version)).headers["ETag"]
        for path in (f"/v1/nodes/{node['uuid']}", f"/v1/nodes/{node['uuid']}?fields=uuid", "/v1/nodes", "/v1/nodes?maintenance=true")
        for version in ("1.50", "1.90")
    ]
    assert len(set(tags)) == len(tags)
    other_host = (await api.ask("GET", f"/v1/nodes/{node['uuid']}", headers={"Host": "elsewhere.example"})).headers["ETag"]
    assert other_host not in tags


async def test_tags_of_every_collection(api: Api) -> None:
    node = await api.node()
    port = await api.make("ports", node_uuid=node["uuid"], address="52:54:00:00:00:01")
    group = await api.make("portgroups", node_uuid=node["uuid"])
    for path in (
        "/v1/ports",
        "/v1/ports/detail",
        f"/v1/ports/{port['uuid']}",
        f"/v1/nodes/{node['uuid']}/ports",
        "/v1/portgroups",
        f"/v1/portgroups/{group['uuid']}",
        "/v1/chassis",
        "/v1/deploy_templates",
        "/v1/runbooks",
        "/v1/volume/connectors",
        "/v1/allocations",
    ):
        tag = (await _get(api, path)).headers["ETag"]
        assert (await _get(api, path, tag)).status == 304, path
    tag = (await _get(api, "/v1/ports")).headers["ETag"]
    await api.ask("DELETE", f"/v1/ports/{port['uuid']}")
    assert (await _get(api, "/v1/ports", tag)).status == 200
    assert "ETag" not in (await _get(api, f"/v1/ports/{port['uuid']}", tag)).headers


async def test_a_change_of_what_has_changed_is_refused(api: Api) -> None:
    node = await api.node(name="n")
    path = f"/v1/nodes/{node['uuid']}"
    tag = (await _get(api, path, version="1.60")).headers["ETag"]
    patch = [{"op": "add", "path": "/extra/a", "value": 1}]
    changed = await api.ask("PATCH", path, patch, headers={"If-Match": f'"x", {tag}'})
    assert changed.status == 200
    for method, body in (("PATCH", patch), ("DELETE", None)):
        refused = await api.ask(method, path, body, headers={"If-Match": tag})
        assert (refused.status, refused.json["metald"]["code"], refused.json["metald"]["field"]) == (412, "precondition-failed", "If-Match")
    new = (await _get(api, path)).headers["ETag"]
    assert (await api.ask("PATCH", path, patch, headers={"If-Match": f"W/{new}"})).status == 412
    assert (await api.ask("PATCH", path, patch, headers={"If-Match": "no tag"})).status == 400
    assert (await api.ask("DELETE", path, headers={"If-Match": "*"})).status == 204


async def test_two_who_change_at_once_and_one_wins(api: Api) -> None:
    node = await api.node(name="n")
    path = f"/v1/nodes/{node['uuid']}"
    tag = (await _get(api, path)).headers["ETag"]
    answers = await asyncio.gather(
        *(api.ask("PATCH", path, [{"op": "add", "path": "/extra/who", "value": i}], headers={"If-Match": tag}) for i in range(8))
    )
    assert sorted(a.status for a in answers) == [200] + [412] * 7


@pytest.mark.parametrize("what", ["ports", "portgroups", "chassis"])
async def test_other_things_are_guarded_too(api: Api, what: str) -> None:
    node = await api.node()
    fields: dict[str, dict[str, Any]] = {
        "ports": {"node_uuid": node["uuid"], "address": "52:54:00:00:00:01"},
        "portgroups": {"node_uuid": node["uuid"]},
        "chassis": {},
    }
    thing = await api.make(what, **fields[what])
    path = f"/v1/{what}/{thing['uuid']}"
    tag = (await _get(api, path)).headers["ETag"]
    patch = [{"op": "add", "path": "/extra/a", "value": 1}]
    assert (await api.ask("PATCH", path, patch, headers={"If-Match": tag})).status == 200
    assert (await api.ask("PATCH", path, patch, headers={"If-Match": tag})).status == 412
    assert (await api.ask("DELETE", path, headers={"If-Match": tag})).status == 412
    assert (await api.ask("DELETE", path)).status == 204


async def _waiting(api: Api, count: int = 1) -> None:
    """Return once so many requests wait."""
    async with asyncio.timeout(10):
        while len(api.house.store.watches) != count:
            await asyncio.sleep(0.005)


async def _poll(api: Api, uuid: str, wait: int = 30, **headers: str) -> Answer:
    return await api.ask("GET", f"/v1/nodes/{uuid}/states", headers={"Prefer": f"wait={wait}", **headers})


async def test_a_poll_ends_when_the_states_change(api: Api) -> None:
    node = await api.node()
    poll = asyncio.create_task(_poll(api, node["uuid"]))
    await _waiting(api)
    await api.force(node["uuid"], description="not a state")
    await _waiting(api)
    await api.force(node["uuid"], last_error="now")
    answer = await poll
    assert (answer.status, answer.headers["Preference-Applied"], answer.json["last_error"]) == (200, "wait=30", "now")
    assert len(api.house.store.watches) == 0


async def test_a_poll_for_an_old_tag_is_answered_at_once(api: Api) -> None:
    node = await api.node()
    tag = (await _get(api, f"/v1/nodes/{node['uuid']}/states")).headers["ETag"]
    await api.force(node["uuid"], last_error="meanwhile")
    answer = await _poll(api, node["uuid"], **{"If-None-Match": tag})
    assert (answer.status, answer.json["last_error"]) == (200, "meanwhile")
    tag = answer.headers["ETag"]
    poll = asyncio.create_task(_poll(api, node["uuid"], **{"If-None-Match": tag}))
    await _waiting(api)
    await api.force(node["uuid"], last_error="later")
    assert (await poll).json["last_error"] == "later"


async def test_a_poll_is_over_at_its_time(api: Api) -> None:
    node = await api.node()
    plain = await _poll(api, node["uuid"], 0)
    assert (plain.status, plain.headers["Preference-Applied"]) == (200, "wait=0")
    tagged = await _poll(api, node["uuid"], 0, **{"If-None-Match": plain.headers["ETag"]})
    assert (tagged.status, tagged.body) == (304, b"")


async def test_a_poll_of_a_node_that_goes_away_says_so(api: Api) -> None:
    node = await api.node()
    poll = asyncio.create_task(_poll(api, node["uuid"], 999_999_999))
    await _waiting(api)
    await api.ask("DELETE", f"/v1/nodes/{node['uuid']}")
    assert (await poll).status == 404


async def test_who_leaves_frees_the_place(api: Api) -> None:
    node = await api.node()
    poll = asyncio.create_task(_poll(api, node["uuid"]))
    await _waiting(api)
    poll.cancel()
    await asyncio.gather(poll, return_exceptions=True)
    await _waiting(api, 0)


async def test_many_polls_at_once_and_the_end_of_the_daemon() -> None:
    watches = Watches()
    polls = longpoll.LongPolls(watches)
    waiting = [asyncio.create_task(polls.changed(f"node {i % 500}", 60, bool)) for i in range(5000)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(watches) == len(polls) == 5000
    watches.tell(["node 7", "node that nobody waits for"])
    ended, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert {task.result() for task in ended} == {True}
    assert ended == set(waiting[7::500])
    polls.close()
    assert sum(await asyncio.gather(*waiting)) == 10
    assert (len(watches), len(polls), polls.open) == (0, 0, False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("wait=30", 30), ("respond-async, wait=5", 5), ('Wait = "7"', 7), ("wait", None), ("wait=x", None), ("", None), ("await=3", None)],
)
def test_preferences(text: str, seconds: int | None) -> None:
    class Asked:
        headers = {"Prefer": text}  # noqa: RUF012

    assert conditional.preferred_wait(Asked()) == seconds  # type: ignore[arg-type]


@given(st.text(alphabet='W/"*, -ab\t', max_size=60))
def test_whatever_is_sent_as_a_tag_is_read(text: str) -> None:
    class Asked:
        headers = {"If-None-Match": text}  # noqa: RUF012

    if conditional.unchanged(Asked(), '"a-b"'):  # type: ignore[arg-type]
        assert text.strip() == "*" or '"a-b"' in text
