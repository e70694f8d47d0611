"""Every route of the API."""

from __future__ import annotations

from metald.http import errorpage
from metald.http.route import Route
from metald.http.v1 import (
    agent,
    allocations,
    bios,
    bmc,
    boot_mode,
    chassis,
    console,
    drivers,
    firmware,
    history,
    indicators,
    management,
    nodes,
    own,
    portgroups,
    ports,
    raid,
    roots,
    rules,
    states,
    templates,
    vendor,
    vmedia,
    volumes,
    watch,
)

ROUTES: tuple[Route, ...] = (
    *roots.ROUTES,
    *nodes.ROUTES,
    *states.ROUTES,
    *management.ROUTES,
    *bmc.ROUTES,
    *indicators.ROUTES,
    *console.ROUTES,
    *boot_mode.ROUTES,
    *raid.ROUTES,
    *vendor.ROUTES,
    *vmedia.ROUTES,
    *bios.ROUTES,
    *firmware.ROUTES,
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
    *watch.ROUTES,
    *errorpage.ROUTES,
)
"""The table that routing, version rules, checks and the OpenAPI document are made of."""
