"""Agents that somebody else wrote, and nodes whose hardware is not metald's business: what the wire promises is enough.

A daemon with foreign settings, `fake-hardware`, and agents over plain HTTP that are told apart by their path.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.daemon import Api, Daemon, Refused
from tests.support.daemon import api as calling
from tests.support.foreign_agents import ERASE, ForeignAgent, ForeignAgents

KERNEL = {"deploy_kernel": "FILES/kernel", "deploy_ramdisk": "FILES/ramdisk"}
IMAGE = {"image_source": "http://192.0.2.1/image.raw", "image_checksum": "ab" * 32, "image_disk_format": "raw"}
HOLD = [{"interface": "deploy", "step": "hold", "priority": 75, "args": {}}]
BOOTS = [("fake", {}), ("ipxe", KERNEL), ("pxe", KERNEL)]


class Site:
    """A daemon, and the machines' agents."""

    def __init__(self, daemon: Daemon, agents: ForeignAgents, files: Path) -> None:
        self.daemon, self.agents, self.files = daemon, agents, files
        self.count = 0

    async def enrol(self, api: Api, **fields: Any) -> ForeignAgent:
        self.count += 1
        given = {
            "driver": "fake-hardware",
            "deploy_interface": "direct",
            "boot_interface": "fake",
            "management_interface": "noop",
            "inspect_interface": "agent",
            "rescue_interface": "agent",
            "automated_clean": False,
            **fields,
        }
        node, mac = await api.create(**given), f"52:54:00:00:bb:{self.count:02x}"
        await api.port(node, mac)
        await api.provision(node, "manage")
        await api.wait(node, "manageable")
        return self.agents.agent(node, mac, clean=[ERASE])

    async def available(self, api: Api, **fields: Any) -> ForeignAgent:
        agent = await self.enrol(api, **fields)
        await api.provision(agent.node, "provide")
        await api.wait(agent.node, "available")
        return agent


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    files = tmp_path / "files"
    files.mkdir()
    settings = {
        "boot.tftp_listen": "127.0.0.1:0",
        "agent.require_tls": "false",
        "agent.heartbeat_timeout": 10,
        "agent.power_off_timeout": 0,
        "images.file_roots": files,
    }
    async with Daemon(tmp_path / "daemon", settings) as daemon, ForeignAgents.served() as agents:
        await daemon.start()
        yield Site(daemon, agents, files)
    daemon.assert_clean()


async def deploy(api: Api, agent: ForeignAgent, **info: Any) -> dict[str, Any]:
    await api.patch(agent.node, instance_info={**IMAGE, **info})
    await api.provision(agent.node, "active")
    await api.wait(agent.node, "wait call-back")
    await agent.boot(api)
    return await api.wait(agent.node, "active")


@pytest.mark.parametrize(("boot", "driver_info"), BOOTS)
async def test_a_life(site: Site, boot: str, driver_info: dict[str, str]) -> None:
    """Inspected, cleaned, deployed, rescued, unrescued and undeployed, with the commands in their order."""
    async with calling(site.daemon) as api:
        files = {key: value.replace("FILES", site.files.as_uri()) for key, value in driver_info.items()}
        agent = await site.enrol(api, boot_interface=boot, driver_info=files, automated_clean=True)
        await api.provision(agent.node, "inspect")
        await api.wait(agent.node, "inspect wait")
        found = {"interfaces": [{"name": "eth0", "mac_address": agent.mac}], "cpu": {"architecture": "riscv64", "count": 4}}
        await api.ask("POST", f"/v1/continue_inspection?node_uuid={agent.node}", {"inventory": found})
        node = await api.wait(agent.node, "manageable")
        assert node["properties"]["cpu_arch"] == "riscv64"
        await api.provision(agent.node, "provide")
        await api.wait(agent.node, "clean wait")
        await agent.boot(api)
        node = await api.wait(agent.node, "available")
        assert node["power_state"] == "power off"
        node = await deploy(api, agent)
        assert node["power_state"] == "power on"
        assert "agent_secret_token" not in node["driver_internal_info"]
        await api.provision(agent.node, "rescue", rescue_password="let me in")
        await api.wait(agent.node, "rescue wait")
        await agent.boot(api)
        await api.wait(agent.node, "rescue")
        await api.provision(agent.node, "unrescue")
        await api.wait(agent.node, "active")
        await api.provision(agent.node, "deleted")
        await api.wait(agent.node, "clean wait")
        await agent.boot(api)
        await api.wait(agent.node, "available")
        cleaned = ["clean.get_clean_steps", "clean.execute_clean_step"]
        deployed = ["deploy.get_deploy_steps", "standby.prepare_image", "standby.power_off"]
        assert agent.names == [*cleaned, *deployed, "rescue.finalize_rescue", *cleaned]
        assert agent.told["rescue.finalize_rescue"]["hashed"] is True


async def test_a_file_comes_from_metald_whoever_boots_the_machine(site: Site) -> None:
    data = bytes(range(256)) * 256
    (site.files / "image").write_bytes(data)
    async with calling(site.daemon) as api, aiohttp.ClientSession() as web:
        agent = await site.available(api)
        fetched: list[bytes] = []

        def answer(name: str, params: dict[str, Any]) -> Any:
            if name == "standby.prepare_image":
                fetched.append(params["image_info"])
            return usual(name, params)

        usual, agent.answer = agent.answer, answer  # type: ignore[method-assign]
        await api.patch(agent.node, instance_info={"image_source": (site.files / "image").as_uri(), "image_disk_format": "raw"})
        await api.provision(agent.node, "active", deploy_steps=HOLD)
        await api.wait(agent.node, "wait call-back")
        await agent.boot(api)
        await api.wait(agent.node, "deploy hold")
        (told,) = fetched
        (url,) = told["urls"]
        async with web.get(url) as got:
            assert await got.read() == data
        assert told["os_hash_value"] == hashlib.sha512(data).hexdigest()
        await api.provision(agent.node, "unhold")
        await api.wait(agent.node, "active")
        async with web.get(url) as got:
            assert got.status == 403


async def test_who_says_what_is_not_so_gets_nothing(site: Site) -> None:
    """A stale token, another node's token, a URL that points inside, and a flood."""
    async with calling(site.daemon) as api:
        agent, other = await site.available(api), await site.available(api)
        for one in (agent, other):
            await api.patch(one.node, instance_info=IMAGE)
            await api.provision(one.node, "active", deploy_steps=HOLD)
            await api.wait(one.node, "wait call-back")
        found = await api.ask("GET", f"/v1/lookup?addresses={agent.mac}")
        agent.token = found["config"]["agent_token"]
        again = await api.ask("GET", f"/v1/lookup?addresses={agent.mac}")
        assert again["config"]["agent_token"] == "******"
        with pytest.raises(Refused, match="404"):
            await api.ask("GET", f"/v1/lookup?addresses={agent.mac}&node_uuid={other.node}")
        for token in ("", "x" * 43, None):
            with pytest.raises(Refused, match=r"400.*token"):
                await agent.beat(api, agent_token=token)
        with pytest.raises(Refused, match=r"400.*token"):
            await other.beat(api, agent_token=agent.token)
        for url in ("http://169.254.169.254/latest", site.daemon.url, "http://0.0.0.0:1", "ftp://127.0.0.1", "http://u@127.0.0.1:1"):
            with pytest.raises(Refused, match=r"400.*callback"):
                await agent.beat(api, callback_url=url)
        await agent.beat(api)
        await api.wait(agent.node, "deploy hold")
        for _ in range(200):
            await agent.beat(api)
        await api.provision(agent.node, "unhold")
        await api.wait(agent.node, "active")
        assert agent.names.count("standby.prepare_image") == 1
        with pytest.raises(Refused, match=r"400.*token"):
            await agent.beat(api)


async def test_an_inspection_that_metald_must_boot_and_cannot(tmp_path: Path) -> None:
    async with Daemon(tmp_path / "daemon", {"inspection.require_managed_boot": "true"}) as daemon, ForeignAgents.served() as agents:
        await daemon.start()
        async with calling(daemon) as api:
            agent = await Site(daemon, agents, tmp_path).enrol(api)
            await api.provision(agent.node, "inspect")
            node = await api.wait(agent.node, "inspect failed")
            assert "inspection.require_managed_boot" in node["last_error"]
