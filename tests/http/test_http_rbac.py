"""Who may do what over HTTP: 403 and 404, lists, reduced forms, whom new things belong to; against facts of Ironic 39.

`rbac39.json` holds what a real Ironic 39 decides, route by route, for callers of the project that owns a node, of the one that
leases it, and of a stranger: the request passes the policy, is refused (403), or is told that there is no such thing (404).
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import pytest_asyncio

from metald.http.routes import ROUTES
from metald.policy import RULES
from tests.support.api import Answer, Api, api_settings, serving

OWNER, LESSEE, OTHER = "70e5e25a2ca24cb1", "f11853c7fa9c4db3", "ae64129eb1884662"
PROJECTS = {"owner": OWNER, "lessee": LESSEE, "third": OTHER}
ROLES = ("admin", "manager", "member", "reader", "service")
FACTS = json.loads((Path(__file__).parent / "rbac39.json").read_text())


def basic(user: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:x".encode()).decode()}


def write_users(folder: Path) -> dict[str, str]:
    """The files of users: each role in each scope; and what the settings say of them."""
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(rounds=4)).decode()
    names = ["root", "unknown", *(f"{scope}-{role}" for scope in ("system", *PROJECTS) for role in ROLES)]
    (folder / "htpasswd").write_text("".join(f"{name}:{hashed}\n" for name in names))
    tables = ['[root]\nroles = ["admin"]\nsystem = true\n']
    for scope in ("system", *PROJECTS):
        where = "system = true" if scope == "system" else f'project = "{PROJECTS[scope]}"'
        tables += [f'[{scope}-{role}]\nroles = ["{role}"]\n{where}\n' for role in ROLES]
    (folder / "users.toml").write_text("\n".join(tables))
    return {"auth": "http_basic", "htpasswd": str(folder / "htpasswd"), "users": str(folder / "users.toml")}


class World:
    """An API with a node of the owner's, one that is leased, one of nobody, and things of theirs."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.ids: dict[str, str] = {}

    async def ask(self, user: str, method: str, path: str, body: Any = None, version: str = "1.115") -> Answer:
        return await self.api.ask(method, path.format(**self.ids), body, headers=basic(user), version=version)

    async def make(self, what: str, **fields: Any) -> Any:
        answer = await self.ask("root", "POST", f"/v1/{what}", fields)
        assert answer.status == 201, answer.body
        return answer.json

    async def fill(self) -> None:
        wanted = {"owned": {"owner": OWNER}, "leased": {"owner": OWNER, "lessee": LESSEE}, "foreign": {}}
        for number, (name, fields) in enumerate(wanted.items()):
            node = await self.make("nodes", name=name, driver="fake-hardware", resource_class="x", **fields)
            uuid = self.ids[name] = node["uuid"]
            self.ids[f"{name}_port"] = (await self.make("ports", node_uuid=uuid, address=f"52:54:00:00:00:0{number}"))["uuid"]
            self.ids[f"{name}_group"] = (await self.make("portgroups", node_uuid=uuid, name=f"g-{name}"))["uuid"]
            target = {"node_uuid": uuid, "volume_type": "iscsi", "boot_index": 0, "volume_id": name, "properties": {"iqn": "a"}}
            self.ids[f"{name}_target"] = (await self.make("volume/targets", **target))["uuid"]
            connector = {"node_uuid": uuid, "type": "iqn", "connector_id": f"iqn.{name}"}
            self.ids[f"{name}_connector"] = (await self.make("volume/connectors", **connector))["uuid"]
            owner = {"owned": OWNER, "leased": LESSEE}.get(name)
            await self.api.force(uuid, provision_state="available")
            claim = await self.make("allocations", name=f"a-{name}", resource_class="x", candidate_nodes=[uuid], owner=owner)
            self.ids[f"{name}_claim"] = claim["uuid"]
        steps = [{"interface": "deploy", "step": "deploy", "args": {}, "order": 1}]
        self.ids["runbook"] = (await self.make("runbooks", name="CUSTOM_OWN", steps=steps, owner=OWNER))["uuid"]
        self.ids["public_runbook"] = (await self.make("runbooks", name="CUSTOM_ALL", steps=steps, public=True))["uuid"]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with serving(tmp_path / "state", api_settings(**write_users(tmp_path))) as api:
        found = World(api)
        await found.fill()
        yield found
