"""Node, Port and Chassis: the things an operator owns."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from metald.model.resource import Resource, now
from metald.model.states import PowerState, ProvisionState

Json = dict[str, Any]


class Node(Resource, frozen=True, kw_only=True):
    """A machine. Field names and meanings are those of the Ironic v1 API."""

    driver: str
    name: str | None = None
    driver_info: Json = {}
    driver_internal_info: Json = {}
    properties: Json = {}
    instance_info: Json = {}
    instance_uuid: str | None = None
    instance_name: str | None = None
    extra: Json = {}
    network_data: Json = {}

    power_state: PowerState | None = None
    target_power_state: PowerState | None = None
    provision_state: ProvisionState = ProvisionState.ENROLL
    target_provision_state: ProvisionState | None = None
    provision_updated_at: datetime | None = None
    last_error: str | None = None
    reservation: str | None = None
    """Name of the conductor whose workflow owns the node; null when none does."""
    workflow: str | None = None
    """UUID of the workflow that owns the node."""

    maintenance: bool = False
    maintenance_reason: str | None = None
    fault: str | None = None
    console_enabled: bool = False
    clean_step: Json = {}
    deploy_step: Json = {}
    service_step: Json = {}
    raid_config: Json = {}
    target_raid_config: Json = {}
    inspection_started_at: datetime | None = None
    inspection_finished_at: datetime | None = None

    chassis_uuid: str | None = None
    resource_class: str | None = None
    traits: list[str] = []
    conductor_group: str = ""
    automated_clean: bool | None = None
    protected: bool = False
    protected_reason: str | None = None
    owner: str | None = None
    lessee: str | None = None
    description: str | None = None
    allocation_uuid: str | None = None
    retired: bool = False
    retired_reason: str | None = None
    boot_mode: str | None = None
    secure_boot: bool | None = None
    shard: str | None = None
    parent_node: str | None = None
    disable_power_off: bool = False
    health: str | None = None

    bios_interface: str | None = None
    boot_interface: str | None = None
    console_interface: str | None = None
    deploy_interface: str | None = None
    firmware_interface: str | None = None
    inspect_interface: str | None = None
    management_interface: str | None = None
    network_interface: str | None = None
    power_interface: str | None = None
    raid_interface: str | None = None
    rescue_interface: str | None = None
    storage_interface: str | None = None
    vendor_interface: str | None = None

    def interface(self, kind: str) -> str | None:
        """The implementation chosen for an interface type such as `power`."""
        name: str | None = getattr(self, f"{kind}_interface")
        return name

    @property
    def label(self) -> str:
        """What log lines and error texts call the node: its name, else its UUID."""
        return self.name or self.uuid


class Port(Resource, frozen=True, kw_only=True):
    """A network card of a node."""

    node_uuid: str
    address: str
    """MAC address, lower case with colons."""
    name: str | None = None
    extra: Json = {}
    internal_info: Json = {}
    local_link_connection: Json = {}
    pxe_enabled: bool = True
    physical_network: str | None = None
    portgroup_uuid: str | None = None
    is_smartnic: bool = False
    description: str | None = None
    vendor: str | None = None
    category: str | None = None
    available_for_dynamic_portgroup: bool = True


class Chassis(Resource, frozen=True, kw_only=True):
    """A group of nodes in one enclosure."""

    description: str | None = None
    extra: Json = {}


class Conductor(Resource, frozen=True, kw_only=True):
    """A daemon that drives nodes; clients see it under `/v1/conductors`."""

    hostname: str
    conductor_group: str = ""
    drivers: list[str] = []
    heartbeat_at: datetime = msgspec.field(default_factory=now)
