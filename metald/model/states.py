"""The words of the field: provision states, verbs, power states, boot devices, interface names.

Values are the exact strings of the Ironic v1 API; nothing here knows what leads where (see `statemachine/table.py`).
"""

from __future__ import annotations

from enum import StrEnum


class ProvisionState(StrEnum):
    """Where a node is in its life. Thirty states."""

    ENROLL = "enroll"
    VERIFYING = "verifying"
    MANAGEABLE = "manageable"
    AVAILABLE = "available"
    CLEANING = "cleaning"
    CLEAN_WAIT = "clean wait"
    CLEAN_HOLD = "clean hold"
    CLEAN_FAILED = "clean failed"
    INSPECTING = "inspecting"
    INSPECT_WAIT = "inspect wait"
    INSPECT_FAILED = "inspect failed"
    DEPLOYING = "deploying"
    WAIT_CALL_BACK = "wait call-back"
    DEPLOY_HOLD = "deploy hold"
    DEPLOY_FAILED = "deploy failed"
    ACTIVE = "active"
    DELETING = "deleting"
    ERROR = "error"
    ADOPTING = "adopting"
    ADOPT_FAILED = "adopt failed"
    RESCUING = "rescuing"
    RESCUE_WAIT = "rescue wait"
    RESCUE = "rescue"
    RESCUE_FAILED = "rescue failed"
    UNRESCUING = "unrescuing"
    UNRESCUE_FAILED = "unrescue failed"
    SERVICING = "servicing"
    SERVICE_WAIT = "service wait"
    SERVICE_HOLD = "service hold"
    SERVICE_FAILED = "service failed"


class Verb(StrEnum):
    """What a client may ask of a node's provisioning. `deploy` is also spelt `active`, `delete` also `deleted`, `undeploy`."""

    MANAGE = "manage"
    PROVIDE = "provide"
    INSPECT = "inspect"
    CLEAN = "clean"
    ADOPT = "adopt"
    DEPLOY = "deploy"
    REBUILD = "rebuild"
    DELETE = "delete"
    ABORT = "abort"
    RESCUE = "rescue"
    UNRESCUE = "unrescue"
    UNHOLD = "unhold"
    SERVICE = "service"


class PowerState(StrEnum):
    """Observed power of a node; `ERROR` after a failed change."""

    ON = "power on"
    OFF = "power off"
    ERROR = "error"


class PowerTarget(StrEnum):
    """What a client may ask of a node's power."""

    ON = "power on"
    OFF = "power off"
    REBOOT = "rebooting"
    SOFT_OFF = "soft power off"
    SOFT_REBOOT = "soft rebooting"


class BootDevice(StrEnum):
    """Boot devices that a management interface may set."""

    PXE = "pxe"
    DISK = "disk"
    CDROM = "cdrom"
    BIOS = "bios"
    SAFE = "safe"
    WANBOOT = "wanboot"
    ISCSIBOOT = "iscsiboot"
    FLOPPY = "floppy"


class BootMode(StrEnum):
    """Firmware mode."""

    UEFI = "uefi"
    BIOS = "bios"


class Fault(StrEnum):
    """Why metald itself put a node into maintenance."""

    POWER = "power failure"
    CLEAN = "clean failure"
    RESCUE_ABORT = "rescue abort failure"
    SERVICE = "service failure"


INTERFACES: tuple[str, ...] = (
    "bios",
    "boot",
    "console",
    "deploy",
    "firmware",
    "inspect",
    "management",
    "network",
    "power",
    "raid",
    "rescue",
    "storage",
    "vendor",
)
"""The thirteen interface types of a driver, in the order in which the API lists them."""
