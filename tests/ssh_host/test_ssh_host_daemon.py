"""The hardware type `ssh` in the outfit of a daemon: every interface type has a default, and validate says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from metald import outfit
from metald.config import Drivers, Settings
from metald.console.consoles import Consoles
from metald.drivers.agent.deploy import AgentDeploy
from metald.drivers.base import Interface
from metald.drivers.ipmi.hub import IpmiHub
from metald.drivers.ssh.deploy import SshDeploy
from metald.drivers.ssh_host.hosts import Hosts
from metald.errors import Invalid
from metald.images.cache import ImageCache
from metald.model import INTERFACES, Node
from tests.support.bmc import Context


async def test_the_type_is_whole_and_combines_with_the_other_interfaces(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path), drivers=Drivers(enabled_hardware_types=["ssh"]))
    images = ImageCache(settings.images, tmp_path)
    hub, hosts, consoles = IpmiHub(settings.drivers.ipmi), Hosts(settings.drivers.ssh_host), Consoles(settings.console, tmp_path)
    registry = outfit.registry(settings, hub, SshDeploy(settings, images), AgentDeploy(settings, images), hosts, consoles)
    for kind in INTERFACES:
        assert registry.default("ssh", kind)
    assert {registry.default("ssh", kind) for kind in ("power", "management", "console", "deploy")} == {"ssh"}
    assert {"ssh", "direct", "ramdisk"} <= set(registry.supported("ssh", "deploy"))
    assert {"ssh_address", "ssh_virt_type", "ssh_machine"} <= set(registry.properties("ssh"))
    node = Node(
        driver="ssh", name="n", driver_info={"ssh_address": "hv1", "ssh_username": "u", "ssh_password": "p", "ssh_virt_type": "virsh"}
    )
    registry.check(node)
    for kind in ("power", "management", "console"):
        interface: Interface = registry.for_node(node, kind)
        with pytest.raises(Invalid, match="ssh_machine"):
            await interface.validate(Context(node))  # type: ignore[arg-type]
