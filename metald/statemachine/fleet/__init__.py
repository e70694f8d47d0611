"""The one door for what operators own: nodes, ports, chassis. HTTP today, AMQP tomorrow, tests always.

Rules:

- Who may change what in which state is decided here (`guards`), not by the callers.
- One change, one transaction: the resource and the event that tells of it.
- Reading never waits. A change of what no workflow reads never waits for one either; a change of what a running workflow
  reads waits a few seconds, then is told that the node is locked.
"""

from __future__ import annotations

from metald.config import Settings
from metald.drivers.registry import Registry
from metald.statemachine.fleet.allocations import Allocations
from metald.statemachine.fleet.catalogue import Catalogue
from metald.statemachine.fleet.chassis import ChassisRoom
from metald.statemachine.fleet.nodes import Nodes
from metald.statemachine.fleet.ports import Ports
from metald.store.store import Store


class Fleet:
    """Everything that is owned.

    Args:
        store: the state.
        registry: hardware types and interfaces.
        settings: limits and defaults.
    """

    def __init__(self, store: Store, registry: Registry, settings: Settings) -> None:
        self.nodes = Nodes(store, registry, settings)
        self.ports = Ports(store, self.nodes)
        self.chassis = ChassisRoom(store)
        self.catalogue = Catalogue(store)
        self.allocations = Allocations(store)


__all__ = ["Fleet"]
