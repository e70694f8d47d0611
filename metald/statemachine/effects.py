"""What the engine's own steps do, in a sentence each, and what of a machine they touch. For plans that people read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from metald.drivers.registry import Registry
from metald.model import Node, PlannedStep
from metald.statemachine.steps import RESERVED

Effect = tuple[str, str]
"""What it does; what it touches: `nothing`, `power`, `bmc`, `network`, `boot files`, `ramdisk`, `disks`, `firmware`."""

_CORE: Mapping[tuple[str, str], Effect] = MappingProxyType(
    {
        ("power", "verify"): ("Asks the BMC for the power state.", "bmc"),
        ("power", "power_off"): ("Powers the machine off.", "power"),
        ("power", "power_on"): ("Powers the machine on.", "power"),
        ("power", "reboot"): ("Restarts the machine.", "power"),
        ("power", "change"): ("Changes the power.", "power"),
        ("management", "set_boot_device"): ("Tells the BMC what to boot next.", "bmc"),
        ("network", "add_provisioning_network"): ("Connects the machine to the provisioning network.", "network"),
        ("network", "remove_provisioning_network"): ("Takes the machine off the provisioning network.", "network"),
        ("network", "configure_tenant_networks"): ("Connects the machine to its tenants' networks.", "network"),
        ("network", "unconfigure_tenant_networks"): ("Takes the machine off its tenants' networks.", "network"),
        ("boot", "prepare_ramdisk"): ("Arranges that the next network boot loads the ramdisk.", "boot files"),
        ("boot", "clean_up_ramdisk"): ("Stops offering the ramdisk to the machine.", "boot files"),
        ("boot", "prepare_instance"): ("Arranges that the next boot starts the instance.", "boot files"),
        ("boot", "clean_up_instance"): ("Stops offering the instance's boot to the machine.", "boot files"),
        ("deploy", "prepare"): ("Checks the settings and fetches the image; the machine is not touched.", "nothing"),
        ("deploy", "wait_ramdisk"): ("Waits for the ramdisk to boot and call.", "ramdisk"),
        ("deploy", "agent_steps"): ("Asks the agent in the ramdisk which steps it offers, and plans them.", "ramdisk"),
        ("deploy", "reuse_ramdisk"): ("Looks whether the ramdisk runs already, and then leaves its boot out.", "ramdisk"),
        ("deploy", "install"): ("Waits for the installer to write the disk.", "disks"),
        ("deploy", "tear_down"): ("Gives up what the deployment holds outside the machine.", "nothing"),
        ("deploy", "begin_cleaning"): ("Forgets the instance; its data leaves the node.", "nothing"),
        ("deploy", "adopt"): ("Checks the settings and reads the power of a machine that runs already.", "bmc"),
        ("inspect", "boot"): ("Boots the ramdisk that inspects, or leaves that to whoever else boots machines.", "power"),
        ("inspect", "inspect_hardware"): ("Finds out what is inside the machine.", "ramdisk"),
        ("rescue", "rescue"): ("Lets the operator into the rescue ramdisk.", "ramdisk"),
        ("rescue", "unrescue"): ("Arranges that the machine boots its instance again.", "bmc"),
    }
)
_RESERVED: Mapping[str, Effect] = MappingProxyType(
    {
        "hold": ("Pauses until somebody asks for unhold.", "nothing"),
        "wait": ("Waits a while.", "nothing"),
        "power_on": _CORE["power", "power_on"],
        "power_off": _CORE["power", "power_off"],
        "reboot": _CORE["power", "reboot"],
    }
)
_TOUCHED: Mapping[str, str] = MappingProxyType(
    {
        "bios": "firmware",
        "deploy": "disks",
        "firmware": "firmware",
        "management": "bmc",
        "power": "power",
        "raid": "disks",
        "vendor": "bmc",
    }
)


def effect(registry: Registry, node: Node, step: PlannedStep) -> Effect:
    """What a planned step does, and what it touches. A driver's step says so in the first line of its documentation."""
    known = _CORE.get((step.interface, step.step)) or (_RESERVED[step.step] if step.step in RESERVED else None)
    if known is not None:
        return known
    method: Any = getattr(registry.for_node(node, step.interface), step.step, None)
    told = (inspect.getdoc(method) or "").partition("\n")[0] if method is not None else ""
    return told or f"Runs {step.interface}.{step.step}.", _TOUCHED.get(step.interface, "nothing")
