"""One request as handlers see it, and what they answer with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from metald.boot.doctor import Doctor
from metald.config import Settings
from metald.drivers.registry import Registry
from metald.http import versions
from metald.limits import Limits
from metald.metrics import Metrics
from metald.model.caller import Caller
from metald.statemachine.adviser import Adviser
from metald.statemachine.agents import Agents
from metald.statemachine.conductor import Conductor
from metald.statemachine.fleet import Fleet
from metald.statemachine.hardware import Hardware
from metald.statemachine.sensor_sweep import Reading
from metald.store.store import Store

if TYPE_CHECKING:
    from metald.http.longpoll import LongPolls
    from metald.http.route import Route
    from metald.http.views import Views
    from metald.http.watch.hub import Hub


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers work with, built once."""

    settings: Settings
    store: Store
    registry: Registry
    conductor: Conductor
    hardware: Hardware
    agents: Agents
    fleet: Fleet
    ready: Callable[[], bool]
    views: Views
    openapi: bytes
    """The OpenAPI document."""
    asyncapi: bytes
    """The AsyncAPI document."""
    watch: Hub
    """Hands events to watchers."""
    polls: LongPolls
    """Requests that wait for a change."""
    adviser: Adviser
    metrics: Metrics
    limits: Limits
    """What nodes wait for."""
    readings: Mapping[str, Reading]
    """The last readings of sensors, by node."""
    doctor: Doctor
    """What was seen of machines that boot."""


@dataclass(slots=True)
class Call:
    """A request whose path, version, arguments and body have been checked against its route."""

    services: Services
    route: Route
    version: int
    base: str
    """What links begin with: scheme and authority."""
    path: Mapping[str, str]
    args: Mapping[str, Any]
    caller: Caller
    method: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """The request's headers; names in any case."""
    client: str = ""
    """The IP address that the request came from; empty when it came another way."""
    gone: Callable[[], bool] = bool
    """Whether the client has left."""

    def require(self, since: int) -> None:
        """Refuse what the request's version does not know yet (406)."""
        versions.require(self.version, since)

    def url(self, path: str) -> str:
        """An absolute URL below the API's root."""
        return f"{self.base}/v1/{path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that needs more than a body: another status, or where the thing is."""

    body: bytes = b""
    status: int | None = None
    location: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers of the answer."""

    @classmethod
    def of(cls, value: Any, *, status: int | None = None, location: str | None = None) -> Reply:
        """A JSON answer."""
        return cls(orjson.dumps(value), status, location)
