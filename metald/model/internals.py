"""Internals: what a machine's BMC tells of its inside, BIOS settings and firmware components."""

from __future__ import annotations

from datetime import datetime

import msgspec

from metald.model.resource import Resource, now


class BiosSetting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One setting of the machine's firmware set-up. What stands below `value` comes from the vendor's registry of attributes."""

    name: str
    value: str | None = None
    attribute_type: str | None = None
    """`Enumeration`, `String`, `Integer`, `Boolean` or `Password`."""
    allowable_values: list[str] = []
    lower_bound: int | None = None
    upper_bound: int | None = None
    min_length: int | None = None
    max_length: int | None = None
    read_only: bool | None = None
    reset_required: bool | None = None
    unique: bool | None = None
    created_at: datetime = msgspec.field(default_factory=now)
    updated_at: datetime | None = None


class FirmwareComponent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One updatable firmware of the machine, such as `bios` or `bmc`."""

    component: str
    initial_version: str
    current_version: str | None = None
    last_version_flashed: str | None = None
    vendor: str | None = None
    model: str | None = None
    serial_number: str | None = None
    created_at: datetime = msgspec.field(default_factory=now)
    updated_at: datetime | None = None


class Internals(Resource, frozen=True, kw_only=True):
    """The inside of one node's machine. A row of its own, as a node's many changes need not write it again each time."""

    node_uuid: str
    bios: list[BiosSetting] = []
    """In the order in which they were first seen."""
    firmware: list[FirmwareComponent] = []
