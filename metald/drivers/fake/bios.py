"""BIOS settings of a pretended machine: it has those that were last applied to it, and none when reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from metald.drivers.base import Done, Outcome, Phase, StepContext, step
from metald.drivers.fake.hardware import FakeHardware
from metald.drivers.optional import Bios, JsonList
from metald.errors import Invalid
from metald.model import BiosSetting, now

_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "settings": {
        "description": "List of BIOS settings, each item needs to contain a dictionary with name/value pairs",
        "required": True,
    }
}
_UNGIVEN = frozenset({"created_at", "updated_at"})
_KNOWN = frozenset(BiosSetting.__struct_fields__) - _UNGIVEN


class FakeBios(Bios):
    """Settings that exist only in the node's internals."""

    name = "fake"

    def __init__(self, hardware: FakeHardware) -> None:
        self._hardware = hardware

    @step(Phase.CLEAN, 0, requires_ramdisk=True, argsinfo=_SETTINGS)
    async def apply_configuration(self, ctx: StepContext, settings: JsonList) -> Outcome:
        """Make the given settings the machine's only ones; one that stays as it was keeps its times."""
        await self._hardware.call(ctx.node, "bios")
        known = {setting.name: setting for setting in ctx.internals.bios}
        wanted = {setting.name: setting for setting in map(_setting, _items(settings))}
        ctx.set_internals(bios=[_merged(known.get(name), setting) for name, setting in wanted.items()])
        return Done(f"{len(wanted)} settings")

    @step(Phase.CLEAN, 0, requires_ramdisk=True)
    async def factory_reset(self, ctx: StepContext) -> Outcome:
        """Forget every setting."""
        await self._hardware.call(ctx.node, "bios")
        ctx.set_internals(bios=[])
        return Done()

    @step(Phase.CLEAN, 0, requires_ramdisk=True)
    async def cache_bios_settings(self, ctx: StepContext) -> Outcome:
        """There is nothing to read that is not known."""
        await self._hardware.call(ctx.node, "bios")
        return Done()


def _items(settings: Any) -> JsonList:
    if not isinstance(settings, list) or not all(isinstance(item, dict) and "value" in item and item.get("name") for item in settings):
        raise Invalid("The BIOS settings must be a list of objects with a name and a value.", field="settings")
    return settings


def _setting(item: Mapping[str, Any]) -> BiosSetting:
    value = item["value"]
    text = value if value is None or isinstance(value, str) else str(value)
    try:
        return msgspec.convert({k: v for k, v in item.items() if k in _KNOWN} | {"value": text}, BiosSetting)
    except msgspec.ValidationError as error:
        raise Invalid(f"BIOS setting {str(item['name'])[:80]}: {error}.", field="settings") from None


def _merged(old: BiosSetting | None, new: BiosSetting) -> BiosSetting:
    if old is None:
        return new
    dated = msgspec.structs.replace(new, created_at=old.created_at, updated_at=old.updated_at)
    return old if dated == old else msgspec.structs.replace(dated, updated_at=now())
