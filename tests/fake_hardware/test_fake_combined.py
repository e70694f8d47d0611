"""fake-hardware takes the interfaces of other hardware types, and waits where Ironic's waits for an agent."""

from __future__ import annotations

import pytest

from metald.config import Fake
from metald.drivers.agent_wait import AgentRescue, DirectDeploy
from metald.drivers.fake import FakeHardware, interfaces
from metald.drivers.registry import Registry
from metald.drivers.types import BUILT_IN


@pytest.mark.parametrize(("kind", "name"), [("deploy", "direct"), ("deploy", "ramdisk"), ("rescue", "agent")])
def test_fake_hardware_admits(kind: str, name: str) -> None:
    registry = Registry(BUILT_IN, [*interfaces(FakeHardware(Fake())), DirectDeploy(), AgentRescue(60.0)])
    assert name in registry.supported("fake-hardware", kind)
    assert name not in registry.supported("ipmi", kind)
    assert registry.default("fake-hardware", kind) == "fake"
