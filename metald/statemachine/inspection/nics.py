"""Network cards of an inventory, and the ports that are made of them."""

from __future__ import annotations

import copy
import ipaddress
import re
from typing import Any

import msgspec

from metald.errors import InspectionError
from metald.model import Port
from metald.statemachine.inspection.subject import Json, Subject

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_NO_MAC = "00:00:00:00:00:00"


def mac(value: Any) -> str | None:
    """A MAC address in metald's form, or None when it is none, or the empty one that loopback interfaces have."""
    text = value.lower().replace("-", ":") if isinstance(value, str) else ""
    return text if _MAC.fullmatch(text) and text != _NO_MAC else None


def boot_mac(inventory: Json) -> str | None:
    """The MAC address that the ramdisk was booted over, as far as it knows; PXELINUX writes it `01-aa-bb-cc-dd-ee-ff`."""
    boot = inventory.get("boot")
    told = boot.get("pxe_interface") if isinstance(boot, dict) else None
    if isinstance(told, str) and told.count("-") == 6:
        told = told.partition("-")[2]
    return mac(told)


def cards(inventory: Json) -> dict[str, Json]:
    """The network cards by name: those with a name and a MAC address, which is brought into metald's form."""
    booted = boot_mac(inventory)
    found: dict[str, Json] = {}
    for told in inventory.get("interfaces") or ():
        address = mac(told.get("mac_address"))
        name = told.get("name")
        if address is None or not isinstance(name, str) or not name:
            continue
        v6 = told.get("ipv6_address")
        plain = v6.partition("%")[0] if isinstance(v6, str) else None
        enabled = address == booted if booted else True
        found[name] = {**copy.deepcopy(told), "mac_address": address, "ipv6_address": plain, "pxe_enabled": enabled}
    return found


def _address(card: Json) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(str(card.get("ipv4_address") or card.get("ipv6_address") or ""))
    except ValueError:
        return None


def chosen(found: dict[str, Json], inventory: Json, add_ports: str) -> dict[str, Json]:
    """The cards that shall be ports.

    Args:
        found: all cards.
        inventory: where they come from.
        add_ports: the setting. Where it is `pxe` and the ramdisk does not know its card, every card counts.

    Raises:
        InspectionError: there is none. A loopback interface never is one.
    """
    if not found:
        raise InspectionError("The inventory has no valid network interfaces.")
    booted = boot_mac(inventory)
    kept = {}
    for name, card in found.items():
        address = _address(card)
        if name == "lo" or (address is not None and address.is_loopback):
            continue
        if (add_ports == "pxe" and booted and not card["pxe_enabled"]) or (add_ports == "active" and address is None):
            continue
        kept[name] = copy.deepcopy(card)
    if not kept:
        raise InspectionError(
            f'No network interfaces match the configuration (add_ports set to "{add_ports}").', remedy="See inspection.add_ports."
        )
    return kept


def make_ports(subject: Subject, *, add: bool, keep: str, update: bool) -> None:
    """Add, remove and change ports so that they are as the cards that `validate-interfaces` found.

    A card whose address is a port of another node is left to that node.
    """
    every = subject.plugin_data["all_interfaces"].values()
    wanted = subject.plugin_data["valid_interfaces"].values()
    known = {port["address"] for port in subject.ports}
    for card in wanted if add else ():
        address = card["mac_address"]
        if address not in known and address not in subject.taken:
            known.add(address)
            extra = {"client-id": card["client_id"]} if card.get("client_id") else {}
            port = Port(node_uuid=subject.node["uuid"], address=address, pxe_enabled=card["pxe_enabled"], extra=extra)
            subject.ports.append(complete(port))
    staying = {card["mac_address"] for card in (every if keep == "present" else wanted)}
    booted = {card["mac_address"] for card in every if card["pxe_enabled"]}
    for port_ in subject.ports:
        if keep != "all" and port_["address"] not in staying:
            subject.removed.add(port_["uuid"])
        elif update and boot_mac(subject.inventory):
            port_["pxe_enabled"] = port_["address"] in booted


def complete(resource: Any) -> Json:
    """Every field of a resource as JSON, those with their defaults included."""
    fields = msgspec.structs.fields(type(resource))
    return {field.name: msgspec.to_builtins(getattr(resource, field.name)) for field in fields}
