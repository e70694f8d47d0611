"""The hooks that nobody needs to deploy a machine, by the names that Ironic's have. Pure, like the others (`hooks`).

Rule: what the ramdisk did not tell leaves the node as it is. Only the settings can be wrong; they are checked at the start.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metald.drivers.boot_mode import capabilities
from metald.statemachine.inspection import lldp, nics
from metald.statemachine.inspection.subject import Json, Subject

SECRET = 16
"""Letters that the secret of discovery has at least."""


def boot_mode(subject: Subject, options: Any) -> None:  # noqa: ARG001
    """The firmware mode that the machine booted in, as the capability `boot_mode`."""
    boot = subject.inventory.get("boot")
    mode = boot.get("current_boot_mode") if isinstance(boot, dict) else None
    if mode in ("bios", "uefi"):
        _able(subject, {"boot_mode": mode})


def cpu_capabilities(subject: Subject, options: Any) -> None:
    """Capabilities of the processor that its flags tell of (setting `cpu_capabilities`)."""
    cpu = subject.inventory.get("cpu")
    flags = cpu.get("flags") if isinstance(cpu, dict) else None
    if isinstance(flags, list):
        pairs = (entry.partition(":") for entry in options.cpu_capabilities)
        _able(subject, {name: "true" for flag, _, name in pairs if flag in flags})


def _able(subject: Subject, more: Mapping[str, str]) -> None:
    if more:
        words = {**capabilities(subject.node["properties"].get("capabilities")), **more}
        subject.node["properties"]["capabilities"] = ",".join(f"{key}:{word}" for key, word in words.items())


def _pci(subject: Subject) -> Iterator[tuple[str, str]]:
    """Vendor, product and address of each PCI device that was told of."""
    found = subject.plugin_data.get("pci_devices") or subject.inventory.get("pci_devices")
    for device in found if isinstance(found, list) else ():
        if isinstance(device, dict) and isinstance(device.get("vendor_id"), str) and isinstance(device.get("product_id"), str):
            yield f"{device['vendor_id']}:{device['product_id']}".lower(), str(device.get("bus") or "")


def pci_devices(subject: Subject, options: Any) -> None:
    """How many there are of the PCI devices that have an alias (setting `pci_device_alias`), as capabilities."""
    names = {ids.lower(): name for ids, _, name in (entry.partition(" ") for entry in options.pci_device_alias)}
    counted = Counter(names[ids] for ids, _ in _pci(subject) if ids in names)
    _able(subject, {name: str(count) for name, count in counted.items()})


def accelerators(subject: Subject, options: Any) -> None:
    """The accelerators among the PCI devices (setting `accelerators`), as the property `accelerators`."""
    known = {ids.lower(): words.partition(" ") for ids, _, words in (entry.partition(" ") for entry in options.accelerators)}
    devices = list(_pci(subject))
    if devices:
        subject.node["properties"]["accelerators"] = [
            {
                "vendor_id": ids.partition(":")[0],
                "device_id": ids.partition(":")[2],
                "type": known[ids][0],
                "device_info": known[ids][2],
                "pci_address": address,
            }
            for ids, address in devices
            if ids in known
        ]


def extra_hardware(subject: Subject, options: Any) -> None:
    """What the tool hardware-detect found: its records become an object, `plugin_data["extra"]`."""
    data = subject.plugin_data.get("data")
    if data is None:
        return
    strict = options.extra_hardware_strict
    if not isinstance(data, list) or not all(isinstance(record, list) and (len(record) == 4 or not strict) for record in data):
        if strict:
            del subject.plugin_data["data"]
        return
    extra: Json = {}
    for record in data:
        if len(record) >= 4 and all(isinstance(word, str) for word in record[:3]):
            extra.setdefault(record[0], {}).setdefault(record[1], {})[record[2]] = _number(record[3])
    subject.plugin_data["extra"] = extra
    del subject.plugin_data["data"]


def _number(value: Any) -> Any:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return value


def parse_lldp(subject: Subject, options: Any) -> None:  # noqa: ARG001
    """What switches say of themselves, by card, as `plugin_data["parsed_lldp"]`."""
    found = {name: told for name, pairs in lldp.raw(subject.inventory, subject.plugin_data).items() if (told := lldp.parsed(pairs))}
    if found:
        subject.plugin_data["parsed_lldp"] = found


def local_link_connection(subject: Subject, options: Any) -> None:  # noqa: ARG001
    """The switch port that each card is plugged into, in the `local_link_connection` of its port. What is there stays."""
    pairs = lldp.raw(subject.inventory, subject.plugin_data)
    for name, port in _ports(subject):
        link: Json = {}
        for kind, value in lldp.values(pairs.get(name)):
            told = {
                lldp.PORT_ID: ("port_id", lldp.port(value)),
                lldp.CHASSIS_ID: ("switch_id", lldp.chassis_mac(value)),
                lldp.SYSTEM_NAME: ("switch_info", lldp.text(value)),
            }.get(kind)
            if told is not None and told[1]:
                link.setdefault(*told)
        port["local_link_connection"] = {**link, **port["local_link_connection"]}


def physical_network(subject: Subject, options: Any) -> None:
    """The physical network of each card's address (setting `physical_network_cidr_map`), in its port."""
    networks = [(ipaddress.ip_network(entry.rpartition(":")[0]), entry.rpartition(":")[2]) for entry in options.physical_network_cidr_map]
    cards = nics.cards(subject.inventory)
    for name, port in _ports(subject):
        found = next((network for address in _addresses(cards[name]) for cidr, network in networks if address in cidr), None)
        if found:
            port["physical_network"] = found


def _addresses(card: Json) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    for key in ("ipv4_address", "ipv6_address"):
        try:
            yield ipaddress.ip_address(str(card.get(key) or ""))
        except ValueError:
            continue


def _ports(subject: Subject) -> Iterator[tuple[str, Json]]:
    """The node's ports, each with the name of its card."""
    by_address = {port["address"]: port for port in subject.ports if port["uuid"] not in subject.removed}
    for name, card in nics.cards(subject.inventory).items():
        if card["mac_address"] in by_address:
            yield name, by_address[card["mac_address"]]


def raid_device(subject: Subject, options: Any) -> None:  # noqa: ARG001
    """The one disk that the inspection before this one did not see becomes the root device."""
    if "root_device" in subject.node["properties"] or not subject.serials_before:
        return
    new = [serial for serial in serials(subject.inventory) if serial not in subject.serials_before]
    if len(new) == 1:
        subject.node["properties"]["root_device"] = {"serial": new[0]}


def serials(inventory: Mapping[str, Any]) -> Sequence[str]:
    """The serial numbers of an inventory's disks."""
    disks = inventory.get("disks")
    found = [disk.get("serial") for disk in disks if isinstance(disk, dict)] if isinstance(disks, list) else []
    return [serial for serial in found if isinstance(serial, str) and serial]


def wrong(options: Any) -> str:
    """What of the settings cannot be used; empty when all can."""
    if options.discovery and len(options.discovery_secret) < SECRET:
        return f"inspection.discovery_secret: discovery needs one of at least {SECRET} letters."
    for entry in options.physical_network_cidr_map:
        try:
            ipaddress.ip_network(entry.rpartition(":")[0])
        except ValueError:
            return f"inspection.physical_network_cidr_map: {entry!r} is not NETWORK:NAME, such as 192.0.2.0/24:lab."
    for name in ("pci_device_alias", "accelerators"):
        for entry in getattr(options, name):
            ids, _, words = entry.partition(" ")
            if ids.count(":") != 1 or not words:
                return f"inspection.{name}: {entry!r} is not VENDOR:PRODUCT and words, such as 10de:1eb8 GPU."
    entry = next((entry for entry in options.cpu_capabilities if not all(entry.partition(":")[::2])), None)
    return f"inspection.cpu_capabilities: {entry!r} is not FLAG:CAPABILITY." if entry is not None else ""
