"""Put another implementation of an interface in the place of one that a test's API was built with."""

from __future__ import annotations

from metald.drivers.base import Interface
from tests.support.api import Api


def swap(api: Api, interface: Interface) -> None:
    """Use `interface` wherever one of its kind and name is asked for: by the doors and by the engine."""
    for registry in (api.house.engine._registry, api.fleet.nodes._registry):
        registry._interfaces[interface.kind, interface.name] = interface
