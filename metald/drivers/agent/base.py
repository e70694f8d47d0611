"""What every deploy interface with the Ironic Python Agent in its ramdisk shares: the agent's own steps, lost agents, logs.

Rules:

- A step may be called twice: a command that the agent was given is followed, never given again (`commands`).
- The agent's steps and metald's own are one plan, in the order of their priorities (`steps`).
- An agent that is lost in the middle of its work costs another boot of the ramdisk, not the deployment, up to `BOOTS` times.
- When a step fails the agent's logs are taken first, for its machine is then powered off.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from metald.config import Settings
from metald.drivers.agent import logs, steps
from metald.drivers.agent.client import AgentClient, AgentUnreachable, Command
from metald.drivers.agent.commands import MEMO, AgentLost, Commands, StillRunning, VersionMismatch, failed
from metald.drivers.base import Deploy, Done, Outcome, Phase, StepContext, Wait, ramdisk_again, step
from metald.drivers.truth import is_true
from metald.errors import DeployError, Invalid, MetaldError
from metald.images.cache import ImageCache
from metald.model import Node, PlannedStep, PowerState, now

BOOTS = 2
"""How often in a workflow the machine is booted again because its agent was lost, or knows other steps than before."""
_LOG_TIME = 60.0
"""Seconds that collecting logs may take."""


class AgentBased(Deploy):
    """See the module.

    Args:
        settings: all of them.
        images: the image cache.
        client: asks agents; one of its own when None.
    """

    in_band = True
    calls_by = "heartbeat"
    agent = True

    def __init__(self, settings: Settings, cache: ImageCache, client: AgentClient | None = None) -> None:
        self._settings = settings
        self.images = cache
        self.client = client or AgentClient(settings.agent)
        self.commands = Commands(settings.agent, self.client)
        self._priorities = steps.priorities(settings.agent.clean_step_priorities)
        directory = settings.agent.deploy_logs_dir
        self._logs = Path(directory) if directory else Path(settings.state_dir) / "deploy-logs"

    def properties(self) -> Mapping[str, str]:
        """The driver_info keys it reads."""
        return {
            "deploy_kernel": "URL (http, https or file) of the kernel of the ramdisk with the agent. Optional.",
            "deploy_ramdisk": "URL (http, https or file) of the ramdisk with the agent. Optional.",
            "deploy_forces_oob_reboot": "True: the BMC cuts the power, the agent is not asked to. Optional.",
        }

    async def ask(self, ctx: StepContext, name: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Give the agent a command that may be given twice and whose answer comes at once. See `Commands.ask`."""
        return await self.commands.ask(ctx, name, params)

    async def ramdisk_ready(self, ctx: StepContext) -> bool:
        """Whether the agent of the node's present boot has called.

        Raises:
            DeployError: it called to say that it cannot work.
        """
        info = ctx.node.driver_internal_info
        if info.get("agent_status") == "error":
            raise DeployError(f"Node {ctx.node.label}: the agent failed: {info.get('agent_status_message') or 'it does not say why'}.")
        return bool(info.get("agent_url") and info.get("agent_last_heartbeat") and info.get("agent_secret_token"))

    # -- the agent's own steps

    async def agent_steps(self, ctx: StepContext, phase: str, automatic: bool) -> Outcome:
        """See Deploy."""
        return await self.guarded(ctx, lambda: self._plan(ctx, phase, automatic))

    async def _plan(self, ctx: StepContext, phase: str, automatic: bool) -> Outcome:
        node = ctx.node
        boot = self.commands.agent(node).boot
        offers = steps.remembered(node, phase, boot)
        if offers is None:
            found = await self.commands.ask(ctx, f"{phase}.get_{phase}_steps", self._told(ctx))
            offers = steps.offered(found, phase, node)
            info = steps.to_remember(ctx.node, phase, boot, offers, found.get("hardware_manager_version"))
            ctx.set(driver_internal_info=info)
        other = self._priorities if phase == Phase.CLEAN else {}
        plan = steps.merged(ctx.following, offers, phase, node, automatic=automatic, other=other)
        listed = ", ".join(f"{one.interface}.{one.step}" for one in plan if one.in_band) or "none"
        return Done(f"Steps of the agent: {listed}.", following=plan)

    async def agent_step(self, ctx: StepContext) -> Outcome:
        """See Deploy."""
        return await self.guarded(ctx, lambda: self._execute(ctx))

    async def _execute(self, ctx: StepContext) -> Outcome:
        return await self._stepped(ctx, ctx.step, ctx.step.in_band)

    async def in_band_step(
        self, ctx: StepContext, wanted: PlannedStep, phase: str, use: Callable[[Any], None], more: Mapping[str, Any] | None = None
    ) -> Outcome:
        """Carry out one step of the agent's own as the work of a step of metald's.

        Args:
            ctx: the step's.
            wanted: the agent's step, with its arguments.
            phase: a `Phase`.
            use: is given the step's result.
            more: what the agent shall see in the node's fields instead of what is there.
        """
        return await self.guarded(ctx, lambda: self._stepped(ctx, wanted, phase, use, more))

    async def _stepped(
        self,
        ctx: StepContext,
        wanted: PlannedStep,
        phase: str,
        use: Callable[[Any], None] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Outcome:
        offers = steps.remembered(ctx.node, phase, self.commands.agent(ctx.node).boot)
        if offers is None:  # another boot of the agent: it is asked what it offers
            again = PlannedStep(interface="deploy", step="agent_steps", args={"phase": phase, "automatic": False}, requires_ramdisk=False)
            return Done("The agent was started anew.", following=[again, ctx.step, *ctx.following])
        told = steps.command_step(wanted, offers)

        async def params() -> Mapping[str, Any]:
            versions = ctx.node.driver_internal_info.get(steps.VERSIONS) or {}
            about = self._told(ctx)
            return {"step": told, f"{phase}_version": versions, **about, "node": {**about["node"], **(more or {})}}

        try:
            command = await self.commands.carry_out(ctx, f"{phase}.execute_{phase}_step", params, _key(ctx))
        except VersionMismatch:
            return self._mismatched(ctx, phase)
        result = result_of(command, f"{phase}_result")
        if use is not None:
            use(result)
        detail = str(result)[:1000] if result not in (None, "", {}, []) else ""
        if told.get("reboot_requested"):
            again_ = ramdisk_again(self._callback_timeout(phase), 1)
            return Done(detail or "The agent asks for a reboot.", following=[*again_, *ctx.following])
        return Done(detail)

    def _mismatched(self, ctx: StepContext, phase: str) -> Outcome:
        """The agent's hardware managers changed under way: automated cleaning begins anew, all else fails."""
        node = ctx.node
        automatic = phase == Phase.CLEAN and node.target_provision_state != "manageable"
        if not automatic or self._lost(ctx) > BOOTS:
            raise DeployError(
                f"Node {node.label}: the agent's hardware managers changed since its {phase} steps were asked for.",
                remedy="Boot the same ramdisk every time, and start again.",
            )
        info = {key: value for key, value in node.driver_internal_info.items() if key != steps.STEPS.format(phase)}
        ctx.set(driver_internal_info=info)
        again = PlannedStep(interface="deploy", step="agent_steps", args={"phase": phase, "automatic": True}, requires_ramdisk=False)
        rest = [one for one in ctx.following if not one.in_band]
        return Done("The agent's hardware managers changed; cleaning begins anew.", following=[again, *rest])

    def _told(self, ctx: StepContext) -> dict[str, Any]:
        return steps.node_for_agent(ctx.node, ctx.ports)

    def _callback_timeout(self, phase: str) -> float:
        conductor = self._settings.conductor
        return conductor.clean_callback_timeout if phase == Phase.CLEAN else conductor.deploy_callback_timeout

    # -- what every step goes through

    async def guarded(self, ctx: StepContext, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Do a step's work; boot the ramdisk again when its agent is lost, take the agent's logs when it fails."""
        try:
            return await work()
        except StillRunning as still:
            timeout = float(self._settings.agent.heartbeat_timeout)
            look = partial(self.commands.ended, still.agent, still.ident)
            return Wait("heartbeat", timeout, "a sign of life of the agent while it works", callback=True, renew=True, look=look)
        except AgentLost as error:
            if self._lost(ctx) > BOOTS:
                raise
            ctx.note("agent_lost", reason=str(error))
            replaced = await self._replaced(ctx)
            if not (replaced and self.commands.is_of(ctx)):
                ctx.memo.pop(MEMO, None)
            boot = () if replaced else ramdisk_again(self._callback_timeout(_phase(ctx)), 1)
            return Done(f"{error} The step is done again.", following=[*boot, ctx.step, *ctx.following])
        except (DeployError, Invalid) as error:
            if not isinstance(error, AgentUnreachable):
                await self._keep_logs(ctx, failed=True)
            raise

    def _lost(self, ctx: StepContext) -> int:
        """Count one more boot that was not planned."""
        ctx.memo["agent_losses"] = ctx.memo.get("agent_losses", 0) + 1
        return int(ctx.memo["agent_losses"])

    async def _replaced(self, ctx: StepContext) -> bool:
        """Whether another boot of the agent has called already, and answers."""
        try:
            return await self.ramdisk_ready(ctx) and await self.alive(ctx.node)
        except MetaldError:
            return False

    async def _keep_logs(self, ctx: StepContext, *, failed: bool) -> None:
        """Keep the agent's logs, if the settings ask for it. Never fails a step."""
        wanted = self._settings.agent.deploy_logs_collect
        if wanted == "never" or (wanted == "on_failure" and not failed):
            return
        try:
            async with asyncio.timeout(_LOG_TIME):
                found = await self.commands.ask(ctx, "log.collect_system_logs")
            text = found.get("system_logs")
            if isinstance(text, str) and text:
                path, size = await asyncio.to_thread(logs.keep, self._logs, ctx.node.uuid, now(), text)
                ctx.note("agent_logs", file=str(path), bytes=size)
        except (MetaldError, TimeoutError, OSError, ValueError) as error:
            ctx.progress(message=f"The agent's logs could not be kept: {error}")

    @property
    def fast_track(self) -> bool:
        """See Deploy."""
        return self._settings.agent.fast_track

    async def reusable(self, ctx: StepContext) -> bool:
        """Whether an agent has called lately, without a complaint, and answers."""
        info = ctx.node.driver_internal_info
        last = info.get("agent_last_heartbeat")
        if not (self.fast_track and info.get("agent_url") and last) or info.get("agent_status") == "error":
            return False
        age = (now() - datetime.fromisoformat(str(last))).total_seconds()
        return age < self._settings.agent.fast_track_timeout and await self.alive(ctx.node)

    async def alive(self, node: Node) -> bool:
        """Whether the agent that last called for a node still answers."""
        try:
            return await self.client.alive(self.commands.agent(node))
        except MetaldError:
            return False

    async def close(self) -> None:
        """Close every connection to agents."""
        await self.client.close()


class CustomAgentDeploy(AgentBased):
    """The deploy interface `custom-agent`: whatever is deployed, steps of the agent or of the request do it."""

    name = "custom-agent"

    @step(Phase.DEPLOY, 40, requires_ramdisk=True)
    async def tear_down_agent(self, ctx: StepContext) -> Outcome:
        """Have the agent write everything to the disk and power the machine off."""
        await self._keep_logs(ctx, failed=False)
        detail = await self._power_off(ctx)
        await self.images.release(ctx.node.uuid)
        return Done(detail)

    async def _power_off(self, ctx: StepContext) -> str:
        """Off by the agent, which leaves the disks in order. What it does not do, the BMC does in the plan's next step."""
        try:
            if ctx.node.disable_power_off:
                return await self._lock_down(ctx)
            if is_true(ctx.node.driver_info.get("deploy_forces_oob_reboot")):
                await self.commands.ask(ctx, "standby.sync")
                return "Everything is on the disk."
            # The agent writes everything to the disks before.
            command = await self.client.run(self.commands.agent(ctx.node), "standby.power_off", {}, wait=False)
            if command.command_status == "FAILED":
                raise failed(ctx.node, command)
        except MetaldError as error:
            if await self._is_off(ctx):  # the step was called before, or the machine was faster than the answer
                return "The machine is off."
            return f"The BMC powers the machine off, for the agent did not: {error}"
        within = self._settings.agent.power_off_timeout
        if await _comes_true(lambda: self._is_off(ctx), within):
            return "The agent powered the machine off."
        return f"The agent did not power the machine off within {within:g} s; the BMC does."

    async def _lock_down(self, ctx: StepContext) -> str:
        """The machine must never be off: have the agent write everything to the disks and leave the network."""
        agent = self.commands.agent(ctx.node)
        await self.commands.ask(ctx, "standby.sync")
        await self.client.run(agent, "system.lockdown", {}, wait=True)

        async def gone() -> bool:
            return not await self.client.alive(agent)

        if await _comes_true(gone, self._settings.agent.power_off_timeout):
            return "The agent has ended."
        return "Everything is on the disk; the agent still answers."

    async def _is_off(self, ctx: StepContext) -> bool:
        try:
            return await ctx.power.get_power_state(ctx) is PowerState.OFF
        except MetaldError:
            return False


async def _comes_true(look: Callable[[], Awaitable[bool]], within: float) -> bool:
    """Look, in pauses that grow, for so many seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within
    pause = 0.1
    while not await look():
        left = until - loop.time()
        if left <= 0:
            return False
        await asyncio.sleep(min(pause, left))
        pause = min(0.5, pause * 1.5)
    return True


def result_of(command: Command, key: str) -> Any:
    """One value of what a command found."""
    found = command.command_result
    return found.get(key) if isinstance(found, Mapping) else None


def _key(ctx: StepContext) -> str:
    """What tells this call of a step from others: the step, and how much of the plan is left."""
    encoded = msgspec.json.encode((ctx.step, len(ctx.following)))
    return hashlib.sha256(encoded).hexdigest()[:16]


def _phase(ctx: StepContext) -> str:
    return ctx.step.in_band or str(ctx.step.args.get("phase") or Phase.DEPLOY.value)
