"""`/` and `/v1`: what this service is, which versions it speaks, and which resources the asked version knows."""

from __future__ import annotations

from typing import Any

from metald.http import versions
from metald.http.call import Call
from metald.http.route import Route

_RESOURCES: tuple[tuple[str, int], ...] = (
    ("chassis", 1),
    ("nodes", 1),
    ("ports", 1),
    ("drivers", 1),
    ("portgroups", 23),
    ("volume", 32),
    ("lookup", 22),
    ("heartbeat", 22),
    ("conductors", 49),
    ("allocations", 52),
    ("events", 54),
    ("deploy_templates", 55),
    ("shards", 82),
    ("continue_inspection", 84),
    ("runbooks", 92),
    ("inspection_rules", 96),
)
"""Entries of `/v1`, with the version that shows each."""


def _version(base: str) -> dict[str, Any]:
    return {
        "id": "v1",
        "links": [{"href": f"{base}/v1/", "rel": "self"}],
        "status": "CURRENT",
        "min_version": f"1.{versions.MIN}",
        "version": f"1.{versions.MAX}",
    }


async def root(call: Call) -> dict[str, Any]:
    """The service and its versions. Agents read the newest version here."""
    version = _version(call.base)
    return {
        "name": "OpenStack Ironic API",
        "description": "Bare metal provisioning by metald, compatible with OpenStack Ironic.",
        "default_version": version,
        "versions": [version],
    }


async def v1(call: Call) -> dict[str, Any]:
    """The resources of version 1."""
    base = call.base
    found: dict[str, Any] = {
        "id": "v1",
        "links": [
            {"href": f"{base}/v1/", "rel": "self"},
            {"href": "https://docs.openstack.org/api-ref/baremetal/", "rel": "describedby", "type": "text/html"},
        ],
        "media_types": {"base": "application/json", "type": "application/vnd.openstack.ironic.v1+json"},
        "version": _version(base),
    }
    for name, since in _RESOURCES:
        if call.version >= since:
            found[name] = [{"href": f"{base}/v1/{name}/", "rel": "self"}, {"href": f"{base}/{name}/", "rel": "bookmark"}]
    return found


ROUTES = (
    Route("GET", "/", root, "The service and its versions", public=True),
    Route("GET", "/v1", v1, "The resources of version 1", public=True),
)
