"""Commands of an agent, given once and followed to their end, across restarts of metald.

Rules:

- Before a command is given, the workflow's memo says so durably, with the commands that the agent knew already. A step that
  is called again asks the agent for its list, and follows the command that is new there.
- One boot of the agent, one command: what an earlier boot was doing is over, and is told to the caller (`AgentLost`).
- A command that runs is looked at in pauses that grow. One that takes longer than it may hold a task is waited for
  (`StillRunning`), and looked at meanwhile (`ended`); nobody waits for the agent's next heartbeat.
- An agent that is out of reach is asked again until `agent.command_timeout` is over, or `agent.heartbeat_timeout` if that is
  shorter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from metald.config import Agent as Settings
from metald.drivers.agent import callback
from metald.drivers.agent.client import AgentBusy, AgentClient, AgentUnreachable, Command, CommandFailed, Target, target
from metald.drivers.base import StepContext
from metald.errors import DeployError
from metald.model import Node

MEMO = "agent_command"
FIRST_PAUSE = 0.1
_GROWTH = 1.5
_SHARE = 0.03
"""How much later than a command ended that may be noticed, as a share of how long it took."""
_LONGEST = 5.0
"""Seconds between two looks at a command that is waited for, at most."""
LOOKED_AT = 20.0
"""Seconds for which a step holds its task while it looks at a command. Then the node waits, and can be told to abort."""

T = TypeVar("T")


class AgentLost(DeployError):
    """The agent that worked for a step is gone, or was started anew."""

    code = "agent-lost"
    advice = "Look at the machine's console: it crashed, restarted or lost its network."


class StillRunning(Exception):  # no error
    """The command goes on; look again when it has ended.

    Args:
        agent: that runs it.
        ident: the command's id.
    """

    def __init__(self, agent: Target, ident: str) -> None:
        super().__init__(ident)
        self.agent = agent
        self.ident = ident


class VersionMismatch(Exception):  # no error
    """The agent's hardware managers are not those that the steps were asked of."""


class Commands:
    """See the module.

    Args:
        settings: the section `agent`.
        client: asks agents.
    """

    def __init__(self, settings: Settings, client: AgentClient) -> None:
        self._settings = settings
        self._client = client
        self._allowed = callback.networks(settings.callback_networks)
        self._patience = min(settings.command_timeout, float(settings.heartbeat_timeout))

    def agent(self, node: Node) -> Target:
        """The agent of the node's present boot. Raises like `client.target`."""
        return target(node, self._allowed)

    def is_of(self, ctx: StepContext) -> bool:
        """Whether the command in the workflow's memo was given to the agent's present boot."""
        given = ctx.memo.get(MEMO)
        return given is not None and given["boot"] == self.agent(ctx.node).boot

    async def ask(self, ctx: StepContext, name: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Give a command that may be given twice and whose answer comes at once.

        Returns:
            What it found; empty when that is nothing.

        Raises:
            AgentLost: the agent cannot be reached any more.
            CommandFailed: it failed.
        """
        agent = self.agent(ctx.node)

        async def give() -> Command:
            return await self._client.run(agent, name, params or {}, wait=True)

        command = await self._patiently(ctx, agent, give)
        if command.command_status != "SUCCEEDED":
            raise failed(ctx.node, command)
        return command.command_result if isinstance(command.command_result, dict) else {}

    async def carry_out(
        self,
        ctx: StepContext,
        name: str,
        params: Callable[[], Awaitable[Mapping[str, Any]]],
        key: str,
    ) -> Command:
        """Give a command that runs for a while, or follow it when it was given already, until it has ended.

        Args:
            ctx: the step's.
            name: of the command.
            params: makes its parameters, when it is given.
            key: what tells this command from others of the same name in the workflow.

        Returns:
            The command, which has succeeded.

        Raises:
            StillRunning: it takes long; call again.
            VersionMismatch: the agent says so.
            AgentLost: the agent is gone, or another boot of it runs.
            CommandFailed: it failed.
        """
        agent = self.agent(ctx.node)
        given: dict[str, Any] | None = ctx.memo.get(MEMO)
        if given is not None and given["key"] != key:
            given = None
        if given is not None and given["boot"] != agent.boot:
            ctx.memo.pop(MEMO)
            raise AgentLost(f"Node {ctx.node.label}: the agent was started anew while it ran {name}.")
        command = await self._patiently(ctx, agent, lambda: self._found(agent, given)) if given else None
        if command is None:
            command = await self._give(ctx, agent, name, await params(), key)
        elif command.running:
            raise StillRunning(agent, command.id)
        command = await self._followed(ctx, agent, command)
        ctx.memo.pop(MEMO, None)
        if command.command_status == "CLEAN_VERSION_MISMATCH":
            raise VersionMismatch
        if command.command_status != "SUCCEEDED":
            raise failed(ctx.node, command)
        return command

    async def _give(self, ctx: StepContext, agent: Target, name: str, params: Mapping[str, Any], key: str) -> Command:
        """Give a command once, whatever happens to the answer."""
        known = await self._patiently(ctx, agent, lambda: self._client.commands(agent))
        for other in known:
            if other.running:
                await self._followed(ctx, agent, other)
        word = name.rpartition(".")[2]
        given = ctx.memo[MEMO] = {"key": key, "name": word, "boot": agent.boot, "seen": [one.id for one in known]}
        await ctx.checkpoint()

        async def once() -> Command:
            # The answer to an earlier try may have been lost on its way.
            return await self._found(agent, given) or await self._client.run(agent, name, params, wait=False)

        try:
            command = await self._client.run(agent, name, params, wait=False)
        except (AgentUnreachable, AgentBusy):
            command = await self._patiently(ctx, agent, once)
        given["id"] = command.id
        return command

    async def ended(self, agent: Target, ident: str) -> None:
        """Return when a command has ended, or when its agent has been out of reach for as long as it may be."""
        loop = asyncio.get_running_loop()
        began = heard = loop.time()
        while loop.time() - heard < self._patience:
            await asyncio.sleep(min(_LONGEST, max(self._settings.poll_interval, (loop.time() - began) * _SHARE)))
            try:
                if not (await self._client.command(agent, ident)).running:
                    return
            except CommandFailed:
                return
            except AgentUnreachable:
                continue
            heard = loop.time()

    async def _found(self, agent: Target, given: Mapping[str, Any]) -> Command | None:
        """The command that was given, in the agent's list; None when the agent never got it."""
        for command in reversed(await self._client.commands(agent)):
            word = command.command_name.rpartition(".")[2]
            if command.id == given.get("id") or (word == given["name"] and command.id not in given["seen"]):
                return command
        return None

    async def _followed(self, ctx: StepContext, agent: Target, command: Command) -> Command:
        loop = asyncio.get_running_loop()
        until = loop.time() + LOOKED_AT
        pause = min(FIRST_PAUSE, self._settings.poll_interval)
        ident = command.id
        while command.running:
            if loop.time() > until:
                raise StillRunning(agent, ident)
            ctx.progress(message=f"The agent runs {command.command_name}")
            await asyncio.sleep(pause)
            pause = min(self._settings.poll_interval, pause * _GROWTH)
            command = await self._patiently(ctx, agent, lambda: self._client.command(agent, ident))
        return command

    async def _patiently(self, ctx: StepContext, agent: Target, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again while the agent is busy or out of reach for a moment.

        Raises:
            AgentLost: it stays out of reach, or another boot of it has called.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        pause = FIRST_PAUSE
        while True:
            try:
                return await ask()
            except AgentBusy:
                until = loop.time() + self._patience
            except AgentUnreachable as error:
                if loop.time() > until:
                    raise AgentLost(error.message, remedy=error.remedy) from None
            except CommandFailed:
                self._same_boot(ctx, agent)
                raise
            self._same_boot(ctx, agent)
            await asyncio.sleep(pause)
            pause = min(5.0, pause * _GROWTH)

    def _same_boot(self, ctx: StepContext, agent: Target) -> None:
        token = ctx.node.driver_internal_info.get("agent_secret_token")
        if token != agent.token:
            raise AgentLost(f"Node {ctx.node.label}: the agent was started anew.")


def failed(node: Node, command: Command) -> CommandFailed:
    """The error of a command that failed."""
    return CommandFailed(f"Node {node.label}: the agent's command {command.command_name} failed: {command.error[:2000]}")
