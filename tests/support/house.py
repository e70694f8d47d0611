"""A small metald without servers: store, drivers, engine and conductor in the test's own loop.

`House` can be stopped and started again over the same state, as a daemon that restarts. `Scripted` is a hardware type
whose deploy steps the test writes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from metald.config import Settings
from metald.drivers import fake, types
from metald.drivers.base import Boot, Deploy, Done, HardwareType, Interface, Outcome, Phase, StepContext, step
from metald.drivers.inspect_agent import AgentInspect
from metald.drivers.noop import Noop, NoopManagement, absents
from metald.drivers.registry import Registry
from metald.model import Node, ProvisionState, Verb, Workflow
from metald.model.caller import SYSTEM
from metald.statemachine.conductor import Conductor
from metald.statemachine.engine import Engine
from metald.statemachine.workflows import DEFINITIONS
from metald.store.changes import Change
from metald.store.store import Store

Script = Callable[[StepContext], Awaitable[Outcome]]


async def _done(ctx: StepContext) -> Outcome:
    return Done()


class ScriptedDeploy(Deploy):
    """Deploy and clean steps that do what the test says."""

    name = "scripted"

    def __init__(self) -> None:
        self.uses_ramdisk = False  # type: ignore[misc]
        self.scripts: dict[str, Script] = {}
        self.calls: list[str] = []
        self.ready = True

    async def _play(self, name: str, ctx: StepContext) -> Outcome:
        self.calls.append(name)
        return await self.scripts.get(name, _done)(ctx)

    async def prepare(self, ctx: StepContext) -> Outcome:
        return await self._play("prepare", ctx)

    @step(Phase.DEPLOY, 90, requires_ramdisk=True)
    async def first(self, ctx: StepContext) -> Outcome:
        return await self._play("first", ctx)

    @step(Phase.DEPLOY, 80, requires_ramdisk=True)
    async def second(self, ctx: StepContext) -> Outcome:
        return await self._play("second", ctx)

    @step(Phase.CLEAN, 50, requires_ramdisk=True, abortable=True)
    async def wipe(self, ctx: StepContext) -> Outcome:
        return await self._play("wipe", ctx)

    @step(Phase.CLEAN, 0, argsinfo={"level": {"description": "how hard", "required": True}})
    async def scrub(self, ctx: StepContext, level: int) -> Outcome:
        self.calls.append(f"scrub {level}")
        return await self._play("scrub", ctx)

    @step(Phase.SERVICE, 0, requires_ramdisk=True)
    async def polish(self, ctx: StepContext) -> Outcome:
        return await self._play("polish", ctx)

    async def ramdisk_ready(self, ctx: StepContext) -> bool:
        self.calls.append("ramdisk?")
        return self.ready or bool(ctx.node.driver_internal_info.get("ramdisk"))

    async def tear_down(self, ctx: StepContext) -> None:
        await self._play("tear_down", ctx)


class QuietBoot(Boot):
    """A boot interface that notes what it is asked."""

    name = "quiet"

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def prepare_ramdisk(self, ctx: StepContext, purpose: str) -> None:
        self.calls.append(f"prepare {purpose}")

    async def clean_up_ramdisk(self, ctx: StepContext) -> None:
        self.calls.append("clean up ramdisk")

    async def prepare_instance(self, ctx: StepContext) -> None:
        self.calls.append("prepare instance")

    async def clean_up_instance(self, ctx: StepContext) -> None:
        self.calls.append("clean up instance")


SCRIPTED = HardwareType(name="scripted", interfaces={**types.FAKE.interfaces, "deploy": ("scripted",), "boot": ("quiet",)})


class House:
    """Store, drivers, engine and conductor over one state directory."""

    def __init__(self, state_dir: Path, settings: Settings) -> None:
        self.state_dir = state_dir
        self.settings = settings
        self.deploy = ScriptedDeploy()
        self.boot = QuietBoot()
        self.hardware = fake.FakeHardware(settings.drivers.fake, seed=7)

    def registry(self) -> Registry:
        interfaces: Iterable[Interface] = [
            *fake.interfaces(self.hardware),
            self.deploy,
            self.boot,
            NoopManagement(),
            AgentInspect(self.settings.conductor.inspect_timeout),
            Noop("storage"),
            Noop("network"),
            *absents(),
        ]
        from metald.drivers.network_noop import NoopNetwork

        return Registry([SCRIPTED, types.FAKE], [*(i for i in interfaces if i.kind != "network"), NoopNetwork()])

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[House]:
        """Start; at the end stop as on SIGTERM."""
        self.store = await Store.open(self.settings.store, self.state_dir)
        registry = self.registry()
        self.engine = Engine(self.store, registry, DEFINITIONS, self.settings.conductor, "test")
        self.conductor = Conductor(self.store, registry, self.engine, self.settings)
        running = asyncio.create_task(self.engine.run())
        try:
            yield self
        finally:
            await self.engine.stop()
            await running
            await self.store.close()

    async def add(self, **fields: Any) -> Node:
        """Store a node."""
        committed = await self.store.commit(Change(save=[Node(**{"driver": "scripted", **fields})]))
        node = committed.saved[0]
        assert isinstance(node, Node)
        return node

    def node(self, uuid: str) -> Node:
        found = self.store.table(Node).get(uuid)
        assert found is not None
        return found

    def workflows(self, uuid: str) -> list[Workflow]:
        return list(self.store.table(Workflow).where("node_uuid", uuid))

    async def until(self, uuid: str, state: ProvisionState) -> Node:
        """Wait until the node is in `state` and nothing drives it."""
        changed = asyncio.Event()
        leave = self.store.subscribe(lambda _events: changed.set())
        try:
            async with asyncio.timeout(20):
                while not (self.node(uuid).provision_state is state and self.node(uuid).reservation is None):
                    changed.clear()
                    await changed.wait()
        finally:
            leave()
        return self.node(uuid)

    async def do(self, uuid: str, verb: Verb, until: ProvisionState, **arguments: Any) -> Node:
        """Ask for a verb and wait for the state it leads to."""
        await self.conductor.provision(uuid, verb, SYSTEM, **arguments)
        return await self.until(uuid, until)


def settings(**conductor: Any) -> Settings:
    """Settings with quick retries."""
    base = Settings()
    values = {"retry_delay": 0.0, "automated_clean": True, **conductor}
    return msgspec.structs.replace(base, conductor=msgspec.structs.replace(base.conductor, **values))
