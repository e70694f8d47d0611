"""An agent whose behaviour the test writes: the API of the Ironic Python Agent over TLS, and what it says to metald."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from metald.statemachine.agents import Agents
from tests.support.tls import authority

Answer = Callable[[Mapping[str, Any]], Awaitable[Any]]


class Failure(Exception):
    """The command ends like this."""

    def __init__(self, text: str, status: str = "FAILED") -> None:
        super().__init__(text)
        self.status = status


class ScriptedAgent:
    """One boot of an agent. `start` before use, `stop` at the end.

    Args:
        folder: for its certificate.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _, self._certificate, self._key = authority(folder, "localhost")
        self.token = ""
        self.commands: list[dict[str, Any]] = []
        self.given: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Answer] = {}
        self.busy = 0
        self.lose_answers = 0
        self.steps: dict[str, list[dict[str, Any]]] = {"clean": [], "deploy": [], "service": []}
        self.versions = {"test": "1"}
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pem(self) -> str:
        return self._certificate.read_text()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def names(self) -> list[str]:
        """The commands that were given, in order."""
        return [name for name, _ in self.given]

    async def start(self, port: int = 0) -> ScriptedAgent:
        app = web.Application()
        app.router.add_get("/v1/commands/", self._list)
        app.router.add_get("/v1/commands/{id}", self._one)
        app.router.add_post("/v1/commands/", self._run)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self._certificate, self._key)
        await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=tls).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def call(self, agents: Agents, node: str, *, lookup: bool = True) -> None:
        """Look the node up, and say that it is here."""
        if lookup:
            _, token = await agents.lookup(addresses=[], node_uuid=node, called_from="127.0.0.1")
            assert token is not None
            self.token = token
        await agents.heartbeat(
            node,
            callback_url=self.url,
            called_from="127.0.0.1",
            agent_version="13.0.0",
            agent_token=self.token,
            agent_verify_ca=self.pem,
        )

    def _refused(self, request: web.Request) -> web.Response | None:
        if request.query.get("agent_token") != self.token:
            return web.json_response({"faultcode": "Client", "faultstring": "Token invalid."}, status=401)
        return None

    async def _list(self, request: web.Request) -> web.Response:
        return self._refused(request) or web.json_response({"commands": self.commands})

    async def _one(self, request: web.Request) -> web.Response:
        found = [command for command in self.commands if command["id"] == request.match_info["id"]]
        return self._refused(request) or web.json_response(found[0])

    async def _run(self, request: web.Request) -> web.StreamResponse:
        refused = self._refused(request)
        if refused is not None:
            return refused
        if self.busy:
            self.busy -= 1
            return web.json_response({"faultcode": "Client", "faultstring": "Agent is busy"}, status=409)
        body = await request.json()
        name, params = body["name"], body["params"]
        self.given.append((name, params))
        command = {
            "id": str(uuid.uuid4()),
            "command_name": name.rpartition(".")[2],
            "command_params": {},
            "command_status": "RUNNING",
            "command_error": None,
            "command_result": None,
        }
        self.commands.append(command)
        task = asyncio.ensure_future(self._work(command, name, params))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.abort()
            raise web.HTTPBadRequest
        if request.query["wait"] == "true":
            await asyncio.wait([task])
        return web.json_response(command)

    async def _work(self, command: dict[str, Any], name: str, params: Mapping[str, Any]) -> None:
        try:
            found = await self.answers.get(name, self._usual)(params)
            extension, _, word = name.partition(".")
            if word == f"get_{extension}_steps":
                found = {f"{extension}_steps": {"test": self.steps[extension]}, "hardware_manager_version": self.versions}
            elif word == f"execute_{extension}_step":
                found = {f"{extension}_result": found, f"{extension}_step": params["step"]}
            command |= {"command_status": "SUCCEEDED", "command_result": found}
        except Failure as failure:
            command |= {"command_status": failure.status, "command_error": {"type": "Test", "code": 500, "message": str(failure)}}

    async def _usual(self, _: Mapping[str, Any]) -> Any:
        return {}
