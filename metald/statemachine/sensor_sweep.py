"""Sensors of the fleet, read now and then, for whoever draws curves of them.

Rules:

- Each node is read once in an interval, one after the other as a smooth stream, a bounded number at once, and as background
  work: drivers give everybody else precedence.
- The last reading of each node is kept, in memory; one that failed is told as failed, and the values before it are forgotten.
- A node that a workflow drives, or that is in maintenance or not yet verified, is passed over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from metald.drivers.base import Sensor
from metald.drivers.registry import Registry
from metald.errors import MetaldError, NotFound, Unsupported
from metald.model import Node, ProvisionState
from metald.statemachine.context import NodeView
from metald.store.store import Store

_log = logging.getLogger(__name__)

_SKIPPED: Final = frozenset({ProvisionState.ENROLL, ProvisionState.VERIFYING})
_IN_FLIGHT: Final = 16
_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a node last."""

    name: str
    """The node's name; empty where it has none."""
    at: float
    """When, in seconds since 1970."""
    sensors: Sequence[Sensor]
    failed: bool = False


class SensorSweep:
    """Reads sensors.

    Args:
        store: the state.
        registry: hardware types and interfaces.
        interval: seconds between two readings of one node; 0 reads none.
        background: a context in which drivers give others precedence.
    """

    def __init__(self, store: Store, registry: Registry, interval: float, background: Callable[[], AbstractContextManager[object]]) -> None:
        self._store, self._registry = store, registry
        self._interval, self._background = interval, background
        self._gate = asyncio.Semaphore(_IN_FLIGHT)
        self._reading: set[str] = set()
        self._readings: dict[str, Reading] = {}

    @property
    def readings(self) -> Mapping[str, Reading]:
        """The last reading of each node, by UUID."""
        return self._readings

    async def run(self) -> None:
        """Walk the fleet, for ever."""
        if self._interval <= 0:
            return
        async with asyncio.TaskGroup() as group:
            while True:
                nodes = self._store.table(Node).all()
                for uuid in self._readings.keys() - {node.uuid for node in nodes}:
                    del self._readings[uuid]
                pause = self._interval / max(1, len(nodes))
                for node in nodes:
                    await asyncio.sleep(pause)
                    if node.uuid not in self._reading and self._wanted(node.uuid):
                        self._reading.add(node.uuid)
                        await self._gate.acquire()
                        group.create_task(self._read(node.uuid))
                if not nodes:
                    await asyncio.sleep(pause)

    def _wanted(self, uuid: str) -> bool:
        node = self._store.table(Node).get(uuid)
        return node is not None and node.reservation is None and not node.maintenance and node.provision_state not in _SKIPPED

    async def _read(self, uuid: str) -> None:
        try:
            view = NodeView(self._store, self._registry, uuid)
            with self._background():
                sensors = await view.management.sensors(view)
            self._readings[uuid] = Reading(view.node.name or "", time.time(), tuple(sensors[:_MOST]))
        except (NotFound, Unsupported):
            self._readings.pop(uuid, None)
        except MetaldError as error:
            node = self._store.table(Node).get(uuid)
            if node is not None:
                _log.info("node %s: its sensors cannot be read: %s", node.label, error)
                self._readings[uuid] = Reading(node.name or "", time.time(), (), failed=True)
        except Exception:
            _log.exception("node %s: reading sensors has a defect", uuid)
        finally:
            self._reading.discard(uuid)
            self._gate.release()
