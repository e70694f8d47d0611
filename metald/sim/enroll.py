"""Registers a simulated fleet with a daemon by its API, and has it deployed, as an operator's own scripts would.

Any conductor that speaks Ironic's API will do. Rules: a bounded number of requests is in flight; a node that is there already
is taken as it is, so that a second run goes on; what the API refuses is told with its words.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from metald.sim.blade import Blade

MICROVERSION: Final = "1.95"
_AT_ONCE = 64
_PAGE = 1000
_LOOK = 0.5
_TELL = 20.0
_CONFLICT = 409
Say = Callable[[str], None]


class EnrollError(Exception):
    """The daemon does not take the fleet; the text is what it said."""


class Enroller:
    """A client of the API. An async context manager.

    Args:
        url: of the API; `http://user:password@host:port` where it wants a password.
        driver: hardware type of the nodes.
        say: told what is being done.
    """

    def __init__(self, url: str, *, driver: str = "ipmi", deploy_interface: str = "", say: Say = lambda _: None) -> None:
        parts = urlsplit(url.rstrip("/"))
        self._base = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        self._auth = aiohttp.BasicAuth(parts.username, parts.password or "") if parts.username else None
        self._driver = driver
        self._deploy_interface = deploy_interface
        self._say = say
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._web: aiohttp.ClientSession
        self.uuids: dict[str, str] = {}

    async def __aenter__(self) -> Enroller:
        self._web = aiohttp.ClientSession(
            headers={"X-OpenStack-Ironic-API-Version": MICROVERSION},
            auth=self._auth,
            timeout=aiohttp.ClientTimeout(total=120),
            connector=aiohttp.TCPConnector(limit=_AT_ONCE),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._web.close()

    async def _ask(self, method: str, path: str, body: object = None, *, known: int = 0) -> Any:
        async with self._gate:
            try:
                async with self._web.request(method, self._base + path, json=body) as answer:
                    text = await answer.text()
                    if answer.status >= 400 and answer.status != known:
                        raise EnrollError(f"{method} {path} answered {answer.status}: {text[:400]}")
                    return json.loads(text) if text and answer.status < 400 else None
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                raise EnrollError(f"{method} {self._base}{path}: {error or type(error).__name__}") from None

    async def _each(self, work: Sequence[Awaitable[Any]]) -> list[Any]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_wait(one)) for one in work]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    # -- what an operator does

    async def enroll(self, blades: Sequence[Blade], *, port: int, user: str, password: str) -> None:
        """Make nodes and ports of machines, and have them managed and made available.

        Args:
            port: UDP port of the BMCs.
            user: the BMCs' account.
            password: its password.

        Raises:
            EnrollError: the daemon does not take them.
        """
        begun = time.monotonic()
        self.uuids = await self._found()
        missing = [blade for blade in blades if blade.name not in self.uuids]
        await self._each([self._node(blade, port, user, password) for blade in missing])
        self._say(f"{len(missing)} nodes and ports were registered in {time.monotonic() - begun:.1f} s")
        states = await self.states(blades)
        fresh = [self.uuids[blade.name] for blade in blades if states.get(blade.name) == "enroll"]
        await self.move(fresh, "manage")
        await self.until_none(blades, "verifying")
        states = await self.states(blades)
        await self.move([self.uuids[blade.name] for blade in blades if states.get(blade.name) == "manageable"], "provide")
        await self.until_none(blades, "cleaning", "clean wait")
        self._say(f"enrolled in {time.monotonic() - begun:.1f} s: {_counted(await self.states(blades))}")

    async def _node(self, blade: Blade, port: int, user: str, password: str) -> None:
        body: dict[str, Any] = {
            "driver": self._driver,
            "name": blade.name,
            "driver_info": {
                "ipmi_address": blade.bmc.address,
                "ipmi_port": port,
                "ipmi_username": user,
                "ipmi_password": password,
            },
            "properties": {"cpus": 16, "memory_mb": 65536, "local_gb": blade.disk.size >> 30, "cpu_arch": "x86_64"},
            "resource_class": "simulated",
        }
        if self._deploy_interface:
            body["deploy_interface"] = self._deploy_interface
        made = await self._ask("POST", "/v1/nodes", body)
        self.uuids[blade.name] = made["uuid"]
        for address in blade.macs:
            await self._ask("POST", "/v1/ports", {"node_uuid": made["uuid"], "address": address})

    async def _found(self) -> dict[str, str]:
        return {node["name"]: node["uuid"] async for node in self._nodes("uuid,name")}

    async def _nodes(self, fields: str) -> Any:
        marker = ""
        while True:
            page = await self._ask("GET", f"/v1/nodes?fields={fields}&limit={_PAGE}{marker}")
            for node in page["nodes"]:
                yield node
            if not page.get("next") or not page["nodes"]:
                return
            marker = f"&marker={page['nodes'][-1]['uuid']}"

    async def states(self, blades: Sequence[Blade]) -> dict[str, str]:
        """The provision state of each machine's node."""
        wanted = {blade.name for blade in blades}
        return {node["name"]: node["provision_state"] async for node in self._nodes("uuid,name,provision_state") if node["name"] in wanted}

    async def move(self, uuids: Sequence[str], target: str) -> None:
        """Ask for a provision verb of each node."""
        await self._each([self._ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": target}) for uuid in uuids])

    async def until_none(self, blades: Sequence[Blade], *states: str) -> None:
        """Wait until no node is in one of `states`."""
        while True:
            found = await self.states(blades)
            if not any(state in states for state in found.values()):
                return
            await asyncio.sleep(_LOOK)

    async def deploy(self, blades: Sequence[Blade], image: str, checksum: str) -> Figures:
        """Have every node that is available deployed, and wait for the end.

        Raises:
            EnrollError: the daemon refuses.
        """
        states = await self.states(blades)
        chosen = [blade for blade in blades if states.get(blade.name) == "available"]
        uuids = [self.uuids[blade.name] for blade in chosen]
        info = [
            {"op": "add", "path": "/instance_info/image_source", "value": image},
            {"op": "add", "path": "/instance_info/image_checksum", "value": checksum},
        ]
        await self._each([self._ask("PATCH", f"/v1/nodes/{uuid}", info, known=_CONFLICT) for uuid in uuids])
        begun = time.monotonic()
        await self.move(uuids, "active")
        accepted = time.monotonic() - begun
        left = {"available", "deploying", "wait call-back"}
        moments: list[float] = []
        told = accepted
        while True:
            found = await self.states(chosen)
            now = time.monotonic() - begun
            if now - told > _TELL:
                self._say(f"after {now:.0f} s: {_counted(found)}")
                told = now
            moments += [now] * (sum(state not in left for state in found.values()) - len(moments))
            if len(moments) >= len(chosen):
                return Figures(len(chosen), accepted, now, dict(Counter(found.values())), moments)
            await asyncio.sleep(_LOOK)


class Figures:
    """How a deployment of the fleet went.

    Args:
        nodes: how many were asked for.
        accepted: seconds until all requests were answered.
        wall: seconds until the last ended.
        states: how many ended how.
        moments: seconds after which each had ended, as often as it was looked.
    """

    def __init__(self, nodes: int, accepted: float, wall: float, states: dict[str, int], moments: Sequence[float]) -> None:
        self.nodes, self.accepted, self.wall, self.states = nodes, accepted, wall, states
        self._moments = moments

    def __str__(self) -> str:
        if not self.nodes:
            return "no node was available"
        half = self._moments[len(self._moments) // 2]
        rate = self.nodes / max(self.wall, 0.001)
        ends = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        return (
            f"{self.nodes} deployments: accepted in {self.accepted:.1f} s, half of them over after {half:.1f} s, "
            f"all after {self.wall:.1f} s ({rate:.1f} a second): {ends}"
        )


async def _wait(one: Awaitable[Any]) -> Any:
    return await one


def _counted(states: dict[str, str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(Counter(states.values()).items()))
