"""A file system that is really full: what was accepted goes on when there is room again.

The state directory is a small tmpfs in a mount namespace of the daemon's own, so that nothing of it is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import SERVE, Daemon, Refused, Running, api, by

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120)]

_MOUNT = 'mount -t tmpfs -o size=8m tmpfs "$0" && exec "$@"'
_PIECE = 64 << 10


@pytest.fixture(autouse=True)
def _may_mount(tmp_path: Path) -> None:
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", _MOUNT, str(tmp_path), "true"], capture_output=True)
    if tried.returncode:
        pytest.skip("a mount namespace takes root")


async def _spawn(environment: dict[str, str], log: Path) -> Running:
    state = environment["METALD__STATE_DIR"]
    Path(state).mkdir(exist_ok=True)
    return await by("unshare", "--mount", "sh", "-c", _MOUNT, state, *SERVE)(environment, log)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for piece in (_PIECE, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(piece))


async def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    settings = {"drivers.fake.deploy_delay": 1, "conductor.automated_clean": "false", "log.level": "warning", "store.timeout": 0.5}
    async with Daemon(tmp_path, settings) as daemon, api(daemon) as client:
        await daemon.start(_spawn)
        filler = Path(f"/proc/{daemon.pid}/root{daemon.state_dir}/filler")
        nodes = [await client.create(driver="fake-hardware", name=f"n{number}") for number in range(10)]
        for verb, state in (("manage", "manageable"), ("provide", "available")):
            for uuid in nodes:
                await client.provision(uuid, verb)
            for uuid in nodes:
                await client.wait(uuid, state)
        for uuid in nodes:
            await client.provision(uuid, "active")
        await asyncio.to_thread(_fill, filler)
        kept: list[str] = []
        refused: list[Refused] = []
        while len(refused) < 3:
            name = f"more{len(kept) + len(refused)}"
            try:
                kept.append(await client.create(driver="fake-hardware", name=name, extra={"filler": "x" * 60_000}))
            except Refused as error:
                refused.append(error)
        assert {error.status for error in refused} == {503}
        assert all("The disk is full: make room on it" in error.text for error in refused)
        assert daemon.alive()
        assert (await client.node(nodes[0]))["name"] == "n0"
        filler.unlink()
        for uuid in nodes:
            assert (await client.wait(uuid, "active"))["last_error"] is None
        # who was refused may find that it was made, and is told to look
        names = {node["uuid"]: node["name"] for node in (await client.ask("GET", "/v1/nodes"))["nodes"]}
        assert {*nodes, *kept} <= set(names)
        assert len(set(names.values())) == len(names)
        assert await daemon.stop() == 0
        daemon.assert_clean()
