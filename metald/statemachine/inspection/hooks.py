"""What is done with every inventory, by the names that Ironic's hooks have. Pure: each changes the `Subject` or refuses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from metald.drivers.root_device import GIB, Disk, choose
from metald.errors import InspectionError, MetaldError
from metald.model.masking import mask_text
from metald.statemachine.inspection import more_hooks, nics
from metald.statemachine.inspection.subject import Subject


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of `inspection`; see `metald.config.Inspection`."""

    hooks: Sequence[str] = ("ramdisk-error", "validate-interfaces", "ports", "architecture")
    add_ports: str = "pxe"
    keep_ports: str = "all"
    update_pxe_enabled: bool = True
    mask_secrets: str = "always"
    cpu_capabilities: Sequence[str] = ()
    pci_device_alias: Sequence[str] = ()
    accelerators: Sequence[str] = ()
    physical_network_cidr_map: Sequence[str] = ()
    extra_hardware_strict: bool = False


Hook = Callable[[Subject, Options], None]


def ramdisk_error(subject: Subject, _options: Options) -> None:
    """Refuse an inventory whose ramdisk says that it failed."""
    if error := subject.plugin_data.get("error"):
        raise InspectionError(f"The ramdisk reported an error: {mask_text(str(error))[:2000]}")


def validate_interfaces(subject: Subject, options: Options) -> None:
    """Find the network cards, and those among them that shall be ports."""
    found = nics.cards(subject.inventory)
    chosen = nics.chosen(found, subject.inventory, options.add_ports)
    subject.plugin_data |= {"all_interfaces": found, "valid_interfaces": chosen, "macs": [card["mac_address"] for card in chosen.values()]}


def ports(subject: Subject, options: Options) -> None:
    """Make the node's ports those of its network cards."""
    if "all_interfaces" not in subject.plugin_data:
        raise InspectionError("The hook ports needs validate-interfaces.", remedy="Set it before ports in inspection.hooks.")
    nics.make_ports(subject, add=options.add_ports != "disabled", keep=options.keep_ports, update=options.update_pxe_enabled)


def _fact(subject: Subject, group: str, name: str) -> Any:
    """A text or number of the inventory.

    Raises:
        InspectionError: it is not there.
    """
    found = subject.inventory.get(group)
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise InspectionError(f"The inventory has no {group}/{name}.")
    return value


def architecture(subject: Subject, _options: Options) -> None:
    """The processor's architecture, as the property `cpu_arch`."""
    subject.node["properties"]["cpu_arch"] = _fact(subject, "cpu", "architecture")


def cpus(subject: Subject, _options: Options) -> None:
    """The number of logical processors, as the property `cpus`."""
    subject.node["properties"]["cpus"] = _fact(subject, "cpu", "count")


def memory(subject: Subject, _options: Options) -> None:
    """The memory that is built in, in MiB, as the property `memory_mb`."""
    subject.node["properties"]["memory_mb"] = _fact(subject, "memory", "physical_mb")


_TEXTS = ("model", "vendor", "serial", "wwn", "wwn_with_extension", "wwn_vendor_extension", "hctl", "by_path", "tran")


def root_device(subject: Subject, _options: Options) -> None:
    """The disk that the node's hints mean, and its size in whole GiB as the property `local_gb`."""
    hints = subject.node["properties"].get("root_device")
    chosen = None
    if isinstance(hints, Mapping) and hints:
        disks = {str(disk.get("name")): disk for disk in _disks(subject)}
        try:
            label = subject.node.get("name") or subject.node["uuid"]
            chosen = disks[choose([_disk(disk) for disk in disks.values()], hints, label).name]
        except MetaldError as error:
            raise InspectionError(error.message, remedy=error.remedy) from None
        subject.plugin_data["root_disk"] = dict(chosen)
    elif isinstance(known := subject.plugin_data.get("root_disk"), dict):
        chosen = known
    size = chosen.get("size") if chosen else 0
    # One GiB is left for what partition tables, boot and config drive need.
    gigabytes = max(0, (size if isinstance(size, int) else 0) // GIB - 1)
    subject.plugin_data["local_gb"] = gigabytes
    subject.node["properties"]["local_gb"] = str(gigabytes)


def _disks(subject: Subject) -> list[dict[str, Any]]:
    found = subject.inventory.get("disks")
    return [disk for disk in found if isinstance(disk, dict) and disk.get("name")] if isinstance(found, list) else []


def _disk(told: dict[str, Any]) -> Disk:
    size = told.get("size")
    texts: dict[str, Any] = {name: str(told.get(name) or "") for name in _TEXTS}
    return Disk(name=str(told["name"]), size=size if isinstance(size, int) else 0, rotational=bool(told.get("rotational")), **texts)


HOOKS: Mapping[str, Hook] = MappingProxyType(
    {
        "ramdisk-error": ramdisk_error,
        "validate-interfaces": validate_interfaces,
        "ports": ports,
        "architecture": architecture,
        "cpus": cpus,
        "memory": memory,
        "root-device": root_device,
        "accelerators": more_hooks.accelerators,
        "boot-mode": more_hooks.boot_mode,
        "cpu-capabilities": more_hooks.cpu_capabilities,
        "extra-hardware": more_hooks.extra_hardware,
        "local-link-connection": more_hooks.local_link_connection,
        "parse-lldp": more_hooks.parse_lldp,
        "pci-devices": more_hooks.pci_devices,
        "physical-network": more_hooks.physical_network,
        "raid-device": more_hooks.raid_device,
    }
)
"""Every hook by its name."""


def run(subject: Subject, options: Options) -> None:
    """Run the hooks that the settings name.

    Raises:
        InspectionError: one refuses the inventory.
    """
    for name in options.hooks:
        HOOKS[name](subject, options)
