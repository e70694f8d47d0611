"""Power sync: looks at every node's power now and then, and records what it sees. It never changes the hardware.

The fleet is walked as one smooth stream: each node has its own moment within the interval, so there are no rounds and no
rush. A node that a workflow drives, or that is in maintenance or not yet verified, is passed over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

from metald.drivers.registry import Registry
from metald.errors import MetaldError, NotFound
from metald.model import Event, Node, ProvisionState
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
                for node in nodes:
                    await asyncio.sleep(pause)
                    if self._wanted(node.uuid):
                        await self._gate.acquire()
                        group.create_task(self._look(node.uuid))
                if not nodes:
                    await asyncio.sleep(self._interval)

    def _wanted(self, uuid: str) -> bool:
        node = self._store.table(Node).get(uuid)
        return (
            node is not None
            and node.reservation is None
            and node.target_power_state is None
            and not node.maintenance
            and node.provision_state not in _SKIPPED
        )

    async def _look(self, uuid: str) -> None:
        try:
            view = NodeView(self._store, self._registry, uuid)
            label = view.node.label
            with self._background():
                state = await view.power.get_power_state(view)
            if self._strikes.pop(uuid, 0) >= _FAILURES:
                _log.info("node %s: its power can be read again", label)
            async with self._store.owning(uuid):
                node = self._store.table(Node).get(uuid)
                if node is None or node.power_state == state or not self._wanted(uuid):
                    return
                fact = Event(type="node.power_seen", node_uuid=uuid, data={"from": node.power_state, "to": state})
                await self._store.commit(Change(save=[node.changed(power_state=state)], events=[fact]))
        except NotFound:
            self._strikes.pop(uuid, None)
        except MetaldError as error:
            self._strikes[uuid] = self._strikes.get(uuid, 0) + 1
            if self._strikes[uuid] == _FAILURES:
                _log.warning("node %s: its power cannot be read: %s", uuid, error)
        except Exception:
            _log.exception("node %s: power sync has a defect", uuid)
        finally:
            self._gate.release()
