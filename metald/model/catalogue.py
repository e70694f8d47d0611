"""What operators keep beside machines: port groups, allocations, templates, runbooks, rules, volumes.

Field names and meanings are those of the Ironic v1 API.
"""

from __future__ import annotations

from typing import Any

from metald.model.resource import Resource

Json = dict[str, Any]


class Portgroup(Resource, frozen=True, kw_only=True):
    """Ports of one node that work as one link."""

    node_uuid: str
    address: str | None = None
    name: str | None = None
    mode: str = "active-backup"
    properties: Json = {}
    standalone_ports_supported: bool = True
    extra: Json = {}
    internal_info: Json = {}
    physical_network: str | None = None
    category: str | None = None
    dynamic_portgroup: bool = False


class Allocation(Resource, frozen=True, kw_only=True):
    """A claim on one node of a resource class."""

    name: str | None = None
    resource_class: str | None = None
    traits: list[str] = []
    candidate_nodes: list[str] = []
    """UUIDs; empty means any node."""
    extra: Json = {}
    owner: str | None = None
    node_uuid: str | None = None
    state: str = "allocating"
    """`allocating`, `active` or `error`."""
    last_error: str | None = None


class DeployTemplate(Resource, frozen=True, kw_only=True):
    """Deploy steps that a node gets whose instance asks for a trait of the template's name."""

    name: str
    steps: list[Json] = []
    extra: Json = {}
    description: str | None = None


class Runbook(Resource, frozen=True, kw_only=True):
    """Clean or service steps under one name, for nodes that carry one of its traits."""

    name: str
    steps: list[Json] = []
    disable_ramdisk: bool = False
    extra: Json = {}
    public: bool = False
    owner: str | None = None
    description: str | None = None
    traits: list[str] = []


class InspectionRule(Resource, frozen=True, kw_only=True):
    """What to do with a node when what inspection found meets conditions."""

    description: str | None = None
    priority: int = 0
    phase: str | None = "main"
    sensitive: bool = False
    conditions: list[Json] = []
    actions: list[Json] = []


class VolumeConnector(Resource, frozen=True, kw_only=True):
    """How a node calls itself towards remote storage."""

    node_uuid: str
    type: str
    connector_id: str
    extra: Json = {}
    key: str
    """Type and identifier in one, which no two connectors share."""


class VolumeTarget(Resource, frozen=True, kw_only=True):
    """A remote volume of a node."""

    node_uuid: str
    volume_type: str
    volume_id: str
    boot_index: int
    properties: Json = {}
    extra: Json = {}
    key: str
    """Node and boot index in one, which no two targets share."""
