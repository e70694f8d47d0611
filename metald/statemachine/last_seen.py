"""How far a machine came while a workflow waited for it in vain: what its boot showed to the boot servers, and the likely cause.

The sentences become part of the error that users read.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from metald.boot.doctor import diagnose, gather
from metald.boot.doctor.diagnosis import Known
from metald.drivers.boot_mode import has_secure_boot
from metald.model import Event, Node, Workflow
from metald.store.store import Store

_LOOK_BACK = 1000


async def last_seen(store: Store, workflow: Workflow) -> str:
    """What the machine of a waiting workflow was last seen doing, and why it probably went no further, as sentences.

    Raises:
        Unavailable: the store cannot be read now.
    """
    since = await _since(store, workflow)
    own = await store.events(node_uuid=workflow.node_uuid, limit=_LOOK_BACK, newest=True)
    boots = gather(event for event in own if event.time >= since)
    node = store.table(Node).get(workflow.node_uuid)
    if not boots or boots[-1].last is None:
        stranger = _stranger(await store.events(limit=_LOOK_BACK, newest=True), since)
        told = f"Meanwhile an unknown machine asked with the MAC address {stranger}: compare it with the node's ports."
        return f"The machine did not ask for any boot file. {told if stranger else ''}".rstrip()
    boot = boots[-1]
    found = diagnose(boot, Known(has_secure_boot(node) if node is not None else None), stopped=True)
    seen = f"The machine was last seen at {boot.last:%H:%M:%S} UTC, {found.at}."
    advice = found.remedy.removeprefix("Look at its console.").strip()
    return " ".join(filter(None, (seen, found.likely, advice, *(each.likely for each in found.warnings))))


async def _since(store: Store, workflow: Workflow) -> datetime:
    """When the step before the wait began: the machine's power came on in it."""
    records = await store.journal(workflow_uuid=workflow.uuid, limit=2)
    return records[0].started_at if records else workflow.started_at


def _stranger(events: Sequence[Event], since: datetime) -> str:
    """The MAC address of a machine that asked and that no node owns: a wrong address in a port looks like this."""
    macs = [event.data.get("mac") for event in events if event.type == "boot.unknown" and event.time >= since]
    return next((mac[0] for mac in reversed(macs) if isinstance(mac, list) and mac), "")
