"""What every door to the machines needs: finding a node, waiting until it is free, starting a workflow without a verb."""

from __future__ import annotations

from typing import Any, cast

from metald.config import Settings
from metald.drivers.registry import Registry
from metald.errors import Busy, NotFound
from metald.model import Event, Node, Resource, Workflow
from metald.statemachine import admission
from metald.statemachine.context import NodeView
from metald.statemachine.engine import Engine
from metald.statemachine.observations import of_step
from metald.store.changes import Change
from metald.store.store import Store


class Door:
    """Base of the doors.

    Args:
        store: the state.
        registry: hardware types and interfaces.
        engine: runs the workflows.
        settings: defaults and timeouts.
    """

    def __init__(self, store: Store, registry: Registry, engine: Engine, settings: Settings) -> None:
        self._store = store
        self._registry = registry
        self._engine = engine
        self._settings = settings
        self.hostname = engine.hostname

    def _node(self, node_uuid: str) -> Node:
        node = self._store.table(Node).get(node_uuid)
        if node is None:
            raise NotFound(f"Node {node_uuid} could not be found.")
        return node

    def _view(self, node_uuid: str) -> NodeView:
        self._node(node_uuid)
        return NodeView(self._store, self._registry, node_uuid)

    def _busy(self, node: Node) -> Busy:
        return admission.busy(node, self.hostname)

    async def _free(self, node_uuid: str) -> None:
        """Wait a little while a workflow owns the node; the caller looks again when it holds the node itself."""
        if self._node(node_uuid).reservation is not None:
            await self._engine.idle(node_uuid, self._settings.api.lock_wait)

    async def settled(self, node_uuid: str) -> Node:
        """The node after a short wait for what drives it.

        Raises:
            NotFound: there is no such node, or not any more.
        """
        await self._free(node_uuid)
        return self._node(node_uuid)

    def _past(self, node: Node) -> list[Resource]:
        """The node's ended workflows. Its journal and events tell what they did; memory holds only the last one."""
        return [w for w in self._store.table(Workflow).where("node_uuid", node.uuid) if w.state.ended]

    async def _start(self, node: Node, workflow: Workflow, fields: dict[str, Any], event: Event) -> None:
        """Run a workflow that moves no provision state. The caller holds the node (`Store.owning`), which is free."""
        changed = node.changed(reservation=self.hostname, **fields)
        committed = await self._store.commit(Change(save=[workflow, changed], delete=self._past(node), events=[event, *of_step(workflow)]))
        self._engine.start(cast(Workflow, committed.saved[0]))
