"""What a running step sees of its node, and how it says what shall become durable with the next journal boundary.

Field changes are gathered, not applied: at the boundary they are merged onto the node as it then is, so that a change of
other fields by a client meanwhile is kept. The two dictionaries that several writers share (`driver_internal_info`,
`instance_info`) are merged key by key.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from metald.drivers.base import Boot, Deploy, Inspect, Management, Network, Power, Rescue
from metald.drivers.registry import Registry
from metald.errors import NotFound
from metald.model import Event, Internals, Node, PlannedStep, Port, Resource, Workflow
from metald.statemachine.progress import Progress
from metald.store.memory import Memory
from metald.store.store import Store

_SHARED = ("driver_internal_info", "instance_info")
_GONE = object()
R = TypeVar("R", bound=Resource)


class NodeView:
    """A node, its ports and its interfaces, always as they are at the moment of asking."""

    def __init__(self, store: Store, registry: Registry, node_uuid: str) -> None:
        self._store = store
        self._registry = registry
        self.node_uuid = node_uuid

    @property
    def node(self) -> Node:
        """The node as it is now.

        Raises:
            NotFound: it has been deleted.
        """
        found = self._store.table(Node).get(self.node_uuid)
        if found is None:
            raise NotFound(f"Node {self.node_uuid} could not be found.")
        return found

    @property
    def ports(self) -> Sequence[Port]:
        """The node's ports, oldest first."""
        return self._store.table(Port).where("node_uuid", self.node_uuid)

    def rows_of(self, kind: type[R]) -> Memory[R]:
        """Everything of a kind, as it is in memory."""
        return self._store.table(kind)

    @property
    def internals(self) -> Internals:
        """What is known of the machine's inside; empty when nothing is."""
        found = self._store.table(Internals).where("node_uuid", self.node_uuid)
        return found[0] if found else Internals(node_uuid=self.node_uuid)

    @property
    def power(self) -> Power:
        """The node's power interface."""
        return cast(Power, self._registry.for_node(self.node, "power"))

    @property
    def management(self) -> Management:
        """The node's management interface."""
        return cast(Management, self._registry.for_node(self.node, "management"))

    @property
    def boot(self) -> Boot:
        """The node's boot interface."""
        return cast(Boot, self._registry.for_node(self.node, "boot"))

    @property
    def deploy(self) -> Deploy:
        """The node's deploy interface."""
        return cast(Deploy, self._registry.for_node(self.node, "deploy"))

    @property
    def network(self) -> Network:
        """The node's network interface."""
        return cast(Network, self._registry.for_node(self.node, "network"))

    @property
    def inspect(self) -> Inspect:
        """The node's inspect interface."""
        return cast(Inspect, self._registry.for_node(self.node, "inspect"))

    @property
    def rescue(self) -> Rescue:
        """The node's rescue interface."""
        return cast(Rescue, self._registry.for_node(self.node, "rescue"))


class Pending:
    """Changes of a node's fields, and of its internals, that wait for the next boundary."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._keys: dict[str, dict[str, Any]] = {}
        self.internals: dict[str, Any] = {}

    def set(self, node: Node, fields: dict[str, Any]) -> None:
        """Add changes; `node` is what their maker saw."""
        for name, value in fields.items():
            if name in _SHARED:
                seen = getattr(node, name)
                delta = self._keys.setdefault(name, {})
                delta.update({k: v for k, v in value.items() if k not in seen or seen[k] != v})
                delta.update({k: _GONE for k in seen if k not in value})
            else:
                self._fields[name] = value

    def onto(self, node: Node) -> dict[str, Any]:
        """The changed fields as they are when merged onto `node`."""
        merged = dict(self._fields)
        for name, delta in self._keys.items():
            value = {k: v for k, v in getattr(node, name).items() if delta.get(k) is not _GONE}
            value.update({k: v for k, v in delta.items() if v is not _GONE})
            merged[name] = value
        return merged

    def clear(self) -> None:
        """Forget everything; it is durable now."""
        self.internals = {}
        self._fields = {}
        self._keys = {}


class Context(NodeView):
    """The StepContext of one run of a workflow."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        workflow: Workflow,
        *,
        checkpoint: Callable[[Context], Awaitable[None]],
        progress: Progress,
    ) -> None:
        super().__init__(store, registry, workflow.node_uuid)
        self.registry = registry
        self.workflow = workflow
        self.memo: dict[str, Any] = copy.deepcopy(workflow.memo)
        self.pending = Pending()
        self.notes: list[Event] = []
        self.fires: list[str] = []
        self.rows: list[Resource] = []
        self.gone: list[Resource] = []
        self.lookout: Callable[[], Awaitable[None]] | None = None
        """What looks out while the workflow waits (`Wait.look`)."""
        self._checkpoint = checkpoint
        self._progress = progress
        self._looked = 0

    @property
    def node(self) -> Node:
        """The node as it is now, with the changes that wait for the next boundary."""
        node = super().node
        fields = self.pending.onto(node)
        return msgspec.structs.replace(node, **fields) if fields else node

    @property
    def step(self) -> PlannedStep:
        """See StepContext."""
        return self.workflow.steps[self.workflow.cursor]

    @property
    def following(self) -> Sequence[PlannedStep]:
        """See StepContext."""
        return self.workflow.steps[self.workflow.cursor + 1 :]

    @property
    def internals(self) -> Internals:
        """What is known of the machine's inside, with the changes that wait for the next boundary."""
        return msgspec.structs.replace(super().internals, **self.pending.internals)

    def look(self) -> None:
        """A step is about to look at the node as it is now."""
        self._looked = super().node.version

    def wrote(self, saved: Sequence[Resource]) -> None:
        """A boundary of this run was written; its own change of the node is known to the step."""
        self._looked += sum(isinstance(resource, Node) for resource in saved)

    def changed_since_look(self) -> bool:
        """Whether anybody else changed the node since the step began to look."""
        found = self._store.table(Node).get(self.node_uuid)
        return found is None or found.version != self._looked

    def set(self, **fields: Any) -> None:
        """See StepContext."""
        self.pending.set(self.node, fields)

    def set_internals(self, **fields: Any) -> None:
        """See StepContext."""
        self.pending.internals.update(fields)

    def fire(self, event: str) -> None:
        """Move the node's provision state by `event` with the next boundary. For the engine's own steps."""
        self.fires.append(event)

    def save(self, row: Resource) -> None:
        """Write a row of another kind with the next boundary, whoever else changed it. For the engine's own steps."""
        self.rows.append(row)

    def delete(self, row: Resource) -> None:
        """Delete a row of another kind with the next boundary. For the engine's own steps."""
        self.gone.append(row)

    def forget(self) -> None:
        """Give up what was gathered for the next boundary. For the engine's own steps, when they fail."""
        self.pending.clear()
        self.notes.clear()
        self.rows.clear()
        self.gone.clear()

    async def checkpoint(self) -> None:
        """See StepContext."""
        await self._checkpoint(self)

    def progress(self, **fields: Any) -> None:
        """See StepContext."""
        self._progress.show(self.node_uuid, fields)

    def progress_ended(self) -> None:
        """The step has ended: what it showed of itself is over."""
        self._progress.over(self.node_uuid)

    def note(self, kind: str, **data: Any) -> None:
        """See StepContext."""
        self.notes.append(Event(type=f"node.{kind}", node_uuid=self.node_uuid, data=data))
