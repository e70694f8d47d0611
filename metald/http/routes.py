"""Every route of the API."""

from __future__ import annotations

from metald.http.route import Route
from metald.http.v1 import (
    agent,
    allocations,
    chassis,
    drivers,
    history,
    management,
    nodes,
    own,
    portgroups,
    ports,
    roots,
    rules,
    states,
    templates,
    volumes,
)

ROUTES: tuple[Route, ...] = (
    *roots.ROUTES,
    *nodes.ROUTES,
    *states.ROUTES,
    *management.ROUTES,
    *ports.ROUTES,
    *chassis.ROUTES,
    *drivers.ROUTES,
    *portgroups.ROUTES,
    *templates.ROUTES,
    *rules.ROUTES,
    *volumes.ROUTES,
    *allocations.ROUTES,
    *history.ROUTES,
    *agent.ROUTES,
    *own.ROUTES,
)
"""The table that routing, version rules, checks and the OpenAPI document are made of."""
