"""The HTTP API over a small metald in the test's own loop, and a client that knows its headers and errors."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aiohttp.test_utils import TestClient, TestServer

from metald.boot.doctor import Doctor
from metald.config import Settings
from metald.console.consoles import Consoles
from metald.http import app
from metald.model import Conductor as ConductorRecord
from metald.model import Node, PowerState, ProvisionState
from metald.statemachine.agents import Agents
from metald.statemachine.fleet import Fleet
from metald.statemachine.hardware import Hardware
from metald.statemachine.sightings import Sightings
from metald.store.changes import Change
from tests.support.house import House
from tests.support.house import settings as house_settings

LATEST = "1.115"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def fault(self) -> str:
        """The text of an error, in whichever of the wire's forms it came."""
        value = self.json
        if "error_message" not in value:
            return str(value.get("faultstring") or value["error"]["message"])
        inner = json.loads(value["error_message"])
        return str(inner.get("faultstring", inner.get("description")))


class Api:
    """A served API.

    Args:
        house: the metald behind it.
        client: speaks HTTP to it.
    """

    def __init__(self, house: House, fleet: Fleet, client: TestClient[Any, Any]) -> None:
        self.house = house
        self.fleet = fleet
        self.client = client
        self.ready = True

    async def ask(
        self, method: str, path: str, body: Any = None, *, version: str | None = LATEST, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send one request; a body that is not bytes is sent as JSON."""
        sent = dict(headers or {})
        if version is not None:
            sent.setdefault("X-OpenStack-Ironic-API-Version", version)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        stream = io.BytesIO(data) if data is not None else None
        async with self.client.request(method, path, data=stream, headers=sent, allow_redirects=False) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, version: str | None = LATEST) -> Any:
        """The JSON of a GET that must succeed."""
        answer = await self.ask("GET", path, version=version)
        assert answer.status == 200, answer.body
        return answer.json

    async def make(self, what: str, version: str = LATEST, **fields: Any) -> Any:
        """Create a resource, which must succeed."""
        answer = await self.ask("POST", f"/v1/{what}", fields, version=version)
        assert answer.status == 201, answer.body
        return answer.json

    async def node(self, **fields: Any) -> Any:
        """Create a node on fake-hardware."""
        return await self.make("nodes", **{"driver": "fake-hardware", **fields})

    async def force(self, uuid: str, **fields: Any) -> Node:
        """Write fields of a node past every guard."""
        if "provision_state" in fields:
            fields["provision_state"] = ProvisionState(fields["provision_state"])
        if fields.get("power_state") is not None:
            fields["power_state"] = PowerState(fields["power_state"])
        async with self.house.store.owning(uuid):
            committed = await self.house.store.commit(Change(save=[self.house.node(uuid).changed(**fields)]))
        node = committed.saved[0]
        assert isinstance(node, Node)
        return node

    async def until(self, uuid: str, state: str) -> Node:
        """Wait until the node is in `state` and nothing drives it."""
        return await self.house.until(uuid, ProvisionState(state))


def api_settings(**api: Any) -> Settings:
    """Settings with quick retries and no long waits for busy nodes."""
    base = house_settings()
    return msgspec.structs.replace(base, api=msgspec.structs.replace(base.api, **{"lock_wait": 0.05, **api}))


@contextlib.asynccontextmanager
async def serving(tmp_path: Path, settings: Settings | None = None) -> AsyncIterator[Api]:
    """Serve the API of a fresh metald on a free port of the loopback address."""
    settings = settings or api_settings()
    async with House(tmp_path, settings).open() as house:
        registry = house.registry()
        if house.store.table(ConductorRecord).by("hostname", "test") is None:
            await house.store.commit(Change(save=[ConductorRecord(hostname="test", drivers=["fake-hardware", "scripted"])]))
        fleet = Fleet(house.store, registry, settings)
        served: list[Api] = []
        application = app.build(
            settings=settings,
            store=house.store,
            registry=registry,
            conductor=house.conductor,
            hardware=Hardware(house.store, registry, house.engine, settings),
            agents=Agents(house.store, house.engine, settings),
            fleet=fleet,
            consoles=Consoles(settings.console, tmp_path),
            doctor=Doctor(Sightings(house.store, house.engine), settings),
            ready=lambda: served[0].ready,
        )
        async with TestClient(TestServer(application)) as client:
            served.append(Api(house, fleet, client))
            yield served[0]
