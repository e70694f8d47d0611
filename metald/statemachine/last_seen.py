"""How far a machine came while a workflow waited for it in vain: what its boot showed to the boot servers.

The sentence becomes part of the error that users read, so it names the last thing seen, or what to suspect when nothing
was.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from metald.model import Event, Workflow
from metald.store.store import Store

_BOOT = frozenset({"node.dhcp", "node.tftp", "node.http", "node.ramdisk"})
_LOOK_BACK = 1000


async def last_seen(store: Store, workflow: Workflow) -> str:
    """What the machine of a waiting workflow was last seen doing, as sentences.

    Raises:
        Unavailable: the store cannot be read now.
    """
    since = await _since(store, workflow)
    own = await store.events(node_uuid=workflow.node_uuid, limit=_LOOK_BACK, newest=True)
    boot = [event for event in own if event.type in _BOOT and event.time >= since]
    if boot:
        return f"The machine was last seen at {boot[-1].time:%H:%M:%S} UTC: {_told(boot[-1])}."
    return f"The machine did not ask for any boot file. {_strangers(await store.events(limit=_LOOK_BACK, newest=True), since)}".rstrip()


async def _since(store: Store, workflow: Workflow) -> datetime:
    """When the step before the wait began: the machine's power came on in it."""
    records = await store.journal(workflow_uuid=workflow.uuid, limit=2)
    return records[0].started_at if records else workflow.started_at


def _told(event: Event) -> str:
    data = event.data
    if event.type == "node.ramdisk":
        return f"its ramdisk called from {data.get('address')} port {data.get('port')}"
    if event.type == "node.dhcp":
        return "it asked for an address by DHCP"
    by = "TFTP" if event.type == "node.tftp" else "HTTP"
    what = f"it loaded {data.get('file')} by {by}"
    return f"{what}, which failed: {data['error']}" if data.get("error") else what


def _strangers(events: Sequence[Event], since: datetime) -> str:
    """Machines that asked and that no node owns: a wrong MAC address in a port looks like this."""
    macs = [event.data.get("mac") for event in events if event.type == "boot.unknown" and event.time >= since]
    first = next((mac[0] for mac in reversed(macs) if isinstance(mac, list) and mac), None)
    return f"Meanwhile an unknown machine asked with the MAC address {first}: compare it with the node's ports." if first else ""
