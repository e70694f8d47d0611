"""Journal boundaries: the one place where a running workflow writes.

A boundary takes the node as it is now, merges what the step gathered onto it, moves its provision state when asked to,
and commits node, workflow, journal line and events as one change. When it returns, all of it is durable.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from metald.errors import StaleVersion, Unavailable
from metald.model import Event, Node, Resource, StepRecord, Workflow, now
from metald.statemachine.context import Context
from metald.statemachine.observations import of_changes, of_step
from metald.statemachine.table import FAILED, Table
from metald.store.changes import Change, Committed
from metald.store.store import Store

_log = logging.getLogger(__name__)


class NodeChanged(Exception):
    """Somebody changed the node since the step looked at it; what the step waits for may be there already."""


class NodeGone(Exception):
    """The node, or the workflow, was deleted or taken over; the run has nothing left to do."""


def moved(table: Table, node: Node, fields: dict[str, Any], event: str, workflow: Workflow | None) -> tuple[dict[str, Any], Event]:
    """The fields of a node after `event`, and the event that tells of it.

    Args:
        table: the transition table.
        node: the node before.
        fields: other changed fields, which may hold an earlier move already.
        event: verb or internal event.
        workflow: the workflow that moves it, if any.

    Raises:
        WrongState: the event does not lead on.
    """
    state = fields.get("provision_state", node.provision_state)
    target = fields.get("target_provision_state", node.target_provision_state)
    new_state, new_target = table.fire(state, target, event)
    moment = now()
    since = fields.get("provision_updated_at", node.provision_updated_at) or node.created_at
    fact = Event(
        type="node.provision",
        node_uuid=node.uuid,
        severity="ERROR" if event == "fail" or new_state in FAILED else "INFO",
        user=workflow.requested_by if workflow else None,
        time=moment,
        data={
            "event": event,
            "from": state,
            "to": new_state,
            "target": new_target,
            "previous_target": target,
            "workflow": workflow.uuid if workflow else None,
            "kind": workflow.kind if workflow else None,
            "cause": workflow.memo.get("failure", {}).get("code") if workflow else None,
            "error": fields.get("last_error"),
            "seconds": round((moment - since).total_seconds(), 3),
        },
    )
    return (
        {**fields, "provision_state": new_state, "target_provision_state": new_target, "provision_updated_at": moment},
        fact,
    )


def step_event(workflow: Workflow, record: StepRecord) -> Event:
    """The event that tells of a journal line of a workflow that has gone on to its next step."""
    begun = workflow.steps[workflow.cursor] if workflow.cursor > record.cursor and workflow.cursor < len(workflow.steps) else None
    return Event(
        type="node.step",
        node_uuid=record.node_uuid,
        subject=workflow.uuid,
        severity="ERROR" if record.outcome in ("failed", "retry") else "INFO",
        user=workflow.requested_by,
        time=record.ended_at,
        data={
            "kind": workflow.kind,
            "interface": record.interface,
            "step": record.step,
            "outcome": record.outcome,
            "attempt": record.attempt,
            "seconds": round((record.ended_at - record.started_at).total_seconds(), 3),
            "detail": record.detail,
            "next": f"{begun.interface}.{begun.step}" if begun is not None and not workflow.state.ended else None,
        },
    )


class Journal:
    """Writes boundaries to the store.

    Args:
        store: where to.
        table: the transition table.
        hostname: this conductor's name, which reserves nodes.
    """

    def __init__(self, store: Store, table: Table, hostname: str) -> None:
        self._store = store
        self._table = table
        self._hostname = hostname

    async def boundary(
        self,
        context: Context,
        *,
        workflow: dict[str, Any] | None = None,
        node: dict[str, Any] | None = None,
        fire: str | None = None,
        record: StepRecord | None = None,
        events: Sequence[Event] = (),
        unchanged: bool = False,
    ) -> None:
        """Commit everything that `context` gathered, plus the given changes.

        A store that cannot take it now is tried again until it can.

        Args:
            unchanged: only while the node is still as the step saw it. A signal that is being written while the step
                looks would be lost otherwise: it finds no waiting workflow to wake.

        Raises:
            NodeChanged: it is not.
            NodeGone: the node or the workflow is no longer there, or somebody else's.
        """
        fires = [*context.fires, *([fire] if fire else [])]
        pause = 0.25
        while True:
            try:
                async with self._store.owning(context.node_uuid):
                    if unchanged and context.changed_since_look():
                        context.notes.clear()
                        raise NodeChanged
                    change = self._change(context, workflow or {}, node or {}, fires, record, events)
                    committed = await self._store.commit(change)
                break
            except StaleVersion as error:
                raise NodeGone from error
            except Unavailable as error:
                _log.warning("node %s: cannot write its journal: %s; trying again in %.1f s", context.node_uuid, error, pause)
                await asyncio.sleep(pause)
                pause = min(10.0, pause * 2)
        self._settle(context, committed)

    def _change(
        self,
        context: Context,
        workflow: dict[str, Any],
        fields: dict[str, Any],
        fires: list[str],
        record: StepRecord | None,
        events: Sequence[Event],
    ) -> Change:
        current = self._store.table(Node).get(context.node_uuid)
        known = self._store.table(Workflow).get(context.workflow.uuid)
        if current is None or known is None or known.state.ended:
            raise NodeGone
        # A request to abort may have come meanwhile; everything else of a running workflow is written only here.
        # most boundaries leave the memo as it is; it is compared in no time, and copied deep down in twenty times that
        memo = known.memo if context.memo == known.memo else copy.deepcopy(context.memo)
        new_workflow = known.changed(memo=memo, **workflow)
        changed = {**context.pending.onto(current), **fields}
        if changed.get("reservation", ...) is None and self._held_by_others(current, known):
            del changed["reservation"]
        facts = [*context.notes, *of_changes(current, changed, new_workflow)]
        if record is not None:
            facts.append(step_event(new_workflow, record))
        for event in fires:
            changed, fact = moved(self._table, current, changed, event, new_workflow)
            facts.append(fact)
        facts.extend(events)
        if new_workflow.cursor != known.cursor:
            facts.extend(of_step(new_workflow))
        saves: list[Any] = [new_workflow]
        if any(getattr(current, name) != value for name, value in changed.items()):
            saves.append(current.changed(**changed))
        if context.pending.internals:
            saves.append(context.internals.changed())
        saves.extend(row for row in map(self._latest, context.rows) if row is not None)
        gone = [row for row in context.gone if self._latest(row) is not None]
        return Change(save=saves, delete=gone, journal=[record] if record else [], events=facts)

    def _latest(self, row: Resource) -> Resource | None:
        """The row as it shall be, over whatever was written since it was read; None when it was deleted meanwhile."""
        known = self._store.table(type(row)).get(row.uuid)
        if known is None:
            return None if row.version else row
        return msgspec.structs.replace(row, id=known.id, version=known.version)

    def _held_by_others(self, node: Node, ours: Workflow) -> bool:
        """Whether another workflow keeps the node locked: any but the node's own while that waits for its ramdisk or is held."""
        waits = node.provision_state.value.endswith((" wait", " call-back", " hold"))
        others = self._store.table(Workflow).where("node_uuid", node.uuid)
        return any(w.uuid != ours.uuid and not w.state.ended and not (waits and w.uuid == node.workflow) for w in others)

    def _settle(self, context: Context, committed: Committed) -> None:
        context.workflow = cast(Workflow, committed.saved[0])
        context.wrote(committed.saved)
        context.pending.clear()
        context.notes.clear()
        context.rows.clear()
        context.gone.clear()
        context.fires.clear()
