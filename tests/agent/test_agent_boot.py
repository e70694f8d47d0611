"""What a machine with the Ironic Python Agent in its ramdisk is booted with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from metald.boot.dhcp import provider
from metald.boot.files import BootFiles
from metald.boot.fills import Remote, fills_of
from metald.boot.interface import IpxeBoot
from metald.boot.render import Asker
from metald.config import Images, Settings
from metald.errors import Invalid
from metald.images.cache import ImageCache
from metald.model import Node
from tests.support.boot_fleet import MAC, Fleet, boot_settings
from tests.support.far_server import far_server


class Context:
    """The part of a StepContext that a boot interface uses."""

    def __init__(self, fleet: Fleet, node: Node) -> None:
        self._fleet, self._uuid = fleet, node.uuid
        self.ports = fleet.ports(node.uuid)
        self.memo: dict[str, Any] = {}
        self.deploy = SimpleNamespace(agent=True, netboots=False, instance_boot=lambda *_: None)
        self.rescue = self.inspect = SimpleNamespace(agent=False)

    @property
    def node(self) -> Node:
        return self._fleet.nodes[self._uuid]

    def set(self, **fields: Any) -> None:
        self._fleet.change(self.node, **fields)

    async def checkpoint(self) -> None:
        pass


def site(folder: Path, **agent: Any) -> Settings:
    base = boot_settings(folder)
    return msgspec.structs.replace(base, agent=msgspec.structs.replace(base.agent, **agent))


async def booted(settings: Settings, **driver_info: Any) -> tuple[Fleet, Node]:
    fleet = Fleet()
    context: Any = Context(fleet, fleet.add(MAC, driver_info=driver_info))
    interface = IpxeBoot(settings, provider(settings), fills_of(settings))
    await interface.validate(context)
    await interface.prepare_ramdisk(context, "deploy")
    return fleet, context.node


async def test_the_kernel_line_leads_the_agent_to_the_api(tmp_path: Path) -> None:
    settings = site(tmp_path, api_url="https://api.example:6385/")
    fleet, node = await booted(settings)
    text = str(BootFiles(fleet, settings).script(Asker("http://192.0.2.1:6386", (MAC,))).content)
    place = f"boot/{node.uuid}/{node.driver_internal_info['boot_token']}"
    assert f"kernel --name kernel http://192.0.2.1:6386/{place}/kernel" in text
    assert " ipa-api-url=https://api.example:6385 " in text
    assert f"BOOTIF=01-{MAC.replace(':', '-')}" in text
    assert "metald.token" not in text


async def test_the_api_is_where_the_boot_server_is(tmp_path: Path) -> None:
    base = site(tmp_path)
    settings = msgspec.structs.replace(base, api=msgspec.structs.replace(base.api, listen="0.0.0.0:6385"))
    fleet, _ = await booted(settings)
    text = str(BootFiles(fleet, settings).script(Asker("http://192.0.2.1:6386", (MAC,))).content)
    assert "ipa-api-url=http://192.0.2.1:6385 " in text


async def test_files_that_the_node_names(tmp_path: Path) -> None:
    kernel = tmp_path / "files" / "ipa.kernel"
    kernel.parent.mkdir()
    kernel.write_bytes(b"kernel")
    async with far_server({"ipa.initramfs": b"initramfs"}) as far:
        settings = site(tmp_path)
        fleet, node = await booted(settings, deploy_kernel=kernel.as_uri(), deploy_ramdisk=f"{far.url}/ipa.initramfs")
        cache = ImageCache(Images(file_roots=[str(kernel.parent)]), tmp_path)
        files = BootFiles(fleet, settings, cache.image_for)
        asker = Asker("http://192.0.2.1:6386", (MAC,))
        place = f"boot/{node.uuid}/{node.driver_internal_info['boot_token']}"
        script = str(files.script(asker).content)
        for name in ("deploy_kernel", "deploy_ramdisk"):
            assert f"http://192.0.2.1:6386/{place}/{name} " in script
        assert files.find(f"{place}/deploy_kernel", asker).content == kernel
        assert files.find(f"{place}/deploy_ramdisk", asker).content == Remote(f"{far.url}/ipa.initramfs")
        assert far.asked == ["/ipa.initramfs"]  # while it was prepared, so that a wrong URL is found in time
        await files.fills.close()
    assert cache.image_for(node, "deploy_kernel") == kernel
    assert cache.image_for(node, "deploy_ramdisk") is None
    assert ImageCache(Images(file_roots=[]), tmp_path / "other").image_for(node, "deploy_kernel") is None


@pytest.mark.parametrize(
    ("info", "field"),
    [
        ({"deploy_kernel": "http://h/k"}, "deploy_ramdisk"),
        ({"deploy_ramdisk": "http://h/r"}, "deploy_kernel"),
        ({"deploy_kernel": "http://h/k ${net0/mac}", "deploy_ramdisk": "http://h/r"}, "deploy_kernel"),
        ({"deploy_kernel": "http://h/k", "deploy_ramdisk": "ftp://h/r"}, "deploy_ramdisk"),
    ],
)
async def test_files_that_cannot_be_booted(tmp_path: Path, info: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        await booted(site(tmp_path), **info)
    assert refused.value.field == f"driver_info/{field}"
