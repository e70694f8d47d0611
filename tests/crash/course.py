"""One thing that metald does to a machine, to be done again and again with the daemon killed at ever later boundaries."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.crash.forge import Forge
from tests.support.daemon import Api, api
from tests.support.sim_machine import Box, Image, Lab, lab

COUNTED = (
    "power_on",
    "power_off",
    "reset",
    "cycle",
    "control",
    "starts",
    "ramdisks",
    "writes_started",
    "writes_done",
    "bytes_written",
    "disk_boots",
)
"""Effects that a crash must not repeat."""


@dataclass
class Course:
    """A verb, run over copies of one prepared state.

    Args:
        folder: for everything of it.
        program: the compiled ramdisk program.
        forge: starts the daemons.
        kind: of the workflow that `verb` starts.
        verb: what is asked for.
        goal: the state that it leads to.
    """

    folder: Path
    program: Path
    forge: Forge
    kind: str = "deploy"
    verb: str = "active"
    goal: str = "active"
    settings: dict[str, object] = field(default_factory=dict)
    node: str = ""
    bmc_port: int = 0
    image: Image | None = None

    async def prepare(self) -> None:
        """Enrol a machine, and bring it to where the verb starts from."""
        async with lab(self.folder / "prepared", self.program, self.settings) as site, api(site.daemon) as client:
            await site.daemon.start(self.forge.daemon(self.folder / "tally-prepare"))
            self.image = site.image()
            box = await site.machine()
            self.node = await site.enrol(client, box)
            await client.patch(self.node, instance_info=self.image.info())
            if self.kind == "teardown":
                await client.provision(self.node, "active")
                await client.wait(self.node, "active")
                await box.machine.until(lambda m: m.running == "instance")
            self.bmc_port = box.net.port
            assert await site.daemon.stop() == 0
            kept = ("api.listen", "boot.http_listen", "images.file_roots")
            self.settings = {**self.settings, **{name: site.daemon.settings[name] for name in kept}}

    @contextlib.asynccontextmanager
    async def again(self, name: str) -> AsyncIterator[tuple[Lab, Box, Api]]:
        """The prepared state once more: machine and files as they were, no daemon yet."""
        folder = self.folder / name
        prepared = self.folder / "prepared"
        shutil.copytree(prepared / "state", folder / "state")
        async with lab(folder, self.program, self.settings) as site, api(site.daemon) as client:
            box = await site.machine(bmc_port=self.bmc_port)
            box.node = self.node
            if self.kind == "teardown":
                shutil.copyfile(prepared / "machine1" / "disk", box.machine.disk)
                box.bmc.set_power(True)
                await box.machine.until(lambda m: m.running == "instance")
            yield site, box, client
            await site.daemon.stop()
        shutil.rmtree(folder)

    async def run(self, at: int = 0, when: str = "before", *, slow: bool = False) -> tuple[dict[str, Any], list[str]]:
        """Do it once, with the daemon killed at boundary `at` (0: never).

        Args:
            slow: the machine's firmware takes longer than the daemon's restart, as real ones do. For boundaries at which
                the machine is not up yet.

        Returns:
            What the machine counted, and the names of the boundaries that the first daemon came to.
        """
        tally = self.folder / f"tally-{when}-{at}"
        async with self.again(f"{when}-{at}") as (site, box, client):
            if slow:
                box.machine.faults.posted.clear()
            await site.daemon.start(self.forge.daemon(tally, at=at, when=when, kind=self.kind))
            await self.ask(client)
            if at:
                assert await site.daemon.ended() == -9, "the boundary was not reached"
                await site.daemon.start(self.forge.daemon(self.folder / "tally-after", kind=self.kind))
                box.machine.faults.posted.set()
                if (await client.node(self.node))["provision_state"] == self.start_state:
                    await self.ask(client)
            await self.arrive(box, client)
            return box.machine.report(), tally.read_text().splitlines()

    @property
    def start_state(self) -> str:
        """Where the verb leads on from."""
        return "active" if self.kind == "teardown" else "available"

    async def ask(self, client: Api) -> None:
        """Ask for the verb; the daemon may die before it answers."""
        with contextlib.suppress(aiohttp.ClientError):
            await client.provision(self.node, self.verb)

    async def arrive(self, box: Box, client: Api, timeout: float = 60.0) -> None:
        """Wait for the goal, and check what stands on the machine then."""
        node = await client.wait(self.node, self.goal, timeout=timeout, through=True)
        assert node["last_error"] is None
        assert node["target_provision_state"] is None
        assert node["reservation"] is None
        if self.kind == "deploy":
            await box.machine.until(lambda m: m.running == "instance")
            assert self.image is not None
            assert await asyncio.to_thread(self.image.is_on, box.machine.disk)


def effects(report: dict[str, Any]) -> dict[str, Any]:
    """The part of a machine's report that a crash must not change."""
    return {name: report[name] for name in (*COUNTED, "boot_flags", "running")}
