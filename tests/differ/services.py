"""Drivers, conductors, and what agents ask."""

from __future__ import annotations

from tests.differ.asking import NEWEST, Made, Row


def drivers(_made: Made) -> list[Row]:
    """Drivers and conductors."""
    rows: list[Row] = []
    rows += [
        ("GET", f"/v1/drivers{q}", ver, None)
        for q in (
            "",
            "?type=dynamic",
            "?type=classic",
            "?type=x",
            "?fields=name",
            "?fields=x",
            "/fake-hardware?fields=name",
            "/nope",
            "/nope/properties",
            "/fake-hardware/vendor_passthru/methods",
        )
        for ver in (NEWEST, "1.1", "1.29")
    ]
    rows += [
        ("GET", f"/v1/conductors{q}", NEWEST, None)
        for q in ("", "?detail=true", "/nope", "?limit=1", "?fields=hostname", "?fields=x", "?sort_key=hostname")
    ] + [("GET", "/v1/conductors", "1.48", None)]
    return rows


def agents(made: Made) -> list[Row]:
    """What agents ask."""
    u = made.node
    rows: list[Row] = []
    rows += [
        ("GET", f"/v1/lookup{q}", ver, None)
        for q in ("", "?addresses=x", f"?node_uuid={u}", "?addresses=52:54:00:00:00:00", "?junk=1")
        for ver in ("1.115", "1.21")
    ]
    rows += [
        ("POST", f"/v1/heartbeat/{u}", ver, b)
        for ver in ("1.115", "1.21", "1.35")
        for b in (
            {},
            {"callback_url": "http://x"},
            {"callback_url": "ftp://x", "agent_version": "1"},
            {"callback_url": "http://x", "agent_version": "1", "agent_token": "t"},
        )
    ]
    return rows
