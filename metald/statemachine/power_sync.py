"""Power sync: looks at every node's power now and then, and records what it sees.

Rules:

- The fleet is walked as one smooth stream: each node has its own moment within the interval, so there are no rounds and no
  rush. A stream that was held up goes on at the same pace; it does not catch up.
- What is seen and what was last asked for are two things. `power_state` is what is seen; what was asked for is
  `driver_internal_info["power_wanted"]`, written with each power change. A difference is reported and, unless the settings
  ask for it, never corrected: somebody may have pressed the button for a reason.
- A node that a workflow drives, or that is in maintenance or not yet verified, is passed over.
- A node whose power cannot be read three times in a row, or that does not come back to the wanted power in as many
  corrections, goes into maintenance with the fault `power failure`; it comes back by itself once its power can be read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from metald.drivers.registry import Registry
from metald.errors import Busy, MetaldError, NotFound, WorldError
from metald.model import Event, Fault, Node, PowerState, PowerTarget, ProvisionState
from metald.statemachine.context import NodeView
from metald.store.changes import Change
from metald.store.store import Store

_log = logging.getLogger(__name__)

_SKIPPED = frozenset(
    {ProvisionState.ENROLL, ProvisionState.VERIFYING, ProvisionState.CLEAN_WAIT, ProvisionState.WAIT_CALL_BACK, ProvisionState.ADOPT_FAILED}
)
_IN_FLIGHT = 256
_FAILURES = 3
_TICK = 0.02  # seconds; nodes whose moments lie closer together are begun together
_MOST_LATE = 1.0
_TARGETS = {PowerState.ON: PowerTarget.ON, PowerState.OFF: PowerTarget.OFF}

Correct = Callable[[str, PowerTarget], Awaitable[None]]
"""Start a power change of a node."""


class PowerSync:
    """Observes power.

    Args:
        store: the state.
        registry: hardware types and interfaces.
        interval: seconds between two looks at one node; 0 never looks.
        background: a context in which drivers give others precedence.
        correct: brings a node's power back to what was asked for; None only reports.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        interval: float,
        background: Callable[[], AbstractContextManager[object]],
        correct: Correct | None = None,
    ) -> None:
        self._background = background
        self._store = store
        self._registry = registry
        self._interval = interval
        self._correct = correct
        self._looking: set[str] = set()
        self._gate = asyncio.Semaphore(_IN_FLIGHT)
        self._strikes: dict[str, int] = {}
        self._corrections: dict[str, int] = {}

    async def run(self) -> None:
        """Walk the fleet, for ever."""
        if self._interval <= 0:
            return
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with asyncio.TaskGroup() as group:
            while True:
                nodes = self._store.table(Node).all()
                known = {node.uuid for node in nodes}
                for counts in (self._strikes, self._corrections):
                    for uuid in counts.keys() - known:
                        del counts[uuid]
                for index, node in enumerate(nodes):
                    late = loop.time() - begin - index * self._interval / len(nodes)
                    if late < 0:
                        await asyncio.sleep(max(-late, _TICK))
                    elif late > _MOST_LATE:
                        begin += late
                    if node.uuid not in self._looking and self._wanted(self._store.table(Node).get(node.uuid)):
                        self._looking.add(node.uuid)
                        await self._gate.acquire()
                        group.create_task(self._look(node.uuid))
                begin += self._interval
                await asyncio.sleep(max(0.0, begin - loop.time()))

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
            self._looking.discard(uuid)
            self._gate.release()

    async def _seen(self, uuid: str, state: PowerState) -> None:
        """Record an observed power state, and that the BMC is back if it was away."""
        self._strikes.pop(uuid, None)
        node = self._store.table(Node).get(uuid)
        if node is None or (node.power_state == state and node.fault != Fault.POWER and not self._differs(node, state)):
            self._corrections.pop(uuid, None)
            return
        async with self._store.owning(uuid):
            node = self._store.table(Node).get(uuid)
            if node is None or not self._wanted(node):
                return
            fields: dict[str, Any] = {}
            facts = []
            if node.power_state != state:
                fields["power_state"] = state
                data = {"from": node.power_state, "to": state, "wanted": node.driver_internal_info.get("power_wanted")}
                facts.append(Event(type="node.power_seen", node_uuid=uuid, data=data))
            if node.fault == Fault.POWER:
                _log.info("node %s: its power can be read again", node.label)
                fields |= {"fault": None, "maintenance": False, "maintenance_reason": None}
                facts.append(
                    Event(type="node.maintenance", node_uuid=uuid, data={"maintenance": False, "reason": "Its power can be read again."})
                )
            if fields:
                await self._store.commit(Change(save=[node.changed(**fields)], events=facts))
        if self._differs(node, state):
            await self._bring_back(node)

    def _differs(self, node: Node, state: PowerState) -> bool:
        """Whether the power is to be corrected."""
        wanted = node.driver_internal_info.get("power_wanted")
        return self._correct is not None and wanted in _TARGETS and state in _TARGETS and wanted != state

    async def _bring_back(self, node: Node) -> None:
        assert self._correct is not None
        wanted = PowerState(node.driver_internal_info["power_wanted"])
        tried = self._corrections[node.uuid] = self._corrections.get(node.uuid, 0) + 1
        if tried <= _FAILURES:
            _log.info("node %s: its power is not %s; correcting it, attempt %d of %d", node.label, wanted.value, tried, _FAILURES)
            try:
                await self._correct(node.uuid, _TARGETS[wanted])
            except Busy:
                self._corrections[node.uuid] -= 1
            return
        del self._corrections[node.uuid]
        # What cannot be had is no longer asked for, or the node would go out of service and back for ever.
        internal = {key: value for key, value in node.driver_internal_info.items() if key != "power_wanted"}
        reason = f"The power did not stay at {wanted.value} in {_FAILURES} corrections; it is left as it is from now on."
        await self._out_of_service(node.uuid, reason, {"driver_internal_info": internal}, [])

    async def _strike(self, uuid: str, error: MetaldError) -> None:
        """Count a look that failed; after some the node is out of service until a look succeeds."""
        self._strikes[uuid] = self._strikes.get(uuid, 0) + 1
        if self._strikes[uuid] >= _FAILURES:
            said = list(error.exchange) if isinstance(error, WorldError) else []
            await self._out_of_service(uuid, f"The power state could not be read {_FAILURES} times in a row: {error}", {}, said)

    async def _out_of_service(self, uuid: str, reason: str, fields: dict[str, Any], exchange: list[str]) -> None:
        async with self._store.owning(uuid):
            node = self._store.table(Node).get(uuid)
            if node is None or not self._wanted(node) or node.fault == Fault.POWER:
                return
            _log.warning("node %s: %s", node.label, reason)
            said = {"exchange": exchange} if exchange else {}
            data: dict[str, Any] = {"maintenance": True, "reason": reason, "fault": Fault.POWER, **said}
            fact = Event(type="node.maintenance", node_uuid=uuid, severity="ERROR", data=data)
            changed = node.changed(maintenance=True, maintenance_reason=reason, fault=Fault.POWER, **fields)
            try:
                await self._store.commit(Change(save=[changed], events=[fact]))
            except MetaldError as refused:
                _log.warning("node %s: %s", node.label, refused)
