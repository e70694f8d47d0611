"""The engine: keeps every workflow going, across waits, retries and restarts.

A *running* workflow is one task. A *waiting* one is a row, an entry in the timer heap and nothing else. What wakes it is
a signal for its node (`signal`), the end of its deadline, or an abort; each wake-up is durable before the task starts.
At start every unfinished workflow goes on from its journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from metald.config import Conductor as ConductorSettings
from metald.drivers.registry import Registry
from metald.errors import DeadlineExceeded, NotFound, Unavailable, WrongState
from metald.limits import on_behalf_of
from metald.model import Event, Node, Resource, StepRecord, Workflow, WorkflowKind, WorkflowState, now
from metald.statemachine.context import Context
from metald.statemachine.definition import Definition
from metald.statemachine.journal import Journal, NodeGone, moved, step_event
from metald.statemachine.last_seen import last_seen
from metald.statemachine.progress import Progress
from metald.statemachine.runner import LOOKOUT, RETRY, UNHOLD, Runner
from metald.statemachine.table import Table
from metald.statemachine.timers import Timers
from metald.store.changes import Change
from metald.store.store import Store
from metald.turns import Turns

_log = logging.getLogger(__name__)

_TIMED = (RETRY, "timer")

STORE_PAUSE = 5.0
"""Seconds until a wake-up that the store could not take is tried again."""
_STEPS_EACH_ROUND = 3
"""Steps that begin in one round of the loop; requests are not held up by more."""


async def _at_once() -> None:
    """What looks out for a step that shall be called again now."""


class Engine:
    """Runs workflows.

    Args:
        store: the state.
        registry: hardware types and interfaces.
        definitions: of every kind of workflow.
        settings: timeouts and retries.
        hostname: this conductor's name.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        definitions: Mapping[WorkflowKind, Definition],
        settings: ConductorSettings,
        hostname: str,
    ) -> None:
        self.table = Table()
        self.hostname = hostname
        self._store = store
        self._registry = registry
        self._definitions = definitions
        self._settings = settings
        self._journal = Journal(store, self.table, hostname)
        self._timers = Timers(self._expired)
        self._turns = Turns(_STEPS_EACH_ROUND)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lookouts: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._stop = asyncio.Event()
        self._progress = Progress(store, settings.progress_interval)
        self._idle: dict[str, asyncio.Event] = {}

    async def run(self) -> None:
        """Resume what is unfinished, then run workflows until `stop`; returns when none is running any more."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            telling = group.create_task(self._progress.run(), name="progress")
            begun, unfinished = time.perf_counter(), [w for w in self._store.table(Workflow) if not w.state.ended]
            for workflow in unfinished:
                self._resume(workflow)
            resumed = group.create_task(self._tell_resumed(len(unfinished), begun), name="resumed")
            await self._stop.wait()
            resumed.cancel()
            self._timers.close()
            for uuid in list(self._lookouts):
                self._end_lookout(uuid)
            await self._drain()
            telling.cancel()
        self._group = None

    async def stop(self) -> None:
        """Let running steps come to their boundary, for as long as the settings allow; then leave them to the next start."""
        self._stop.set()

    async def _drain(self) -> None:
        running = list(self._tasks.values())
        if running:
            _log.info("waiting for %d running steps", len(running))
            _, late = await asyncio.wait(running, timeout=self._settings.drain_timeout)
            for task in late:
                task.cancel()

    def progress(self, node_uuid: str) -> dict[str, Any]:
        """How far the node's running step is; empty when none runs or it does not say."""
        return self._progress.of(node_uuid)

    def definition(self, kind: WorkflowKind) -> Definition:
        """What distinguishes this kind of workflow."""
        return self._definitions[kind]

    def start(self, workflow: Workflow) -> None:
        """Run a workflow that is durable already."""
        if self._group is None or self._stop.is_set() or workflow.uuid in self._tasks:
            return
        self._end_lookout(workflow.uuid)
        task = self._group.create_task(self._advance(workflow), name=f"workflow {workflow.uuid}")
        self._tasks[workflow.uuid] = task

    async def idle(self, node_uuid: str, timeout: float) -> bool:
        """Wait until no workflow of the node is running.

        Args:
            timeout: seconds.

        Returns:
            Whether that came true in time.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._running(node_uuid):
                    await self._idle.setdefault(node_uuid, asyncio.Event()).wait()
        except TimeoutError:
            return False
        return True

    def _running(self, node_uuid: str) -> bool:
        return any(w.uuid in self._tasks for w in self._store.table(Workflow).where("node_uuid", node_uuid))

    async def signal(self, node_uuid: str, signal: str, change: Callable[[Node], dict[str, Any]], events: list[Event]) -> None:
        """Record what the world told of a node, and wake its workflow if that is what it waits for.

        Both are one transaction, so a signal is never lost: neither to a crash nor to a step that was not waiting yet.

        Args:
            node_uuid: which node.
            signal: what came, such as `ramdisk`.
            change: the fields of the node that it changes.
            events: what to tell of it.
        """
        async with self._store.owning(node_uuid):
            node = self._store.table(Node).get(node_uuid)
            if node is None:
                return
            workflow = self._store.table(Workflow).get(node.workflow) if node.workflow else None
            await self.wake(node, workflow, signal, change(node), events)

    async def wake(
        self,
        node: Node,
        workflow: Workflow | None,
        signal: str,
        fields: dict[str, Any],
        events: list[Event],
        *,
        memo: Mapping[str, Any] | None = None,
        rows: Sequence[Resource] = (),
    ) -> None:
        """Do what `signal` does, for a caller that holds the node already (`Store.owning`).

        Args:
            node: as it is.
            workflow: the node's workflow, if any.
            signal: what came.
            fields: fields of the node that it changes.
            events: what to tell of it.
            memo: what the woken workflow shall find in its memo.
            rows: other rows that become durable with it.
        """
        saves: list[Any] = []
        if workflow is not None and workflow.state is WorkflowState.WAITING and workflow.wait_for == signal:
            fields, facts = self._resumed(node, fields, workflow)
            events = [*events, *facts]
            left = {**workflow.memo, **(memo or {}), **({"unheld": True} if signal == UNHOLD else {})}
            saves.append(workflow.changed(state=WorkflowState.RUNNING, memo=left))
        if fields:
            saves.append(node.changed(**fields))
        saves.extend(rows)
        committed = await self._store.commit(Change(save=saves, events=events))
        if committed.saved and isinstance(committed.saved[0], Workflow):
            self._timers.drop(committed.saved[0].uuid)
            self.start(committed.saved[0])

    def _resumed(self, node: Node, fields: dict[str, Any], workflow: Workflow) -> tuple[dict[str, Any], list[Event]]:
        """The fields of a node whose workflow goes on, and what tells of each move that this takes."""
        fields, facts = {**fields, "reservation": self.hostname}, []
        state = node.provision_state.value
        for verb in ("unhold", "resume") if state.endswith(" hold") else ("resume",) if "wait" in state.split() else ():
            fields, fact = moved(self.table, node, fields, verb, workflow)
            facts.append(fact)
        return fields, facts

    async def abort(self, workflow: Workflow) -> None:
        """Give up a waiting or held workflow at a client's wish; its clean-up steps still run.

        The caller holds the node (`Store.owning`).
        """
        node = self._store.table(Node).get(workflow.node_uuid)
        if node is None:
            return
        definition = self._definitions[workflow.kind]
        text = "The operation was aborted on request."
        memo = copy.deepcopy(workflow.memo)
        memo["failure"] = {"code": "aborted", "text": text, "fired": True}
        step = workflow.steps[workflow.cursor] if workflow.cursor < len(workflow.steps) else None
        fields, fact = moved(self.table, node, {"last_error": text, "reservation": self.hostname}, "abort", workflow)
        ended = workflow.changed(
            state=WorkflowState.RUNNING,
            memo=memo,
            steps=[*workflow.steps[: workflow.cursor + 1], *definition.cleanup(node, workflow)],
            cursor=workflow.cursor + 1,
            attempt=1,
            wait_for=None,
            deadline=None,
        )
        events = [fact]
        journal: list[StepRecord] = []
        if step is not None:
            record = StepRecord(
                workflow_uuid=workflow.uuid,
                node_uuid=node.uuid,
                cursor=workflow.cursor,
                attempt=workflow.attempt,
                interface=step.interface,
                step=step.step,
                outcome="aborted",
                started_at=workflow.updated_at or workflow.started_at,
                ended_at=now(),
                detail=text,
            )
            journal.append(record)
            events.append(step_event(workflow, record))
        committed = await self._store.commit(Change(save=[ended, node.changed(**fields)], journal=journal, events=events))
        self._timers.drop(workflow.uuid)
        self.start(cast(Workflow, committed.saved[0]))

    def forget(self, workflow: Workflow) -> None:
        """Drop the deadline of a workflow that another one has taken the place of."""
        self._timers.drop(workflow.uuid)
        self._end_lookout(workflow.uuid)

    async def _tell_resumed(self, count: int, begun: float) -> None:
        # This task began after those of the workflows, and turns are taken in order: when ours comes, each of them is at its step.
        await self._turns.take()
        _log.info("resumed %d workflows in %.3f s", count, time.perf_counter() - begun)

    def _resume(self, workflow: Workflow) -> None:
        if workflow.state is WorkflowState.RUNNING:
            self.start(workflow)
        elif workflow.memo.get(LOOKOUT):
            self._look_out(workflow, _at_once)
        else:
            # The machine may have called while nobody listened; it does so again within the grace.
            self._arm(workflow, self._settings.restart_grace if workflow.wait_for not in _TIMED else 0.0)

    def _arm(self, workflow: Workflow, least: float = 0.0) -> None:
        if workflow.deadline is not None:
            self._timers.set(workflow.uuid, max(least, (workflow.deadline - now()).total_seconds()))

    def _expired(self, workflow_uuid: str) -> None:
        workflow = self._store.table(Workflow).get(workflow_uuid)
        if workflow is None or workflow.state is not WorkflowState.WAITING or self._group is None:
            return
        self._tasks[workflow_uuid] = self._group.create_task(self._overdue(workflow), name=f"deadline {workflow_uuid}")

    async def _overdue(self, workflow: Workflow) -> None:
        """The deadline of a waiting workflow has come: go on, or give up when something was awaited in vain."""
        try:
            woken = await self._wake(workflow, overdue=workflow.wait_for not in _TIMED)
        finally:
            self._tasks.pop(workflow.uuid, None)
        if woken is not None:
            self.start(woken)

    def _look_out(self, workflow: Workflow, look: Callable[[], Awaitable[None]]) -> None:
        """Call the step of a waiting workflow again when `look` returns; until then signals and the deadline hold."""
        if self._group is not None:
            self._lookouts[workflow.uuid] = self._group.create_task(self._seen_by(workflow, look), name=f"lookout {workflow.uuid}")

    async def _seen_by(self, workflow: Workflow, look: Callable[[], Awaitable[None]]) -> None:
        try:
            await look()
        except Exception:
            _log.exception("workflow %s of node %s waits without looking out", workflow.uuid, workflow.node_uuid)
            return
        woken = await self._wake(workflow, overdue=False)
        if self._lookouts.get(workflow.uuid) is asyncio.current_task():
            del self._lookouts[workflow.uuid]
        if woken is not None:
            self._timers.drop(workflow.uuid)
            self.start(woken)

    def _end_lookout(self, workflow_uuid: str) -> None:
        task = self._lookouts.pop(workflow_uuid, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _wake(self, workflow: Workflow, *, overdue: bool) -> Workflow | None:
        async with self._store.owning(workflow.node_uuid):
            node = self._store.table(Node).get(workflow.node_uuid)
            current = self._store.table(Workflow).get(workflow.uuid)
            if node is None or current is None or current.state is not WorkflowState.WAITING:
                return None
            fields, facts = self._resumed(node, {}, current)
            memo = copy.deepcopy(current.memo)
            if overdue:
                memo["overdue"] = True
            change = Change(save=[current.changed(state=WorkflowState.RUNNING, memo=memo), node.changed(**fields)], events=facts)
            try:
                committed = await self._store.commit(change)
            except Unavailable as error:
                _log.warning("node %s: cannot go on: %s; trying again in %.0f s", node.label, error, STORE_PAUSE)
                self._timers.set(workflow.uuid, STORE_PAUSE)
                return None
        woken = committed.saved[0]
        return woken if isinstance(woken, Workflow) else None

    async def _advance(self, workflow: Workflow) -> None:
        definition = self._definitions[workflow.kind]
        context = Context(self._store, self._registry, workflow, checkpoint=self._journal.boundary, progress=self._progress)
        runner = Runner(self._journal, definition, context, self._settings, self._stop.is_set, self._turns)
        try:
            with on_behalf_of(workflow.node_uuid):
                if context.memo.pop("overdue", False):
                    reason = context.memo.pop("waiting", "the machine")
                    await runner.overdue(DeadlineExceeded(f"Waited for {reason} in vain.", remedy=await self._seen(context)))
                await runner.run()
        except NodeGone:
            _log.info("workflow %s of node %s is no longer ours", workflow.uuid, workflow.node_uuid)
        except Exception:
            # A defect of ours must not take the other nodes with it, nor leave this one locked.
            _log.exception("workflow %s of node %s cannot go on", workflow.uuid, workflow.node_uuid)
            await self._give_up(context)
        finally:
            self._tasks.pop(workflow.uuid, None)
            event = self._idle.pop(workflow.node_uuid, None)
            if event is not None:
                event.set()
        self._look_again(context)

    async def _give_up(self, context: Context) -> None:
        text = f"Internal error in workflow {context.workflow.uuid}; the daemon's log has the details."
        context.fires.clear()
        context.pending.clear()
        fields = {"reservation": None, "workflow": None, "target_power_state": None, "last_error": text}
        ends = {"state": WorkflowState.FAILED, "cause": "internal", "last_error": text, "ended_at": now()}
        fail = self._definitions[context.workflow.kind].fail
        try:
            self.table.fire(context.node.provision_state, None, fail or "")
        except (WrongState, NotFound):
            fail = None
        with contextlib.suppress(NodeGone):
            await self._journal.boundary(context, workflow=ends, node=fields, fire=fail)

    def _look_again(self, context: Context) -> None:
        """After a task ended: wait for what its workflow waits for, or go on when a signal came in that very moment."""
        left = context.workflow
        current = self._store.table(Workflow).get(left.uuid)
        if current is None or self._stop.is_set():
            return
        if current.state is WorkflowState.WAITING:
            self._arm(current)
            if context.lookout is not None and current.memo.get(LOOKOUT):
                self._look_out(current, context.lookout)
        elif current.state is WorkflowState.RUNNING and current.version != left.version:
            self.start(current)

    async def _seen(self, context: Context) -> str:
        """What to tell of a machine that was waited for in vain."""
        try:
            seen = await last_seen(self._store, context.workflow)
        except Unavailable:
            seen = ""
        return f"{seen} Look at its console and at GET /v1/nodes/{context.node_uuid}/boots.".lstrip()
