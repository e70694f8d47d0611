"""Where nodes stand when something happens to them: noted with each event, so that it is told to the same readers now and later.

Rules: what a change makes of a node is known from the change; of a node that a change does not write, memory knows it at the
moment of the commit. A node that was deleted is known for a while as it was last, for what is told of it afterwards.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from metald.model import Event, Node, Resource
from metald.model.event import Standing
from metald.store.changes import Change
from metald.store.memory import Memory

_MOST_GONE = 10_000
_UNKNOWN = Standing()
_replace = msgspec.structs.replace

Ends = tuple[Standing | None, Standing | None]
_NOBODY: Ends = (None, None)


class Standings:
    """Args:
    nodes: the table that is read.
    """

    def __init__(self, nodes: Memory[Node]) -> None:
        self._nodes = nodes
        self._gone: OrderedDict[str, Standing] = OrderedDict()

    def now(self, uuid: str) -> Standing | None:
        """How a node stands, or stood when it was deleted; None of a node that is not known."""
        node = self._nodes.get(uuid)
        return self._gone.get(uuid) if node is None else Standing.of(node)

    def remember(self, deleted: Resource) -> None:
        """Keep how a deleted node stood."""
        if isinstance(deleted, Node):
            self._gone[deleted.uuid] = Standing.of(deleted)
            if len(self._gone) > _MOST_GONE:
                self._gone.popitem(last=False)

    def noted(self, change: Change) -> Change:
        """The change with events of its own, which say how their nodes stand before it and after it."""
        if not change.events:
            return change
        ends: dict[str, Ends] = {}
        for row in change.save:
            if type(row) is Node:
                ends[row.uuid] = self._saved(row)
        for row in change.delete:
            if type(row) is Node:
                ends[row.uuid] = Standing.of(row), None
        told: list[Event] = []
        for event in change.events:
            uuid = event.node_uuid
            if uuid is None:
                before, after = _NOBODY
            elif uuid in ends:
                before, after = ends[uuid]
            else:
                before, after = ends[uuid] = None, self.now(uuid) or _UNKNOWN
            told.append(_replace(event, after=after) if before is None else _replace(event, before=before, after=after))
        return Change(change.save, change.delete, change.journal, told)

    def _saved(self, row: Node) -> Ends:
        old = self._nodes.get(row.uuid) if row.version else None
        if old is None or (old.provision_state, old.owner, old.shard, old.lessee) == (
            row.provision_state,
            row.owner,
            row.shard,
            row.lessee,
        ):
            return None, Standing.of(row)
        return Standing.of(old), Standing.of(row)
