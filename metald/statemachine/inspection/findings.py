"""What was found becomes the node's: hooks and rules run, then fields, ports and inventory change in one transaction.

The work on large inventories is done in threads. A second run after a crash finds in the memo that it is done already.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from metald.drivers.inspect_agent import FOUND, INVENTORY
from metald.errors import InspectionError
from metald.model import Event, Node, Port
from metald.model.catalogue import InspectionRule
from metald.model.inventory import Inventory, packed, unpacked
from metald.model.masking import mask_text
from metald.statemachine.context import Context
from metald.statemachine.inspection import hooks, more_hooks, nics, rules
from metald.statemachine.inspection.subject import NODE_FIELDS, PORT_FIELDS, Json, Subject

_log = logging.getLogger(__name__)

_USED = "inventory_used"
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,255}")
_SHOWN = 100


BEFORE = "serials_before"
"""In a workflow's memo: the serial numbers of the disks that the inspection before this one found."""


async def keep(context: Context) -> None:
    """Keep what the inspect interface found out by itself as the inventory of this inspection."""
    told = context.memo.pop(FOUND, None)
    if told is None:
        return
    document = await asyncio.to_thread(packed, told["inventory"], told["plugin_data"])
    known = context.rows_of(Inventory).where("node_uuid", context.node_uuid)
    context.memo[BEFORE] = await asyncio.to_thread(serials, known[0].document) if known else []
    row = known[0].changed(document=document) if known else Inventory(node_uuid=context.node_uuid, document=document)
    context.memo[INVENTORY] = row.uuid
    context.save(row)
    context.note("inventory", interfaces=len(told["inventory"]["interfaces"]))
    await context.checkpoint()


async def use(context: Context, options: Mapping[str, Any]) -> None:
    """Apply the inventory that has come for this inspection, if one has.

    Args:
        context: the step's.
        options: the settings of `inspection`.

    Raises:
        InspectionError: a hook or a rule refuses it.
        Duplicate: a name or a MAC address that it leads to is taken.
    """
    uuid = context.memo.get(INVENTORY)
    row = context.rows_of(Inventory).get(uuid) if uuid else None
    if row is None or context.memo.get(_USED):
        return
    chosen = options_of(options)
    told = await asyncio.to_thread(_decoded, row.document)
    before = nics.complete(context.node)
    own = {port.address for port in context.ports}
    addresses = {nics.mac(card.get("mac_address")) for card in told["inventory"]["interfaces"]} - own
    taken = frozenset(one for one in addresses if one is not None and context.rows_of(Port).by("address", one) is not None)
    rows = [nics.complete(port) for port in context.ports]
    last = tuple(context.memo.get(BEFORE) or ())
    subject = Subject(nics.complete(context.node), rows, told["inventory"], told["plugin_data"], taken, serials_before=last)
    applied = await asyncio.to_thread(examine, subject, chosen, list(context.rows_of(InspectionRule)))
    for level, text in subject.said:
        _log.log(logging.getLevelNamesMapping()[level.upper()], "node %s: %s", context.node.label, mask_text(text))
    fields = {**_node_fields(context, before, subject), **_observed(subject.inventory)}
    document = await asyncio.to_thread(packed, subject.inventory, subject.plugin_data)
    try:
        _gather(context, subject, fields)
        context.save(row.changed(document=document))
        context.note("inspection", rules=applied[:_SHOWN], ports=len(subject.ports) - len(subject.removed))
        context.memo[_USED] = True
        await context.checkpoint()
    except BaseException:
        # What the inspection could not write must not be written with the line that tells of its failure.
        context.memo.pop(_USED, None)
        context.forget()
        raise


def serials(document: bytes) -> list[str]:
    """The serial numbers of the disks in a kept inventory. Blocks."""
    return list(more_hooks.serials(_decoded(document)["inventory"]))


def _decoded(document: bytes) -> Json:
    found: Json = msgspec.json.decode(unpacked(document))
    return found


def options_of(settings: Any) -> hooks.Options:
    """What hooks need of the settings of `inspection`, which come as they are or as JSON."""
    told = settings if isinstance(settings, Mapping) else msgspec.to_builtins(settings)
    return hooks.Options(**{name: told[name] for name in hooks.Options.__slots__ if name in told})


def examine(subject: Subject, options: hooks.Options, known: Sequence[InspectionRule]) -> list[str]:
    """Run hooks and rules. Blocks. Returns the rules that were applied. Raises InspectionError."""
    hooks.run(subject, options)
    return rules.run(known, subject, mask=options.mask_secrets)


def _node_fields(context: Context, before: Json, subject: Subject) -> dict[str, Any]:
    """The fields of the node that have changed.

    Raises:
        InspectionError: one cannot have the value that it was given.
        Invalid: the node's driver does not admit its interfaces.
    """
    names = [name for name in (*sorted(NODE_FIELDS), "traits") if subject.node[name] != before[name]]
    after = converted(subject.node, Node, "node")
    if "name" in names and after.name is not None and _NAME.fullmatch(after.name) is None:
        raise InspectionError(f"{after.name[:80]!r} cannot be the name of a node.")
    if "driver" in names or any(name.endswith("_interface") for name in names):
        context.registry.check(after)
    return {name: getattr(after, name) for name in names}


def _observed(inventory: Json) -> dict[str, Any]:
    """The firmware's mode, in which the ramdisk was booted."""
    boot = inventory.get("boot")
    mode = boot.get("current_boot_mode") if isinstance(boot, dict) else None
    return {"boot_mode": mode} if mode in ("bios", "uefi") else {}


def converted(fields: Json, kind: type[Any], what: str) -> Any:
    """A resource of the fields that hooks and rules left. Raises InspectionError when they cannot be one."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise InspectionError(f"A hook or a rule made a field of the {what} impossible: {error}.") from None


def _gather(context: Context, subject: Subject, fields: dict[str, Any]) -> None:
    """Put everything that changes into the next boundary."""
    context.set(**fields)
    known = {port.uuid: port for port in context.ports}
    for told in subject.ports:
        old = known.get(told["uuid"])
        if told["uuid"] in subject.removed:
            if old is not None:
                context.delete(old)
                context.notes.append(_event("port.delete", old))
            continue
        port: Port = converted(told, Port, "port")
        if old is None:
            context.save(port)
            context.notes.append(_event("port.create", port))
        elif changes := {name: getattr(port, name) for name in PORT_FIELDS if getattr(port, name) != getattr(old, name)}:
            context.save(old.changed(**changes))
            context.notes.append(Event(type="port.update", node_uuid=old.node_uuid, subject=old.uuid, data={"fields": sorted(changes)}))


def _event(kind: str, port: Port) -> Event:
    return Event(type=kind, node_uuid=port.node_uuid, subject=port.uuid, data={"address": port.address})


def _address(value: Any) -> str | None:
    """An IP address in its canonical form; None for what is none, and for addresses that mean nothing elsewhere."""
    try:
        found = ipaddress.ip_address(str(value).strip("[]"))
    except ValueError:
        return None
    return None if found.is_loopback or found.is_unspecified else str(found)


def bmcs_of(inventory: Mapping[str, Any]) -> set[str]:
    """The addresses of the machine's BMC, as its ramdisk tells them."""
    return {found for name in ("bmc_address", "bmc_v6address") if (found := _address(inventory.get(name))) is not None}


def bmc_addresses(node: Node) -> set[str]:
    """The IP addresses of a node's BMC, as its driver_info tells them: `ipmi_address`, or a URL in `redfish_address`."""
    found = set()
    for key, value in node.driver_info.items():
        if not key.endswith("_address") or not isinstance(value, str):
            continue
        try:
            host = urlsplit(value).hostname if "//" in value else value
        except ValueError:
            continue
        if (address := _address(host)) is not None:
            found.add(address)
    return found
