"""The settings of inspections."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from metald.config.base import Section

Hook = Literal[
    "ramdisk-error",
    "validate-interfaces",
    "ports",
    "architecture",
    "cpus",
    "memory",
    "root-device",
    "accelerators",
    "boot-mode",
    "cpu-capabilities",
    "extra-hardware",
    "local-link-connection",
    "parse-lldp",
    "pci-devices",
    "physical-network",
    "raid-device",
]


class Inspection(Section, frozen=True):
    """Inspection by ramdisks, and what is made of the inventory that one sends."""

    require_managed_boot: Annotated[
        bool,
        Meta(
            description="Refuse inspections whose ramdisk metald itself cannot have booted. Otherwise such machines are started from the "
            "network, and whoever serves it offers the ramdisk."
        ),
    ] = False
    discovery: Annotated[
        bool,
        Meta(description="Make nodes of machines that nobody enrolled, of inventories that come with `discovery_secret`."),
    ] = False
    discovery_secret: Annotated[
        str,
        Meta(description="What their ramdisks' callback URL must have as its argument `discovery_secret`: 16 letters or more."),
    ] = ""
    discovery_driver: Annotated[str, Meta(min_length=1, description="Hardware type of discovered nodes.")] = "ipmi"
    hooks: Annotated[
        list[Hook],
        Meta(description="What is done with an inventory, in this order. `ports` needs `validate-interfaces` before it."),
    ] = msgspec.field(default_factory=lambda: ["ramdisk-error", "validate-interfaces", "ports", "architecture"])
    add_ports: Annotated[
        Literal["all", "active", "pxe", "disabled"],
        Meta(description="Network cards that become ports: all, those with an IP address, the one that booted, none."),
    ] = "pxe"
    keep_ports: Annotated[
        Literal["all", "present", "added"],
        Meta(description="Ports that stay: all, those of cards in the inventory, those of cards that `add_ports` chooses."),
    ] = "all"
    update_pxe_enabled: Annotated[bool, Meta(description="Set `pxe_enabled` of each port by which card booted.")] = True
    cpu_capabilities: Annotated[
        list[str], Meta(description="Capabilities that flags of the processor stand for, as `flag:capability` (hook cpu-capabilities).")
    ] = msgspec.field(
        default_factory=lambda: [
            *("vmx:cpu_vt", "svm:cpu_vt", "aes:cpu_aes", "pse:cpu_hugepages", "pdpe1gb:cpu_hugepages_1g", "smx:cpu_txt"),
        ]
    )
    pci_device_alias: Annotated[
        list[str], Meta(description="Capabilities that count PCI devices, as `10de:1eb8 name` (hook pci-devices).")
    ] = msgspec.field(default_factory=list)
    accelerators: Annotated[
        list[str], Meta(description="PCI devices that are accelerators, as `10de:1eb8 GPU NVIDIA Tesla T4` (hook accelerators).")
    ] = msgspec.field(
        default_factory=lambda: [
            "10de:1eb8 GPU NVIDIA Corporation Tesla T4",
            "10de:1df6 GPU NVIDIA Corporation GV100GL",
            "10de:2236 GPU NVIDIA Corporation A10",
            "10de:2235 GPU NVIDIA Corporation A40",
            "10de:26b9 GPU NVIDIA Corporation L40S",
        ]
    )
    physical_network_cidr_map: Annotated[
        list[str], Meta(description="Physical networks by addresses, as `192.0.2.0/24:lab` (hook physical-network).")
    ] = msgspec.field(default_factory=list)
    extra_hardware_strict: Annotated[
        bool, Meta(description="Drop the records of hardware-detect when one of them is not whole (hook extra-hardware).")
    ] = False
    mask_secrets: Annotated[
        Literal["always", "sensitive", "never"],
        Meta(description="Hide secrets of an inventory from rules: from all, from those that are not sensitive, from none."),
    ] = "always"
