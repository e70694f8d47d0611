"""The whole daemon with a machine behind a simulated BMC: consoles over the API's WebSocket, TCP and SSH."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncssh
import msgspec
import pytest

from metald import app
from metald.config import ConfigError, Console, Settings
from tests.support.bmc import ADMIN, Simulated, simulated
from tests.support.daemon import free_port

_HEADERS = {"X-OpenStack-Ironic-API-Version": "1.115"}


class Site:
    """A daemon, its API, and one machine."""

    def __init__(self, settings: Settings, server: Simulated, ssh_key: asyncssh.SSHKey) -> None:
        self.settings, self.server, self.key = settings, server, ssh_key
        self.http: aiohttp.ClientSession
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with app.running(self.settings) as daemon, aiohttp.ClientSession(headers=_HEADERS) as self.http:
            self.url = daemon.url
            yield

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        async with self.http.request(method, self.url + path, json=body) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json() if answer.content_length else None

    async def enrol(self, name: str, **more: Any) -> str:
        info = {
            "ipmi_address": self.server.address,
            "ipmi_port": self.server.port,
            "ipmi_username": ADMIN.name,
            "ipmi_password": ADMIN.password,
        }
        body = {"name": name, "driver": "ipmi", "driver_info": {**info, **more.pop("driver_info", {})}, **more}
        return str((await self.call("POST", "/v1/nodes", body))["uuid"])

    async def enable(self, name: str, enabled: bool = True) -> dict[str, Any]:
        await self.call("PUT", f"/v1/nodes/{name}/states/console", {"enabled": enabled})
        async with asyncio.timeout(20):
            while True:
                found: dict[str, Any] = await self.call("GET", f"/v1/nodes/{name}/states/console")
                if found["console_enabled"] is enabled:
                    return found
                await asyncio.sleep(0.02)

    def ssh(self, name: str) -> Any:
        port = int(self.settings.console.ssh_listen.rpartition(":")[2])
        return asyncssh.connect("127.0.0.1", port, username=name, client_keys=[self.key], known_hosts=None, config=None, agent_path=None)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    key = asyncssh.generate_private_key("ssh-ed25519")
    keys = tmp_path / "keys"
    keys.write_bytes(key.export_public_key())
    console = Console(
        ssh_listen=f"127.0.0.1:{free_port()}", ssh_authorized_keys=str(keys), port_range=f"{free_port()}:40000", keepalive=0.2
    )
    settings = Settings(state_dir=str(tmp_path / "state"), console=console)
    settings = msgspec.structs.replace(settings, api=msgspec.structs.replace(settings.api, listen=f"127.0.0.1:{free_port()}"))
    async with simulated() as server:
        server.bmc.power = True
        server.bmc.on_input = lambda typed: server.bmc.print(typed.upper())
        yield Site(settings, server, key)


async def socket_sees(socket: aiohttp.ClientWebSocketResponse, text: bytes) -> bytes:
    found = b""
    async with asyncio.timeout(20):
        while text not in found:
            found += await socket.receive_bytes()
    return found


async def test_all_ways_lead_to_one_console(site: Site) -> None:
    async with site.running():
        uuid = await site.enrol("m1")
        assert (await site.call("GET", "/v1/nodes/m1/states/console"))["console_info"] is None
        info = (await site.enable("m1"))["console_info"]
        assert info["type"] == "websocket"
        assert info["url"].startswith(f"ws{site.url.removeprefix('http')}/v1/console/{uuid}?token=")
        async with site.http.ws_connect(info["url"]) as socket, site.ssh("m1") as connection:
            await socket_sees(socket, b"console of m1 connected")
            process = await connection.create_process(encoding=None, term_type="vt100")
            await socket.send_bytes(b"from the browser ")
            await socket_sees(socket, b"FROM THE BROWSER ")
            async with asyncio.timeout(20):
                assert b"connected" in await process.stdout.readuntil(b"FROM THE BROWSER ")
            process.stdin.write(b"from ssh")
            await socket_sees(socket, b"FROM SSH")
            process.channel.send_break(100)
            await socket.send_str("text")
            await socket_sees(socket, b"TEXT")
            async with asyncio.timeout(20):
                while site.server.bmc.sol is None or not site.server.bmc.sol.breaks:
                    await asyncio.sleep(0.02)
            await site.enable("m1", False)
            assert (await socket.receive()).type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.CLOSE)
            async with asyncio.timeout(20):
                await process.wait()
    log = (Path(site.settings.state_dir) / "console" / f"{uuid}.log").read_bytes()
    assert b"FROM SSH" in log


async def test_the_socket_asks_for_its_token_and_ssh_for_a_key(site: Site) -> None:
    async with site.running():
        uuid = await site.enrol("m1")
        url = (await site.enable("m1"))["console_info"]["url"]
        for wrong, status in ((re.sub("token=.*", "token=x", url), 403), (url.partition("?")[0], 403)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await site.http.ws_connect(wrong)
            assert error.value.status == status
        async with site.http.get(url.replace("ws", "http", 1)) as answer:
            assert answer.status == 426
        site.key = asyncssh.generate_private_key("ssh-ed25519")
        with pytest.raises(asyncssh.PermissionDenied):
            await site.ssh("m1")
        await site.enable("m1", False)
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await site.http.ws_connect(url)
        assert (error.value.status, uuid in url) == (404, True)


async def test_ssh_says_what_is_wrong(site: Site) -> None:
    async with site.running():
        await site.enrol("m1")
        for name, words in (("nobody", "could not be found"), ("m1", "is not enabled")):
            async with site.ssh(name) as connection:
                result = await connection.run(encoding=None, stdin=asyncssh.DEVNULL)
                assert words in result.stderr.decode()
                assert result.exit_status == 1
        await site.enable("m1")
        async with site.ssh("m1") as connection:
            assert "no commands" in (await connection.run("reboot")).stderr


async def test_an_enabled_console_is_open_again_after_a_restart_and_its_port_stays(site: Site) -> None:
    async with site.running():
        await site.enrol("m1", console_interface="ipmitool-socat")
        first = (await site.enable("m1"))["console_info"]
        assert first["type"] == "socat"
    async with site.running():
        async with asyncio.timeout(20):
            while (found := await site.call("GET", "/v1/nodes/m1/states/console"))["console_info"] != first:
                await asyncio.sleep(0.02)
        host, _, port = found["console_info"]["url"].removeprefix("tcp://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(20):
            await reader.readuntil(b"connected]")
            writer.write(b"hello")
            await reader.readuntil(b"HELLO")
        site.server.bmc.restart()
        async with asyncio.timeout(30):
            await reader.readuntil(b"Trying to reconnect]")
            await reader.readuntil(b"connected]")
            writer.write(b"again")
            await reader.readuntil(b"AGAIN")
        await site.call("DELETE", "/v1/nodes/m1")
        async with asyncio.timeout(20):
            assert b"the console is closed" in await reader.read()
        writer.close()


async def test_a_console_that_cannot_be_resumed_is_disabled_with_the_reason(site: Site) -> None:
    async with site.running():
        await site.enrol("m1", console_interface="ipmitool-socat")
        await site.enable("m1")
    settings = site.settings
    site.settings = msgspec.structs.replace(settings, console=msgspec.structs.replace(settings.console, port_range=""))
    async with site.running(), asyncio.timeout(20):
        while (node := await site.call("GET", "/v1/nodes/m1"))["console_enabled"]:
            await asyncio.sleep(0.02)
        assert "ipmi_terminal_port" in node["last_error"]


async def test_ssh_without_a_file_of_keys_is_a_wrong_setting(site: Site) -> None:
    console = msgspec.structs.replace(site.settings.console, ssh_authorized_keys="/nowhere")
    site.settings = msgspec.structs.replace(site.settings, console=console)
    with pytest.raises(ConfigError, match="ssh_authorized_keys"):
        async with site.running():
            pass
