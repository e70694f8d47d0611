"""`/v1/nodes/{node}/boots` and `/v1/boots`: what the boot doctor saw of machines that boot. metald's own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from metald.boot.doctor import Report
from metald.boot.render import parse_mac
from metald.errors import Invalid, NotFound
from metald.http.call import Call, Reply
from metald.http.route import Route
from metald.http.v1 import lookups
from metald.http.v1.own import ALWAYS

_MOST = 1000
"""Events of a node that its boots are read from."""


def _shown(report: Report) -> dict[str, Any]:
    attempt, found = report.attempt, report.diagnosis
    return {
        "node_uuid": attempt.node_uuid,
        "mac": attempt.macs,
        "began_at": attempt.began,
        "powered_on_at": attempt.powered,
        "last_seen_at": attempt.last,
        "ramdisk_called_at": attempt.called,
        "stage": found.stage,
        "seen": found.at,
        "stopped_for": report.stopped_for,
        "cause": found.cause or None,
        "likely": found.likely or None,
        "remedy": found.remedy or None,
        "warnings": [each._asdict() for each in found.warnings],
        "architecture": attempt.architecture or None,
        "machines": attempt.machines,
        "addresses": attempt.addresses,
        "retransmits": attempt.retransmits,
        "dhcp": [{name: value for name, value in asdict(each).items() if value not in ("", None)} for each in attempt.questions],
        "files": [{name: value for name, value in asdict(each).items() if value not in ("", None)} for each in attempt.files],
    }


async def of_node(call: Call) -> Reply:
    """A node's boots over the network, the latest first: what was seen, where each stopped, and the likely cause."""
    uuid = lookups.node(call, names_since=ALWAYS).uuid
    events = await call.services.store.events(node_uuid=uuid, limit=_MOST, newest=True)
    return Reply.of({"boots": [_shown(report) for report in call.services.doctor.of_node(uuid, events)]})


async def under_way(call: Call) -> Reply:
    """Boots that are on their way or stopped, of all nodes, and the last ones of machines that are no nodes."""
    return Reply.of({"boots": [_shown(report) for report in call.services.doctor.under_way()]})


async def of_mac(call: Call) -> Reply:
    """The boots of the machine with a MAC address, the latest first; of one that is no node, its last boot."""
    mac = parse_mac(call.path["mac"])
    if mac is None:
        raise Invalid("That is no MAC address.", remedy="Write it as 52:54:00:12:34:56.", field="mac")
    doctor, store = call.services.doctor, call.services.store
    owner = doctor.node_by_mac(mac)
    reports = doctor.of_node(owner.uuid, await store.events(node_uuid=owner.uuid, limit=_MOST, newest=True)) if owner else []
    reports = reports or doctor.of_stranger(mac)
    if not reports:
        raise NotFound(f"Nothing was seen of a machine with the MAC address {mac} that boots.", field="mac")
    return Reply.of({"boots": [_shown(report) for report in reports]})


_POLICY = "metald:boots:get"
ROUTES = (
    Route("GET", "/v1/nodes/{node}/boots", of_node, "What was seen of a node's boots", policy="baremetal:node:history:get"),
    Route("GET", "/v1/boots", under_way, "What was seen of all boots that are not done", policy=_POLICY),
    Route("GET", "/v1/boots/{mac}", of_mac, "What was seen of a machine's boots", policy=_POLICY),
)
