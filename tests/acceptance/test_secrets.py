"""Nothing that metald was told or made in confidence leaves it: not by the API, the log, errors, nor a list of processes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

from metald.sim.rmcp import User
from tests.acceptance.conftest import Scene
from tests.support.daemon import Refused
from tests.support.sim_machine import Box

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("secrets")]

PASSWORD = "Zx9-BMC-secret"
KG = b"Kg9-twenty-byte-key!"
VOLATILE = "callers-own-secret-value"


@pytest.fixture(scope="module")
def settings() -> dict[str, object]:
    return {"log.level": "debug", "conductor.power_sync_interval": 0.2}


def kept_secrets(database: Path, node: str) -> set[str]:
    """Every credential that metald made for the node, as the state has it now."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        [(text,)] = connection.execute("SELECT CAST(doc AS TEXT) FROM nodes WHERE uuid = ?", (node,))
    internal = json.loads(text).get("driver_internal_info", {})
    found = {value for key, value in internal.items() if key in {"boot_token", "agent_secret_token"}}
    for key in ("boot_host_private_key", "boot_client_private_key"):
        if key in internal:
            found.add(internal[key].splitlines()[3])
    return found


async def shown(scene: Scene, box: Box) -> AsyncGenerator[str, None]:
    """Everything the API says of the node."""
    own = f"/v1/nodes/{box.node}"
    parts = ("", "/validate", "/history?detail=true", "/timeline", "/progress", "/states", "/vifs", "/management/boot_device")
    for path in (*(own + part for part in parts), "/v1/nodes?detail=true", "/v1/nodes/detail", "/v1/events", "/v1/ports?detail=true"):
        try:
            yield json.dumps(await scene.api.ask("GET", path))
        except Refused as error:
            yield error.text


def command_lines() -> str:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)


class Watch:
    """Gathers secrets and what was shown, and compares at the end: a secret must not be shown before it is known to be one."""

    def __init__(self, scene: Scene, box: Box) -> None:
        self.secrets = {PASSWORD, KG.decode(), KG.hex(), VOLATILE}
        self.seen: set[str] = set()
        self._scene, self._box = scene, box

    async def look(self) -> None:
        self.secrets |= kept_secrets(self._scene.lab.daemon.state_dir / "metald.sqlite", self._box.node)
        async with aclosing(shown(self._scene, self._box)) as texts:
            async for text in texts:
                self.seen.add(text)
        self.seen.add(command_lines())

    def check(self) -> None:
        self.seen.add(self._scene.lab.daemon.output())
        for text in self.seen:
            for secret in self.secrets:
                assert secret.lower() not in text.lower(), f"{secret} is in {text[:3000]}"


async def watched(scene: Scene, box: Box, *states: str) -> tuple[Watch, dict[str, Any]]:
    watch = Watch(scene, box)
    async with asyncio.timeout(60):
        while True:
            await watch.look()
            node = await scene.api.node(box.node)
            if node["provision_state"] in states and node["reservation"] is None:
                return watch, node


@pytest.mark.parametrize("interface", ["pyghmi", "ipmitool"])
async def test_a_deployment_keeps_every_secret(scene: Scene, interface: str) -> None:
    box = await scene.lab.machine(users=(User("admin", PASSWORD),), kg=KG)
    info = box.driver_info(ipmi_password=PASSWORD, ipmi_hex_kg_key=KG.hex(), callback_token=VOLATILE)
    await scene.lab.enrol(scene.api, box, driver_info=info, power_interface=interface, management_interface=interface)
    await scene.lab.deploy(scene.api, box, scene.image)
    watch, node = await watched(scene, box, "active", "deploy failed")
    assert node["provision_state"] == "active", node["last_error"]
    assert len(watch.secrets) >= 7  # the four given, and a token and two keys of the boot
    watch.check()


@pytest.mark.parametrize("interface", ["pyghmi", "ipmitool"])
async def test_a_refused_login_keeps_the_password(scene: Scene, interface: str) -> None:
    box = await scene.lab.machine(users=(User("admin", "another"),))
    info = box.driver_info(ipmi_password=PASSWORD, ipmi_hex_kg_key=KG.hex())
    await scene.lab.enrol(scene.api, box, until="enroll", driver_info=info, power_interface=interface, management_interface=interface)
    await scene.api.provision(box.node, "manage")
    watch, node = await watched(scene, box, "enroll")
    assert node["last_error"]
    watch.check()


async def test_an_image_that_cannot_be_fetched_keeps_the_password_of_its_url(scene: Scene) -> None:
    box = await scene.box()
    source = f"http://reader:{VOLATILE}@127.0.0.1:9/image.raw"
    unseen = scene.lab.image(name="unseen.raw", seed=2)  # one that the cache has would not be fetched
    await scene.lab.deploy(scene.api, box, unseen, image_source=source)
    watch, node = await watched(scene, box, "deploy failed")
    assert node["instance_info"]["image_source"] == "http://reader:******@127.0.0.1:9/image.raw"
    watch.check()
