"""The HTTPS server of all simulated agents: the address that a connection came to says whose certificate and whose API it gets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from metald.sim.agent import AGENT_VERSION, Agent, Refused
from metald.sim.listen import Listener

_LARGEST = 64 << 20


class AgentServer:
    """See the module.

    Args:
        find: the agent that runs at an address, or None.
    """

    def __init__(self, find: Callable[[str], Agent | None]) -> None:
        self._find = find
        self._listener = Listener(self._greet, "simulated agent")
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._listener.port

    async def start(self, port: int = 0) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application(client_max_size=_LARGEST)
        app.router.add_get("/v1/status", self._status)
        app.router.add_post("/v1/commands", self._command)
        app.router.add_post("/v1/commands/", self._command)
        app.router.add_get("/v1/commands", self._list)
        app.router.add_get("/v1/commands/", self._list)
        app.router.add_get("/v1/commands/{id}", self._one)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        self._listener.start(port)

    async def close(self) -> None:
        """End."""
        await self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _greet(self, sock: socket.socket, address: str) -> None:
        agent = self._find(address)
        assert self._runner is not None
        if agent is None or not agent.serving or self._runner.server is None:
            sock.close()  # nothing listens there
            return
        with suppress(OSError):  # the client went away, or does not trust the certificate
            await asyncio.get_running_loop().connect_accepted_socket(self._runner.server, sock, ssl=agent.identity.context())

    def _agent(self, request: web.Request) -> Agent:
        own = request.transport.get_extra_info("sockname") if request.transport else None
        agent = self._find(own[0]) if own else None
        if agent is None or not agent.serving:
            if request.transport is not None:
                request.transport.abort()  # nothing listens there any more
            raise Refused(503, "no agent")
        return agent

    async def _status(self, request: web.Request) -> web.StreamResponse:
        try:
            self._agent(request)
        except Refused as error:
            return _refused(error)
        return web.json_response({"started_at": 0.0, "version": AGENT_VERSION})

    async def _command(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        try:
            agent = self._agent(request)
            body = await request.json()
            name, params = str(body["name"]), body.get("params") or {}
            return web.json_response(await agent.obey(query.get("agent_token"), name, params, wait=query.get("wait") == "true"))
        except Refused as error:
            return _refused(error)
        except (ValueError, KeyError, TypeError, AttributeError):
            return _refused(Refused(400, "Missing or invalid name or params."))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        try:
            return web.json_response({"commands": self._agent(request).listed(request.query.get("agent_token"))})
        except Refused as error:
            return _refused(error)

    async def _one(self, request: web.Request) -> web.StreamResponse:
        try:
            commands = self._agent(request).listed(request.query.get("agent_token"))
            found = next((one for one in commands if one["id"] == request.match_info["id"]), None)
            if found is None:
                raise Refused(404, "Command not found")
            return web.json_response(found)
        except Refused as error:
            return _refused(error)


def _refused(error: Refused) -> web.Response:
    return web.json_response({"faultcode": "Client", "faultstring": str(error)}, status=error.status)
