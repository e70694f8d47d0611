"""One daemon for the tests of a module; each test brings its own machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.daemon import Api, api
from tests.support.sim_machine import Box, Image, Lab, lab


@dataclass
class Scene:
    """A running daemon, its client, and what tests do with them."""

    lab: Lab
    api: Api
    image: Image

    async def box(self, *, until: str = "available", driver_info: dict[str, Any] | None = None, **machine: Any) -> Box:
        """A machine of one's own, enrolled."""
        box = await self.lab.machine(**machine)
        more = {"driver_info": box.driver_info(**driver_info)} if driver_info else {}
        await self.lab.enrol(self.api, box, until=until, **more)
        return box

    async def fails(self, box: Box, state: str = "deploy failed", *words: str, timeout: float = 60.0) -> dict[str, Any]:
        """Wait for the failure, whose text must hold the words, and check that nothing is left hanging."""
        node = await self.api.wait(box.node, state, timeout=timeout)
        for word in words:
            assert word.lower() in node["last_error"].lower(), node["last_error"]
        assert node["reservation"] is None
        assert node["target_power_state"] is None
        assert "Traceback" not in node["last_error"]
        return node

    async def recovers(self, box: Box, image: Image | None = None, **info: Any) -> None:
        """Once the cause is gone, the same verb leads to a running machine."""
        image = image or self.image
        await self.lab.deploy(self.api, box, image, **info)
        node = await self.api.wait(box.node, "active")
        assert node["last_error"] is None
        await box.machine.until(lambda m: m.running == "instance")
        assert image.is_on(box.machine.disk)


@pytest.fixture(scope="module")
def settings() -> dict[str, object]:
    """Settings of the module's daemon; modules give their own."""
    return {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory, ramdisk_program: Path, settings: dict[str, object]) -> AsyncIterator[Scene]:
    """The module's daemon."""
    async with lab(tmp_path_factory.mktemp("lab"), ramdisk_program, settings) as made:
        await made.daemon.start()
        async with api(made.daemon) as client:
            yield Scene(made, client, made.image())
            assert await made.daemon.stop() == 0


@pytest_asyncio.fixture(loop_scope="module")
async def scene(place: Scene) -> AsyncIterator[Scene]:
    """The module's daemon, which must be as sound after the test as before it."""
    yield place
    place.lab.daemon.assert_clean()
