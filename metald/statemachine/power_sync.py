"""Power sync: looks at every node's power now and then, and records what it sees. It never changes the hardware.

The fleet is walked as one smooth stream: each node has its own moment within the interval, so there are no rounds and no
rush. A node that a workflow drives, or that is in maintenance or not yet verified, is passed over. One whose power cannot
be read three times in a row goes into maintenance with the fault `power failure`, and comes back by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from metald.drivers.registry import Registry
from metald.errors import MetaldError, NotFound
from metald.model import Event, Fault, Node, PowerState, ProvisionState
from metald.statemachine.context import NodeView
from metald.store.changes import Change
from metald.store.store import Store

_log = logging.getLogger(__name__)

_SKIPPED = frozenset(
    {ProvisionState.ENROLL, ProvisionState.VERIFYING, ProvisionState.CLEAN_WAIT, ProvisionState.WAIT_CALL_BACK, ProvisionState.ADOPT_FAILED}
)
_IN_FLIGHT = 256
_FAILURES = 3


class PowerSync:
    """Observes power.

    Args:
        store: the state.
        registry: hardware types and interfaces.
        interval: seconds between two looks at one node; 0 never looks.
        background: a context in which drivers give others precedence.
    """

    def __init__(self, store: Store, registry: Registry, interval: float, background: Callable[[], AbstractContextManager[object]]) -> None:
        self._background = background
        self._store = store
        self._registry = registry
        self._interval = interval
        self._gate = asyncio.Semaphore(_IN_FLIGHT)
        self._strikes: dict[str, int] = {}

    async def run(self) -> None:
        """Walk the fleet, for ever."""
        if self._interval <= 0:
            return
        async with asyncio.TaskGroup() as group:
            while True:
                nodes = self._store.table(Node).all()
                pause = self._interval / max(1, len(nodes))
                self._strikes = {node.uuid: self._strikes[node.uuid] for node in nodes if node.uuid in self._strikes}
                for node in nodes:
                    await asyncio.sleep(pause)
                    if self._wanted(self._store.table(Node).get(node.uuid)):
                        await self._gate.acquire()
                        group.create_task(self._look(node.uuid))
                if not nodes:
                    await asyncio.sleep(self._interval)

    def _wanted(self, node: Node | None) -> bool:
        return (
            node is not None
            and node.reservation is None
            and node.target_power_state is None
            and (not node.maintenance or node.fault == Fault.POWER)
            and node.provision_state not in _SKIPPED
        )

    async def _look(self, uuid: str) -> None:
        try:
            view = NodeView(self._store, self._registry, uuid)
            with self._background():
                state = await view.power.get_power_state(view)
            await self._seen(uuid, state)
        except NotFound:
            self._strikes.pop(uuid, None)
        except MetaldError as error:
            await self._strike(uuid, error)
        except Exception:
            _log.exception("node %s: power sync has a defect", uuid)
        finally:
            self._gate.release()

    async def _seen(self, uuid: str, state: PowerState) -> None:
        """Record an observed power state, and that the BMC is back if it was away."""
        self._strikes.pop(uuid, None)
        async with self._store.owning(uuid):
            node = self._store.table(Node).get(uuid)
            if node is None or not self._wanted(node):
                return
            fields: dict[str, Any] = {}
            facts = []
            if node.power_state != state:
                fields["power_state"] = state
                facts.append(Event(type="node.power_seen", node_uuid=uuid, data={"from": node.power_state, "to": state}))
            if node.fault == Fault.POWER:
                _log.info("node %s: its power can be read again", node.label)
                fields |= {"fault": None, "maintenance": False, "maintenance_reason": None}
                facts.append(
                    Event(type="node.maintenance", node_uuid=uuid, data={"maintenance": False, "reason": "Its power can be read again."})
                )
            if fields:
                await self._store.commit(Change(save=[node.changed(**fields)], events=facts))

    async def _strike(self, uuid: str, error: MetaldError) -> None:
        """Count a look that failed; after some the node is out of service until a look succeeds."""
        self._strikes[uuid] = self._strikes.get(uuid, 0) + 1
        if self._strikes[uuid] < _FAILURES:
            return
        reason = f"The power state could not be read {_FAILURES} times in a row: {error}"
        async with self._store.owning(uuid):
            node = self._store.table(Node).get(uuid)
            if node is None or not self._wanted(node) or node.fault == Fault.POWER:
                return
            _log.warning("node %s: %s", node.label, reason)
            fact = Event(type="node.maintenance", node_uuid=uuid, severity="ERROR", data={"maintenance": True, "reason": reason})
            changed = node.changed(maintenance=True, maintenance_reason=reason, fault=Fault.POWER)
            try:
                await self._store.commit(Change(save=[changed], events=[fact]))
            except MetaldError as refused:
                _log.warning("node %s: %s", node.label, refused)
