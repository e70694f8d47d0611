"""The registry of resource kinds: what the store keeps, and by what each kind can be found.

A kind is one SQL table (`id`, `uuid`, `version`, one column for each unique field, `doc`) and one in-memory table with
the same unique fields and any number of memory-only indexes. A new kind is one line in `KINDS` and one migration.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Generic, TypeVar

from metald.model import Chassis, Conductor, Internals, Node, Port, Resource, Workflow
from metald.model.catalogue import Allocation, DeployTemplate, InspectionRule, Portgroup, Runbook, VolumeConnector, VolumeTarget
from metald.model.command import Command
from metald.model.cursor import Cursor
from metald.model.inventory import Inventory

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, eq=False)
class Kind(Generic[R]):
    """How one type of resource is stored.

    Args:
        type: the class of the resources.
        table: name of its SQL table.
        noun: what error texts call one of them.
        unique: fields that no two rows may share (null excepted), with what error texts say of them: {0} is the
            value, {1} and {2} its first word and the rest.
        indexed: fields that rows are looked up by in memory; they need no column.
        resident: one of the unique fields: rows that have none of it stay in the database at the start, and may leave memory
            (`Store.release`). Empty where all rows are in memory.
        counted: fields, two at least, of whose combinations it is known at any time how many rows have each.
    """

    type: type[R]
    table: str
    noun: str
    unique: MappingProxyType[str, str]
    indexed: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    resident: str = ""

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The unique fields, in the order of their SQL columns."""
        return tuple(self.unique)

    def taken(self, field: str, value: object) -> str:
        """What error texts say of a value that another row has already."""
        words = "UUID {0}" if field == "uuid" else self.unique[field]
        article = "An" if self.noun[0] in "aeiou" else "A"
        return f"{article} {self.noun} with {words.format(value, *str(value).split(' ', 1))} already exists."


def _kind(
    type_: type[R],
    table: str,
    *,
    noun: str = "",
    unique: dict[str, str] | None = None,
    indexed: tuple[str, ...] = (),
    counted: tuple[str, ...] = (),
    resident: str = "",
) -> Kind[R]:
    return Kind(type_, table, noun or type_.__name__.lower(), MappingProxyType(unique or {}), indexed, counted, resident)


KINDS: tuple[Kind[Resource], ...] = (
    _kind(Chassis, "chassis"),
    _kind(
        Node,
        "nodes",
        unique={"name": "name {0}", "instance_uuid": "instance UUID {0}"},
        indexed=("chassis_uuid", "shard", "conductor_group", "parent_node", "allocation_uuid"),
        counted=("provision_state", "maintenance", "fault"),
    ),
    _kind(Port, "ports", unique={"address": "MAC address {0}", "name": "name {0}"}, indexed=("node_uuid", "portgroup_uuid")),
    _kind(Workflow, "workflows", indexed=("node_uuid",), counted=("kind", "state")),
    _kind(Internals, "internals", indexed=("node_uuid",)),
    _kind(Inventory, "inventories", indexed=("node_uuid",)),
    _kind(Portgroup, "portgroups", unique={"address": "MAC address {0}", "name": "name {0}"}, indexed=("node_uuid",)),
    _kind(Allocation, "allocations", unique={"name": "name {0}"}, indexed=("node_uuid", "state")),
    _kind(DeployTemplate, "deploy_templates", noun="deploy template", unique={"name": "name {0}"}),
    _kind(Runbook, "runbooks", unique={"name": "name {0}"}),
    _kind(InspectionRule, "inspection_rules", noun="inspection rule"),
    _kind(
        VolumeConnector,
        "volume_connectors",
        noun="volume connector",
        unique={"key": "type {1} and connector ID {2}"},
        indexed=("node_uuid",),
    ),
    _kind(
        VolumeTarget, "volume_targets", noun="volume target", unique={"key": "boot index '{2}' for the same node"}, indexed=("node_uuid",)
    ),
    _kind(Command, "commands", unique={"unfinished": "UUID {0}"}, indexed=("state", "parent"), resident="unfinished"),
    _kind(Conductor, "conductors", unique={"hostname": "hostname {0}"}),
    _kind(Cursor, "cursors"),
)
"""Every kind that the store keeps."""

BY_TYPE: MappingProxyType[type[Resource], Kind[Resource]] = MappingProxyType({kind.type: kind for kind in KINDS})
"""The kind of each resource class."""
