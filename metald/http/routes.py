"""Every route of the API."""

from __future__ import annotations

from metald.http.route import Route
from metald.http.v1 import agent, chassis, drivers, management, nodes, own, ports, roots, states

ROUTES: tuple[Route, ...] = (
    *roots.ROUTES,
    *nodes.ROUTES,
    *states.ROUTES,
    *management.ROUTES,
    *ports.ROUTES,
    *chassis.ROUTES,
    *drivers.ROUTES,
    *agent.ROUTES,
    *own.ROUTES,
)
"""The table that routing, version rules, checks and the OpenAPI document are made of."""
