"""fake-hardware takes the interfaces of other hardware types, and waits where Ironic's waits for an agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from metald.config import Fake, Images, Settings
from metald.drivers.agent.deploy import AgentDeploy
from metald.drivers.agent.netboot import RamdiskDeploy
from metald.drivers.agent.rescue import AgentRescue
from metald.drivers.fake import FakeHardware, interfaces
from metald.drivers.registry import Registry
from metald.drivers.types import BUILT_IN
from metald.images.cache import ImageCache


@pytest.mark.parametrize(("kind", "name"), [("deploy", "direct"), ("deploy", "ramdisk"), ("rescue", "agent")])
def test_fake_hardware_admits(kind: str, name: str, tmp_path: Path) -> None:
    cache = ImageCache(Images(), tmp_path)
    direct, ramdisk = AgentDeploy(Settings(), cache), RamdiskDeploy(Settings(), cache)
    registry = Registry(BUILT_IN, [*interfaces(FakeHardware(Fake())), direct, ramdisk, AgentRescue(direct, 60.0)])
    assert name in registry.supported("fake-hardware", kind)
    assert registry.default("fake-hardware", kind) == "fake"
