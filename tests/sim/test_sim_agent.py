"""The simulated Ironic agent in front of a conductor that checks what it says, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from metald.sim.blade import Blade
from metald.sim.control import image
from metald.sim.rack import Options, Rack

NODE = "5f1e2f5e-7a52-4f0e-9c35-0e0a7d0f0001"
TOKEN = "t" * 43
IMAGE = image(300_000)


class Conductor:
    """Gives a boot script with the agent's kernel line; takes lookups, heartbeats and inventories."""

    def __init__(self) -> None:
        self.url = ""
        self.beats: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.lookups: list[tuple[str, str]] = []
        self.inventories: list[dict[str, Any]] = []
        self.refuse = 1
        self.inspect = False

    async def script(self, request: web.Request) -> web.Response:
        words = f"ipa-api-url={self.url}" + (f" ipa-inspection-callback-url={self.url}/v1/continue_inspection" if self.inspect else "")
        text = f"#!ipxe\nkernel {self.url}/kernel initrd=initramfs {words}\ninitrd {self.url}/kernel\nboot\n"
        return web.Response(text=text if request.path == "/boot.ipxe" else "k" * 5000)

    async def lookup(self, request: web.Request) -> web.Response:
        self.lookups.append((request.query["addresses"], request.headers["X-OpenStack-Ironic-API-Version"]))
        if self.refuse:
            self.refuse -= 1
            return web.Response(status=409)
        return web.json_response({"node": {"uuid": NODE}, "config": {"heartbeat_timeout": 300, "agent_token": TOKEN}})

    async def beat(self, request: web.Request) -> web.Response:
        assert request.match_info["uuid"] == NODE
        assert request.remote is not None
        await self.beats.put((request.remote, await request.json()))
        return web.Response(status=202)

    async def inventory(self, request: web.Request) -> web.Response:
        self.inventories.append(await request.json())
        return web.json_response({"uuid": NODE}, status=202)

    async def raw(self, _: web.Request) -> web.Response:
        return web.Response(body=IMAGE)


@pytest.fixture
async def conductor() -> AsyncIterator[Conductor]:
    made = Conductor()
    app = web.Application()
    app.router.add_get("/boot.ipxe", made.script)
    app.router.add_get("/kernel", made.script)
    app.router.add_get("/image", made.raw)
    app.router.add_get("/v1/lookup", made.lookup)
    app.router.add_post("/v1/heartbeat/{uuid}", made.beat)
    app.router.add_post("/v1/continue_inspection", made.inventory)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def rack(conductor: Conductor) -> AsyncIterator[Rack]:
    async with Rack(Options(nodes=3, seed=1, boot_url=conductor.url, time_scale=0.001)) as made:
        yield made
        assert not made.state()["defects"]


class Caller:
    """Calls one agent as a conductor does."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def ask(self, method: str, path: str, body: object = None, *, token: str = TOKEN) -> tuple[int, Any]:
        joined = f"{self._url}{path}{'&' if '?' in path else '?'}agent_token={token}"
        async with self._session.request(method, joined, json=body) as answer:
            return answer.status, await answer.json()

    async def run(self, name: str, wait: bool = True, **params: Any) -> dict[str, Any]:
        status, result = await self.ask("POST", f"/v1/commands/?wait={'true' if wait else 'false'}", {"name": name, "params": params})
        assert status == 200, result
        found: dict[str, Any] = result
        return found


async def up(conductor: Conductor, rack: Rack) -> tuple[Blade, str]:
    blade = rack.blades["sim-1"]
    blade.bmc.set_power(True)
    async with asyncio.timeout(20):
        peer, beat = await conductor.beats.get()
    assert peer == blade.address
    assert (beat["agent_token"], beat["agent_version"][0]) == (TOKEN, "1")
    assert beat["callback_url"].startswith("https:")
    assert blade.agent is not None
    assert blade.agent.identity.certificate == beat["agent_verify_ca"]
    return blade, beat["callback_url"]


@contextlib.asynccontextmanager
async def trusting(blade: Blade) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that knows the certificate of the agent's heartbeats, as Ironic does, and nothing else."""
    assert blade.agent is not None
    context = ssl.create_default_context(cadata=blade.agent.identity.certificate)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session


async def test_it_deploys_as_the_agent_does(conductor: Conductor, rack: Rack) -> None:
    blade, url = await up(conductor, rack)
    assert conductor.lookups == [(blade.macs[0], "1.68")] * 2
    async with trusting(blade) as session:
        caller = Caller(session, url)
        steps = await caller.run("deploy.get_deploy_steps", node={}, ports=[])
        assert steps["command_result"]["deploy_steps"] == {"GenericHardwareManager": []}
        info = {"id": "i", "urls": [f"{conductor.url}/image"], "os_hash_algo": "sha512", "os_hash_value": hashlib.sha512(IMAGE).hexdigest()}
        started = await caller.run("standby.prepare_image", wait=False, image_info=info, configdrive=None)
        while not conductor.beats.empty():
            conductor.beats.get_nowait()
        while True:
            _, listed = await caller.ask("GET", "/v1/commands/")
            last = listed["commands"][-1]
            if last["command_status"] != "RUNNING":
                break
            await conductor.beats.get()
        assert (last["id"], last["command_status"]) == (started["id"], "SUCCEEDED")
        assert (await caller.ask("GET", f"/v1/commands/{started['id']}"))[1]["command_name"] == "prepare_image"
        assert (await caller.run("image.install_bootloader"))["command_status"] == "SUCCEEDED"
        assert (await caller.run("log.collect_system_logs"))["command_result"]["system_logs"]
        await caller.run("standby.power_off")
    await blade.until(lambda found: not found.bmc.power)
    assert blade.disk.bootable
    assert (blade.counters.writes_done, blade.counters.bytes_written) == (1, len(IMAGE))


async def test_it_refuses_as_the_agent_does(conductor: Conductor, rack: Rack) -> None:
    blade, url = await up(conductor, rack)
    async with trusting(blade) as session:
        caller = Caller(session, url)
        assert (await caller.ask("GET", "/v1/commands/", token="wrong"))[0] == 401
        assert (await caller.ask("POST", "/v1/commands/", {"name": "standby.dance"}))[0] == 404
        assert (await caller.ask("POST", "/v1/commands/", []))[0] == 400
        assert (await caller.ask("GET", "/v1/commands/none"))[0] == 404
        assert (await caller.ask("GET", "/v1/status"))[1]["version"]
        wrong = {"id": "i", "urls": [f"{conductor.url}/image"], "checksum": "0" * 32}
        failed = await caller.run("standby.prepare_image", image_info=wrong)
        assert (failed["command_status"], failed["command_error"]["code"]) == ("FAILED", 500)
        blade.wrongs.slow_disk = 1.0
        await caller.run("standby.prepare_image", wait=False, image_info=wrong)
        status, busy = await caller.ask("POST", "/v1/commands/", {"name": "standby.sync"})
        assert (status, busy["faultstring"]) == (409, "Agent is busy")
        blade.bmc.set_power(False)
        with pytest.raises(aiohttp.ClientError):
            await caller.ask("GET", "/v1/status")


async def test_it_cleans_tells_its_inventory_and_ends_its_service(conductor: Conductor, rack: Rack) -> None:
    conductor.inspect = True
    blade, url = await up(conductor, rack)
    (told,) = conductor.inventories
    assert told["inventory"]["interfaces"][0]["mac_address"] == blade.macs[0]
    blade.disk.write(510, b"\x55\xaa")
    async with trusting(blade) as session:
        caller = Caller(session, url)
        steps = (await caller.run("clean.get_clean_steps"))["command_result"]["clean_steps"]["GenericHardwareManager"]
        done = await caller.run("clean.execute_clean_step", step=steps[0])
        assert done["command_result"] == {"clean_result": None, "clean_step": steps[0]}
        assert not blade.disk.bootable
        assert (await caller.run("rescue.finalize_rescue", rescue_password="x", hashed=True))["command_status"] == "SUCCEEDED"
        with pytest.raises(aiohttp.ClientError):
            await caller.ask("GET", "/v1/status")
