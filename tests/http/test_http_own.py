"""metald's own additions, as an operator asks for them: by name, with nothing but curl."""

from __future__ import annotations

import pytest

from tests.support.api import Api


@pytest.mark.parametrize("part", ["timeline", "progress"])
async def test_names_need_no_version(api: Api, part: str) -> None:
    await api.ask("POST", "/v1/nodes", {"driver": "fake-hardware", "name": "rack1-7"}, headers={"X-OpenStack-Ironic-API-Version": "1.80"})
    answer = await api.ask("GET", f"/v1/nodes/rack1-7/{part}", headers={"X-OpenStack-Ironic-API-Version": "1.1"})
    assert answer.status == 200
    assert part in answer.json


async def test_history_says_what_maintenance_was_for(api: Api) -> None:
    version = {"X-OpenStack-Ironic-API-Version": "1.80"}
    await api.ask("POST", "/v1/nodes", {"driver": "fake-hardware", "name": "n"}, headers=version)
    await api.ask("PUT", "/v1/nodes/n/maintenance", {"reason": "a fan is broken"}, headers=version)
    await api.ask("DELETE", "/v1/nodes/n/maintenance", headers=version)
    history = (await api.ask("GET", "/v1/nodes/n/history", headers=version)).json["history"]
    assert [entry["event"] for entry in history] == ["Maintenance was turned on: a fan is broken", "Maintenance was turned off"]
