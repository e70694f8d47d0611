"""Agents that know the wire and nothing of metald: several on one plain HTTP server, each below a path of its own.

They stand for agents that somebody else wrote: no TLS, `GET /v1/commands/` and no look at a single command, no heartbeat when a
command ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.daemon import Api

ERASE = {"step": "erase_devices_metadata", "interface": "deploy", "priority": 99, "reboot_requested": False, "abortable": True}


@dataclass
class ForeignAgent:
    """One agent: `boot` is what its machine does when metald starts it."""

    url: str
    node: str
    mac: str
    token: str = ""
    steps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    commands: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """The commands that it was given, in all its boots."""
    told: dict[str, Any] = field(default_factory=dict)
    """What it was told last, by command."""
    images: list[bytes] = field(default_factory=list)

    async def boot(self, api: Api) -> None:
        """Ask who it is, and say that it is here."""
        found = await api.ask("GET", f"/v1/lookup?addresses={self.mac}")
        assert found["node"]["uuid"] == self.node
        self.token, self.commands = found["config"]["agent_token"], []
        await self.beat(api)

    async def beat(self, api: Api, **more: Any) -> None:
        """A heartbeat."""
        told = {"callback_url": self.url, "agent_version": "1.0", "agent_token": self.token, **more}
        await api.ask("POST", f"/v1/heartbeat/{self.node}", told)

    def answer(self, name: str, params: dict[str, Any]) -> Any:
        extension, _, word = name.partition(".")
        if word == f"get_{extension}_steps":
            return {f"{extension}_steps": {"Foreign": self.steps.get(extension, [])}, "hardware_manager_version": {"Foreign": "1"}}
        if word == f"execute_{extension}_step":
            return {f"{extension}_result": None, f"{extension}_step": params["step"]}
        return {}


class ForeignAgents:
    """The server. Use `served`."""

    def __init__(self) -> None:
        self.base = ""
        self._agents: dict[str, ForeignAgent] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def served(cls) -> AsyncIterator[ForeignAgents]:
        made = cls()
        app = web.Application()
        app.router.add_get("/{agent}/v1/commands/", made._list)
        app.router.add_post("/{agent}/v1/commands/", made._run)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.base = f"http://localhost:{runner.addresses[0][1]}"
        try:
            yield made
        finally:
            await runner.cleanup()

    def agent(self, node: str, mac: str, **steps: list[dict[str, Any]]) -> ForeignAgent:
        name = node[:8]
        self._agents[name] = ForeignAgent(f"{self.base}/{name}", node, mac, steps=steps)
        return self._agents[name]

    def _of(self, request: web.Request) -> ForeignAgent:
        agent = self._agents[request.match_info["agent"]]
        if request.query.get("agent_token") != agent.token:
            raise web.HTTPUnauthorized(text='{"faultcode": "Client", "faultstring": "Token invalid."}')
        return agent

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"commands": self._of(request).commands})

    async def _run(self, request: web.Request) -> web.Response:
        agent = self._of(request)
        body = await request.json()
        name, params = body["name"], body["params"]
        agent.names.append(name)
        agent.told[name] = params
        command = {"id": str(uuid.uuid4()), "command_name": name.partition(".")[2], "command_status": "RUNNING"}
        agent.commands.append(command)
        work = asyncio.ensure_future(self._work(command, agent, name, params))
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)
        if request.query.get("wait") == "true":
            await work
        return web.json_response(command)

    async def _work(self, command: dict[str, Any], agent: ForeignAgent, name: str, params: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        command |= {"command_status": "SUCCEEDED", "command_result": agent.answer(name, params), "command_error": None}
