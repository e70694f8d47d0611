"""Runs one workflow from where its journal says it is until it waits or ends.

Rules:

- Every outcome of a step is one transaction: step journal, workflow, node and events, or none of them (`Journal.boundary`).
- A step is called again after a crash, a wake-up or a retry; it looks before it acts.
- The workflow that another daemon has taken over is left alone: its version no longer matches.
- A store that is gone is waited for. A deployment never fails because of us.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from metald.config import Conductor as ConductorSettings
from metald.drivers.base import Done, Hold, Outcome, Wait
from metald.errors import DeadlineExceeded, MetaldError, Unsupported, WorldError
from metald.model import Event, PlannedStep, StepRecord, Workflow, WorkflowKind, WorkflowState, now
from metald.statemachine.context import Context
from metald.statemachine.definition import Definition
from metald.statemachine.journal import Journal, NodeChanged
from metald.statemachine.steps import engine_step
from metald.turns import Turns

_log = logging.getLogger(__name__)

RETRY = "retry"
"""What a workflow waits for between two tries of a step."""

UNHOLD = "unhold"
"""What a held workflow waits for."""

LOOKOUT = "lookout"
"""In a workflow's memo: whether the step that waits looks out by itself (`Wait.look`)."""


class Runner:
    """Advances one workflow.

    Args:
        journal: writes the boundaries.
        definition: of the workflow's kind.
        context: the node, the workflow and what is gathered for the next boundary.
        settings: retries.
        stopping: whether the daemon wants to stop at the next boundary.
        turns: shared with the other workflows; each step takes one.
    """

    def __init__(
        self,
        journal: Journal,
        definition: Definition,
        context: Context,
        settings: ConductorSettings,
        stopping: Callable[[], bool],
        turns: Turns,
    ) -> None:
        self._journal = journal
        self._definition = definition
        self._context = context
        self._settings = settings
        self._stopping = stopping
        self._turns = turns

    async def run(self) -> None:
        """Run steps until the workflow waits or ends, or the daemon stops."""
        context = self._context
        while context.workflow.state is WorkflowState.RUNNING and not self._stopping():
            await self._turns.take()
            workflow = context.workflow
            if workflow.cursor >= len(workflow.steps):
                await self._end(None, now(), Done())
                continue
            step = workflow.steps[workflow.cursor]
            if workflow.abort_requested and "failure" not in context.memo:
                await self._failed(step, now(), MetaldError("The operation was aborted by its owner."), "aborted")
                continue
            await self._attempt(step)

    async def overdue(self, error: DeadlineExceeded) -> None:
        """The present step waited in vain: fail it or do what it planned for that, unless a last look finds what it waited for."""
        workflow = self._context.workflow
        step = workflow.steps[workflow.cursor]
        started = now()
        try:
            outcome = await self._call(step)
        except MetaldError:
            outcome = Wait("", 0, "")
        if isinstance(outcome, Done):
            await self._done(step, started, outcome)
        elif isinstance(outcome, Wait) and outcome.instead:
            await self._detour(step, started, outcome.instead, error)
        elif isinstance(outcome, Wait) and outcome.look is not None:
            await self._wait(step, started, outcome)  # it saw that what it waits for goes on, whatever nobody told
        else:
            await self._failed(step, started, error, error.code)

    async def _detour(self, step: PlannedStep, started: datetime, steps: Sequence[PlannedStep], error: DeadlineExceeded) -> None:
        workflow = self._context.workflow
        at = workflow.cursor + 1
        await self._journal.boundary(
            self._context,
            workflow={
                "steps": [*workflow.steps[:at], *steps, *workflow.steps[at:]],
                "cursor": at,
                "attempt": 1,
                "wait_for": None,
                "deadline": None,
            },
            node=self._shown(steps[0]),
            record=self._record(step, started, "retry", str(error)),
        )

    async def _attempt(self, step: PlannedStep) -> None:
        started = now()
        try:
            self._context.look()
            outcome = await self._timely(step)
        except MetaldError as error:
            await self._retry_or_fail(step, started, error)
        except Exception:
            _log.exception("node %s: step %s.%s has a defect", self._context.node_uuid, step.interface, step.step)
            text = (
                f"Internal error in step {step.interface}.{step.step}; the daemon's log of {started:%Y-%m-%d %H:%M:%S} UTC has the details."
            )
            await self._failed(step, started, MetaldError(text), "internal")
        else:
            if isinstance(outcome, Wait):
                await self._wait(step, started, outcome)
            elif isinstance(outcome, Hold):
                await self._hold(step, started, outcome)
            else:
                await self._done(step, started, outcome)

    async def _timely(self, step: PlannedStep) -> Outcome:
        """Call the step within the time that any step may take."""
        limit = self._settings.step_timeout
        try:
            async with asyncio.timeout(limit) as timeout:
                return await self._call(step)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(
                f"It took longer than {limit:.0f} s.", remedy="See the node's time-line, or raise conductor.step_timeout."
            ) from None
        finally:
            self._context.progress_ended()

    def _call(self, step: PlannedStep) -> Awaitable[Outcome]:
        if step.in_band:
            return self._context.deploy.agent_step(self._context)
        core = engine_step(step.interface, step.step)
        if core is not None:
            return core(self._context, **step.args)
        interface = self._context.registry.for_node(self._context.node, step.interface)
        method = getattr(interface, step.step, None)
        if method is None or not getattr(method, "_metald_steps", ()):
            raise Unsupported(f"The {step.interface} interface {interface.name} has no step {step.step}.")
        found: Awaitable[Outcome] = method(self._context, **step.args)
        return found

    async def _done(self, step: PlannedStep, started: datetime, outcome: Done) -> None:
        workflow = self._context.workflow
        following = workflow.steps[workflow.cursor + 1 :] if outcome.following is None else list(outcome.following)
        if not following:
            await self._end(step, started, outcome)
            return
        await self._journal.boundary(
            self._context,
            workflow={
                "steps": [*workflow.steps[: workflow.cursor + 1], *following],
                "cursor": workflow.cursor + 1,
                "attempt": 1,
                "wait_for": None,
                "deadline": None,
            },
            node=self._shown(following[0]),
            record=self._record(step, started, "done", outcome.detail),
        )

    async def _wait(self, step: PlannedStep, started: datetime, outcome: Wait) -> None:
        workflow = self._context.workflow
        again = workflow.wait_for == outcome.signal and workflow.deadline is not None and outcome.signal != "timer"
        deadline = workflow.deadline if again and not outcome.renew else now() + timedelta(seconds=outcome.timeout)
        self._context.memo["waiting"] = outcome.reason
        self._context.memo[LOOKOUT] = outcome.look is not None
        self._context.lookout = outcome.look
        # When the node changed while the step looked, `run` calls the step again instead.
        with contextlib.suppress(NodeChanged):
            await self._journal.boundary(
                self._context,
                workflow={"state": WorkflowState.WAITING, "wait_for": outcome.signal, "deadline": deadline},
                node={"reservation": None} if outcome.callback else {},
                fire="wait" if outcome.callback else None,
                record=None if again else self._record(step, started, "wait", outcome.reason),
                unchanged=outcome.signal != "timer",
            )

    async def _hold(self, step: PlannedStep, started: datetime, outcome: Hold) -> None:
        await self._journal.boundary(
            self._context,
            workflow={"state": WorkflowState.WAITING, "wait_for": UNHOLD, "deadline": None},
            node={"reservation": None},
            fire="hold",
            record=self._record(step, started, "hold", outcome.detail),
        )

    async def _retry_or_fail(self, step: PlannedStep, started: datetime, error: MetaldError) -> None:
        workflow = self._context.workflow
        passing = isinstance(error, WorldError) and error.transient
        if not passing or workflow.attempt >= self._settings.step_attempts:
            await self._failed(step, started, error, error.code)
            return
        delay = self._settings.retry_delay * 2 ** (workflow.attempt - 1) * random.uniform(0.75, 1.25)  # noqa: S311
        await self._journal.boundary(
            self._context,
            workflow={
                "state": WorkflowState.WAITING,
                "wait_for": RETRY,
                "deadline": now() + timedelta(seconds=delay),
                "attempt": workflow.attempt + 1,
            },
            record=self._record(step, started, "retry", str(error)),
        )

    async def _failed(self, step: PlannedStep, started: datetime, error: MetaldError, code: str) -> None:
        context, workflow = self._context, self._context.workflow
        record = self._record(step, started, "failed", str(error))
        if "failure" in context.memo:
            # Cleaning up goes on at its best: the first failure is the one that counts.
            if workflow.cursor + 1 >= len(workflow.steps):
                await self._end(step, started, None, record)
            else:
                await self._journal.boundary(context, workflow={"cursor": workflow.cursor + 1, "attempt": 1}, record=record)
            return
        text = f"Failed at step {step.interface}.{step.step}: {error}"
        context.memo["failure"] = {"code": code, "text": text, "drivers": engine_step(step.interface, step.step) is None}
        if isinstance(error, WorldError) and error.exchange:
            context.memo["failure"]["exchange"] = list(error.exchange)
        cleanup = self._definition.cleanup(context.node, workflow)
        if not cleanup:
            await self._end(step, started, None, record)
            return
        await self._journal.boundary(
            context,
            workflow={
                "steps": [*workflow.steps[: workflow.cursor + 1], *cleanup],
                "cursor": workflow.cursor + 1,
                "attempt": 1,
                "wait_for": None,
                "deadline": None,
            },
            node={"last_error": text},
            record=record,
        )

    async def _end(self, step: PlannedStep | None, started: datetime, outcome: Done | None, record: StepRecord | None = None) -> None:
        context = self._context
        workflow = msgspec.structs.replace(context.workflow, memo=context.memo)
        failure = context.memo.get("failure")
        if record is None and step is not None:
            record = self._record(step, started, "done", outcome.detail if outcome else "")
        node: dict[str, Any] = {"reservation": None, **self._shown(None)}
        if context.node.workflow == workflow.uuid:
            node["workflow"] = None
        if failure is None:
            ends = {"state": WorkflowState.DONE, "wait_for": None}
            node |= {"last_error": None, **self._definition.succeeded(context.node, workflow)}
            event = self._definition.done(context.node, workflow)
        else:
            aborted = failure["code"] == "aborted"
            ends = {
                "state": WorkflowState.ABORTED if aborted else WorkflowState.FAILED,
                "cause": failure["code"],
                "last_error": failure["text"],
                "wait_for": None,
            }
            node |= {"last_error": failure["text"], **self._definition.failed(context.node, workflow)}
            event = None if failure.get("fired") else self._definition.fail
        await self._journal.boundary(
            context,
            workflow={**ends, "cursor": len(workflow.steps), "deadline": None, "ended_at": now()},
            node=node,
            fire=event,
            record=record,
            events=[_ended(workflow, ends, failure)],
        )

    def _record(self, step: PlannedStep, started: datetime, outcome: str, detail: str) -> StepRecord:
        workflow = self._context.workflow
        return StepRecord(
            workflow_uuid=workflow.uuid,
            node_uuid=workflow.node_uuid,
            cursor=workflow.cursor,
            attempt=workflow.attempt,
            interface=step.interface,
            step=step.step,
            outcome=outcome,
            started_at=started,
            ended_at=now(),
            detail=detail,
        )

    def _shown(self, step: PlannedStep | None) -> dict[str, Any]:
        return shown(self._definition, step)


def _ended(workflow: Workflow, ends: dict[str, Any], failure: dict[str, Any] | None) -> Event:
    """The event that tells of a workflow's end; after a failure with what was said to the machine last."""
    said = {"exchange": failure["exchange"]} if failure and "exchange" in failure else {}
    if workflow.kind is WorkflowKind.POWER and workflow.steps:
        said["target"] = workflow.steps[0].args["target"]
    return Event(
        type="node.workflow",
        node_uuid=workflow.node_uuid,
        subject=workflow.uuid,
        severity="ERROR" if ends["state"] is WorkflowState.FAILED else "INFO",
        user=workflow.requested_by,
        data={
            "kind": workflow.kind,
            "state": ends["state"],
            "cause": ends.get("cause"),
            "error": ends.get("last_error"),
            "seconds": round((now() - workflow.started_at).total_seconds(), 3),
            **said,
        },
    )


def shown(definition: Definition, step: PlannedStep | None) -> dict[str, Any]:
    """The change of the node that makes the API show `step` as the present one; None shows that there is none."""
    if definition.step_field is None:
        return {}
    if step is None:
        return {definition.step_field: {}}
    return {definition.step_field: {"interface": step.interface, "step": step.step, "args": step.args, "priority": step.priority}}
