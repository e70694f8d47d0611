"""The deploy interfaces `ramdisk`, `custom-agent`, `anaconda`, `bootc` and `autodetect`: what is booted, told and waited for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.boot import instance
from metald.boot.files import BootFiles
from metald.boot.render import Asker
from metald.drivers.agent.anaconda import AnacondaDeploy
from metald.drivers.agent.autodetect import AutodetectDeploy
from metald.drivers.agent.base import CustomAgentDeploy
from metald.drivers.agent.bootc import BootcDeploy
from metald.drivers.agent.deploy import AgentDeploy
from metald.drivers.agent.netboot import RamdiskDeploy
from metald.drivers.registry import Registry
from metald.drivers.types import BUILT_IN, FAKE
from metald.errors import Invalid
from metald.images import kickstart
from metald.images.cache import ImageCache
from metald.model import Node, ProvisionState, Verb
from metald.model.caller import SYSTEM
from metald.statemachine.agents import MASKED, Agents
from tests.support.agent_house import settings
from tests.support.boot_fleet import MAC, Fleet, boot_settings
from tests.support.house import SCRIPTED, House
from tests.support.registry import StrictRegistry, descriptor, manifest
from tests.support.scripted_agent import ScriptedAgent

P = ProvisionState
HTTP = "http://192.0.2.1"
NETBOOT = {"kernel": f"{HTTP}/vmlinuz", "ramdisk": f"{HTTP}/initrd.img"}
ANACONDA = {**NETBOOT, "stage2": f"{HTTP}/stage2", "image_source": f"{HTTP}/image.tar"}
ASKER = Asker("http://10.0.0.1:6386", (MAC,), "http://10.0.0.1:6385")


class Interfaces(House):
    """A house whose nodes may use every deploy interface with an agent."""

    def registry(self) -> Registry:
        found = super().registry()
        cache = ImageCache(self.settings.images, self.state_dir)
        self.direct = AgentDeploy(self.settings, cache)
        others = [
            kind(self.settings, cache, self.direct.client)
            for kind in (CustomAgentDeploy, RamdiskDeploy, AnacondaDeploy, BootcDeploy, AutodetectDeploy)
        ]
        return Registry([SCRIPTED, FAKE], [*found._interfaces.values(), self.direct, *others])

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[Interfaces]:
        async with self.open():
            self.agents = Agents(self.store, self.engine, self.settings, self.direct.alive)
            try:
                yield self
            finally:
                await self.direct.client.close()

    async def deploying(self, interface: str, info: dict[str, Any]) -> str:
        node = await self.add(
            driver="fake-hardware",
            deploy_interface=interface,
            boot_interface="fake",
            power_interface="fake",
            provision_state=P.AVAILABLE,
            instance_info=info,
        )
        await self.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM)
        return node.uuid


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Interfaces]:
    async with Interfaces(tmp_path / "house", settings()).living() as made:
        yield made


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[ScriptedAgent]:
    made = await ScriptedAgent(tmp_path / "agent").start()
    yield made
    await made.stop()


@pytest.mark.parametrize("name", ["ramdisk", "custom-agent", "anaconda", "bootc", "autodetect"])
@pytest.mark.parametrize("driver", ["ipmi", "ssh", "fake-hardware"])
def test_hardware_types_admit_them(driver: str, name: str) -> None:
    assert name in next(kind for kind in BUILT_IN if kind.name == driver).interfaces["deploy"]


async def test_a_ramdisk_instance_is_active_without_a_disk_being_written(house: Interfaces) -> None:
    uuid = await house.deploying("ramdisk", {"boot_iso": f"{HTTP}/live.iso"})
    node = await house.until(uuid, P.ACTIVE)
    assert node.power_state == "power on"
    assert [step.step for step in house.workflows(uuid)[0].steps] == [
        "prepare",
        "power_off",
        "configure_tenant_networks",
        "prepare_instance",
        "set_boot_device",
        "power_on",
    ]


async def test_steps_that_need_an_agent_do_not_go_with_a_ramdisk_instance(house: Interfaces) -> None:
    node = await house.add(driver="fake-hardware", deploy_interface="ramdisk", boot_interface="fake", provision_state=P.AVAILABLE)
    asked = [{"interface": "deploy", "step": "inject_files", "args": {}, "priority": 50}]
    with pytest.raises(Invalid, match="needs a ramdisk"):
        await house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM, deploy_steps=asked)


async def test_a_custom_agent_does_what_its_own_steps_do(house: Interfaces, agent: ScriptedAgent) -> None:
    agent.steps["deploy"] = [{"step": "pour", "interface": "deploy", "priority": 75, "reboot_requested": False}]
    uuid = await house.deploying("custom-agent", {})
    await house.until(uuid, P.WAIT_CALL_BACK)
    await agent.call(house.agents, uuid)
    await house.until(uuid, P.ACTIVE)
    assert agent.names() == ["deploy.get_deploy_steps", "deploy.execute_deploy_step", "standby.power_off"]


async def test_a_container_is_installed_by_bootc(house: Interfaces, agent: ScriptedAgent) -> None:
    info = {"image_source": "oci://registry.example/os:1", "image_pull_secret": "pull", "bootc_tpm2_luks": True, "other": "not told"}
    uuid = await house.deploying("bootc", info)
    await house.until(uuid, P.WAIT_CALL_BACK)
    await agent.call(house.agents, uuid)
    await house.until(uuid, P.ACTIVE)
    assert dict(agent.given)["standby.execute_bootc_install"] == {
        "image_source": info["image_source"],
        "instance_info": {"bootc_tpm2_luks": True},
        "pull_secret": "cHVsbA==",
        "configdrive": None,
    }


@pytest.mark.parametrize("end", ["end", "error"])
async def test_an_installer_reports_its_end(house: Interfaces, end: str) -> None:
    uuid = await house.deploying("anaconda", ANACONDA)
    node = await house.until(uuid, P.WAIT_CALL_BACK)
    token = node.driver_internal_info["agent_secret_token"]
    assert (await house.agents.lookup(addresses=[], node_uuid=uuid, called_from="192.0.2.9"))[1] == MASKED
    text = kickstart.render(node, f"{HTTP}/v1/heartbeat/{uuid}")
    assert text.count(token) == 3
    assert f"liveimg --url {ANACONDA['image_source']}" in text

    async def beat(status: str) -> None:
        await house.agents.heartbeat(uuid, callback_url="", agent_token=token, agent_status=status, agent_status_message="so it is")

    with pytest.raises(Invalid, match="token"):
        await house.agents.heartbeat(uuid, callback_url="", agent_token="wrong", agent_status="end")
    await beat("start")
    await house.until(uuid, P.WAIT_CALL_BACK)
    await beat(end)
    node = await house.until(uuid, P.ACTIVE if end == "end" else P.DEPLOY_FAILED)
    assert node.power_state == ("power on" if end == "end" else "power off")
    assert "agent_secret_token" not in node.driver_internal_info
    assert end == "end" or "so it is" in (node.last_error or "")


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ({}, "direct"),
        ({"image_source": f"{HTTP}/image.qcow2"}, "direct"),
        ({**NETBOOT, "image_source": f"{HTTP}/part.raw"}, "direct"),
        ({**NETBOOT, "ironic_ramdisk_deploy": True}, "ramdisk"),
        ({"boot_iso": f"{HTTP}/x.iso", "ironic_ramdisk_deploy": True}, "ramdisk"),
        ({"image_source": "oci://registry.example/os:1"}, "autodetect"),  # which the registry's manifest says
        (ANACONDA, "anaconda"),
        ({**NETBOOT, "image_source": f"{HTTP}/tree/"}, "anaconda"),
    ],
)
async def test_the_image_says_which_interface_deploys_it(house: Interfaces, info: dict[str, Any], name: str) -> None:
    node = Node(driver="fake-hardware", deploy_interface="autodetect", instance_info=info)
    assert house.registry().for_node(node, "deploy").name == name


CONTAINER = "application/vnd.oci.image.config.v1+json"
ARCHIVE = "application/vnd.oci.image.layer.v1.tar+gzip"
DISK = (bytes(510) + b"\x55\xaa").ljust(1 << 20, b"\0")


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[tuple[Interfaces, StrictRegistry]]:
    """A house that deploys from a registry, which has a container and a disk image."""
    async with StrictRegistry().running() as registry:
        config = descriptor(b"{}", CONTAINER)
        container = manifest(descriptor(b"root", ARCHIVE), descriptor(b"more", ARCHIVE), config=config)
        await registry.put([b"root", b"more"], {"container": container})
        await registry.put_image("disk", DISK)
        base = settings()
        boot = msgspec.structs.replace(base.boot, http_listen="127.0.0.1:6386", http_url=HTTP)
        images = msgspec.structs.replace(base.images, plain_registries=[registry.host])
        async with Interfaces(tmp_path / "shop", msgspec.structs.replace(base, boot=boot, images=images)).living() as made:
            yield made, registry


@pytest.mark.parametrize(
    ("tag", "command", "steps"),
    [
        ("container", "standby.execute_bootc_install", ["execute_bootc_install", "set_boot_to_disk"]),
        ("disk", "standby.prepare_image", ["write_image", "prepare_instance_boot"]),
    ],
)
async def test_the_registry_says_which_interface_deploys_its_image(
    shop: tuple[Interfaces, StrictRegistry], agent: ScriptedAgent, tag: str, command: str, steps: list[str]
) -> None:
    house, registry = shop
    uuid = await house.deploying("autodetect", {"image_source": registry.url(tag), "image_pull_secret": registry.login})
    await house.until(uuid, P.WAIT_CALL_BACK)
    await agent.call(house.agents, uuid)
    node = await house.until(uuid, P.ACTIVE)
    assert node.deploy_interface == "autodetect"
    assert command in agent.names()
    assert not {"standby.execute_bootc_install", "standby.prepare_image"} - {command} & set(agent.names())
    done = [step.step for step in house.workflows(uuid)[0].steps]
    assert done[:2] == ["prepare", "prepare"]
    assert [step for step in done if step in ("execute_bootc_install", "set_boot_to_disk", "write_image", "prepare_instance_boot")] == steps
    # the next deployment looks anew, since a tag may mean something else by then
    registry.manifests[tag] = registry.manifests["disk" if tag == "container" else "container"]
    await house.conductor.provision(uuid, Verb.REBUILD, SYSTEM)
    await house.until(uuid, P.WAIT_CALL_BACK)
    await agent.call(house.agents, uuid)
    await house.until(uuid, P.ACTIVE)
    assert {"standby.execute_bootc_install", "standby.prepare_image"} <= set(agent.names())


async def test_a_registry_that_has_no_such_image(shop: tuple[Interfaces, StrictRegistry]) -> None:
    house, registry = shop
    uuid = await house.deploying("autodetect", {"image_source": registry.url("nothing"), "image_pull_secret": registry.login})
    node = await house.until(uuid, P.DEPLOY_FAILED)
    assert "Check the name and the tag." in (node.last_error or "")


async def test_a_registry_image_is_checked_before_anything_is_asked(house: Interfaces) -> None:
    for info, words in (({"image_source": "oci://registry.example/UPPER"}, "no image of a registry"), ({"configdrive": 7}, "config drive")):
        with pytest.raises(Invalid, match=words):
            await house.deploying("autodetect", {"image_source": "oci://registry.example/os:1", **info})


# -- what machines boot


def booting(tmp_path: Path, boot: dict[str, str], **fields: Any) -> tuple[BootFiles, Node]:
    fleet = Fleet()
    node = fleet.add(MAC, driver_internal_info=instance.with_instance({}, boot), **fields)
    return BootFiles(fleet, boot_settings(tmp_path)), node


def test_an_iso_is_booted_from_its_server_or_from_metald(tmp_path: Path) -> None:
    files, _ = booting(tmp_path, {"kind": "iso", "iso": f"{HTTP}/live.iso"})
    assert f"sanboot --no-describe {HTTP}/live.iso || goto again" in str(files.script(ASKER).content)
    files, node = booting(tmp_path, {"kind": "iso", "iso": "file:///srv/live.iso"})
    token = node.driver_internal_info[instance.TOKEN]
    assert f"sanboot --no-describe {ASKER.base_url}/boot/{node.uuid}/{token}/boot_iso" in str(files.script(ASKER).content)
    assert instance.check_token(node, token)
    assert not instance.check_token(node, "")
    assert not instance.check_token(None, token)
    refused = files.find(f"pxelinux.cfg/01-{MAC.replace(':', '-')}", ASKER)
    assert "boots no ISO image" in refused.error
    assert "LOCALBOOT" in str(refused.content)


def test_a_kernel_gets_the_operators_parameters(tmp_path: Path) -> None:
    files, node = booting(tmp_path, {"kind": "ramdisk", **NETBOOT}, instance_info={"kernel_append_params": "quiet a=b"})
    place = f"{ASKER.base_url}/boot/{node.uuid}/{node.driver_internal_info[instance.TOKEN]}"
    text = str(files.script(ASKER).content)
    assert f"kernel --name kernel {place}/instance_kernel initrd=initramfs root=/dev/ram0 text quiet a=b ||" in text
    assert f"initrd --name initramfs {place}/instance_ramdisk ||" in text


def test_an_installer_is_led_to_its_kickstart_file(tmp_path: Path) -> None:
    boot = {"kind": "anaconda", **NETBOOT, "stage2": f"{HTTP}/stage2"}
    files, node = booting(tmp_path, boot)
    text = str(files.script(ASKER).content)
    token = node.driver_internal_info[instance.TOKEN]
    assert f"inst.ks={ASKER.base_url}/boot/{node.uuid}/{token}/ks.cfg inst.stage2={HTTP}/stage2 ||" in text
    assert instance.with_instance(node.driver_internal_info, boot)[instance.TOKEN] == token
    assert instance.with_instance(node.driver_internal_info, {**boot, "repo": "x"})[instance.TOKEN] != token


@pytest.mark.parametrize("url", ["http://h/a b", "http://h/${x}", "ftp://h/x", "http://h/x\nshell", "file://etc/../x;y"])
def test_urls_that_would_be_commands_are_refused(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        instance.checked(Node(driver="ipmi"), {"kind": "iso", "iso": url})
    assert refused.value.field == "instance_info/boot_iso"


# -- kickstart files


def installing(**info: Any) -> Node:
    return Node(driver="ipmi", instance_info={**ANACONDA, **info}, driver_internal_info={"agent_secret_token": "t" * 43})


def test_a_kickstart_file_has_the_config_drive_and_the_tree() -> None:
    drive = {"meta_data": {"hostname": "h'1"}, "user_data": "#cloud"}
    text = kickstart.render(installing(configdrive=drive, image_source=f"{HTTP}/tree/"), "http://api/v1/heartbeat/u")
    assert f"url --url {HTTP}/tree/" in text
    assert "liveimg" not in text
    assert "/var/lib/cloud/seed/config_drive/openstack/latest/user_data" in text
    assert "{{" not in text
    assert "{%" not in text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ ks_options.agent_token }}", "lacks ks_options.heartbeat_url"),
        ("{{ ks_options.agent_token }}{{ ks_options.heartbeat_url }}{{ ks_options.shadow }}", "shadow does not exist"),
        ("{% if 'is_source_a_path' in ks_options %}", "does not end"),
        ("{% endif %}", "without if"),
        ("{% else %}", "without if"),
    ],
)
def test_templates_that_cannot_work_are_refused(template: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        kickstart.check(template, "n")
    assert refused.value.field == "instance_info/ks_template"


@given(st.text(st.sampled_from("{}%' abc_.-\n"), max_size=60))
def test_no_template_runs_anything(template: str) -> None:
    with contextlib.suppress(Invalid):
        kickstart.check(template, "n")


def test_metalds_own_template_works() -> None:
    kickstart.check(kickstart.DEFAULT, "n")
