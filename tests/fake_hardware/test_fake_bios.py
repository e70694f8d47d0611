"""BIOS settings and firmware of fake-hardware: steps that write them, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metald.model import BiosSetting, FirmwareComponent, Internals
from metald.store.changes import Change
from tests.support.api import Api, serving

A, B = {"name": "a", "value": "1"}, {"name": "b", "value": "2"}


async def clean(api: Api, uuid: str, *steps: tuple[str, str, dict[str, Any]], until: str = "manageable", status: int = 202) -> Any:
    if api.house.node(uuid).provision_state != "manageable":
        await api.force(uuid, provision_state="manageable")
    wanted = [{"interface": interface, "step": step, "args": args} for interface, step, args in steps]
    found = await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "clean", "clean_steps": wanted})
    assert found.status == status, found.body
    return await api.until(uuid, until) if status == 202 else found.fault


async def apply(api: Api, uuid: str, *settings: Any) -> None:
    await clean(api, uuid, ("bios", "apply_configuration", {"settings": list(settings)}))


async def pairs(api: Api, uuid: str) -> dict[str, Any]:
    return {setting["name"]: setting["value"] for setting in (await api.get(f"/v1/nodes/{uuid}/bios"))["bios"]}


async def test_applied_settings_are_the_machines_only_ones(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    assert await pairs(api, uuid) == {}
    await apply(api, uuid, A, B)
    first = (await api.get(f"/v1/nodes/{uuid}/bios"))["bios"]
    assert [setting["updated_at"] for setting in first] == [None, None]
    await apply(api, uuid, A, {"name": "c", "value": 4})
    second = (await api.get(f"/v1/nodes/{uuid}/bios"))["bios"]
    assert await pairs(api, uuid) == {"a": "1", "c": "4"}
    assert second[0] == first[0]
    await apply(api, uuid, {"name": "a", "value": "9"})
    (changed,) = (await api.get(f"/v1/nodes/{uuid}/bios"))["bios"]
    assert changed["created_at"] == first[0]["created_at"]
    assert changed["updated_at"] is not None
    await apply(api, uuid)
    assert await pairs(api, uuid) == {}


async def test_a_reset_forgets_the_settings_and_reading_keeps_them(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await apply(api, uuid, A, B)
    await clean(api, uuid, ("bios", "cache_bios_settings", {}))
    assert await pairs(api, uuid) == {"a": "1", "b": "2"}
    await clean(api, uuid, ("bios", "factory_reset", {}), ("bios", "apply_configuration", {"settings": [B]}))
    assert await pairs(api, uuid) == {"b": "2"}
    await clean(api, uuid, ("bios", "factory_reset", {}))
    assert await pairs(api, uuid) == {}


@pytest.mark.parametrize(
    "settings", ["x", {"a": 1}, [1], [{"name": "x"}], [{"value": "x"}], [{"name": 5, "value": "x"}], [{**A, "min_length": "no"}]]
)
async def test_settings_that_are_none_fail_the_cleaning_and_change_nothing(api: Api, settings: Any) -> None:
    uuid = (await api.node())["uuid"]
    await apply(api, uuid, A)
    node = await clean(api, uuid, ("bios", "apply_configuration", {"settings": settings}), until="clean failed")
    assert "BIOS setting" in (node.last_error or "")
    assert node.maintenance
    assert await pairs(api, uuid) == {"a": "1"}


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (("bios", "apply_configuration", {}), "needs the argument settings"),
        (("bios", "apply_configuration", {"settings": [A], "foo": 1}), "does not know the argument foo"),
        (("firmware", "update", {}), "needs the argument settings"),
        (("raid", "create_configuration", {}), "has no clean step raid.create_configuration"),
    ],
)
async def test_arguments_are_checked_before_anything_happens(api: Api, step: tuple[str, str, dict[str, Any]], text: str) -> None:
    uuid = (await api.node())["uuid"]
    node = await clean(api, uuid, step, until="clean failed")
    assert text in str(node.last_error)
    assert node.maintenance is False


async def test_a_firmware_update_changes_nothing(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await clean(api, uuid, ("firmware", "update", {"settings": [{"component": "bmc", "url": "http://a/b"}]}))
    assert await api.get(f"/v1/nodes/{uuid}/firmware") == {"firmware": []}


async def test_one_setting_is_keyed_by_its_name(api: Api) -> None:
    uuid = (await api.node(name="n1"))["uuid"]
    await apply(api, uuid, {"name": "Boot Mode", "value": "Uefi", "attribute_type": "Enumeration", "allowable_values": ["Uefi", "Bios"]})
    found = await api.get("/v1/nodes/n1/bios/Boot%20Mode")
    assert list(found) == ["Boot Mode"]
    setting = found["Boot Mode"]
    assert setting["allowable_values"] == ["Uefi", "Bios"]
    assert setting["read_only"] is None
    assert setting["links"][0]["href"].endswith(f"/v1/nodes/{uuid}/bios/Boot%20Mode")
    assert sorted((await api.get("/v1/nodes/n1/bios/Boot%20Mode", "1.73"))["Boot Mode"]) == [
        "created_at", "links", "name", "updated_at", "value",
    ]  # fmt: skip
    found = await api.ask("GET", "/v1/nodes/n1/bios/boot mode")
    assert (found.status, found.fault) == (404, f"Node {uuid} doesn't have a BIOS setting 'boot mode'")


async def test_what_is_shown_of_settings_grows_with_the_version(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await apply(api, uuid, A)
    path = f"/v1/nodes/{uuid}/bios"
    assert (await api.ask("GET", path, version="1.39")).status == 404
    assert (await api.ask("GET", f"{path}/a", version="1.39")).status == 404
    plain = {"created_at", "updated_at", "name", "value", "links"}
    assert set((await api.get(path, "1.40"))["bios"][0]) == plain
    for query in ("detail=true", "fields=name"):
        assert (await api.ask("GET", f"{path}?{query}", version="1.73")).status == 400
    assert set((await api.get(f"{path}?detail=false", "1.74"))["bios"][0]) == plain
    full = (await api.get(f"{path}?detail=true", "1.74"))["bios"][0]
    assert len(full) == 14
    assert full["allowable_values"] == []
    assert set((await api.get(f"{path}?fields=name,read_only", "1.74"))["bios"][0]) == {
        "created_at",
        "updated_at",
        "name",
        "read_only",
        "links",
    }
    for query in ("fields=zzz", "fields=name&detail=true"):
        assert (await api.ask("GET", f"{path}?{query}")).status == 400


async def test_what_is_shown_of_firmware_grows_with_the_version(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    bmc = FirmwareComponent(component="bmc", initial_version="1.0", current_version="1.1", vendor="Acme")
    await api.house.store.commit(Change(save=[Internals(node_uuid=uuid, firmware=[bmc])]))
    path = f"/v1/nodes/{uuid}/firmware"
    assert (await api.ask("GET", path, version="1.85")).status == 404
    plain = {"created_at", "updated_at", "component", "initial_version", "current_version", "last_version_flashed"}
    assert set((await api.get(path, "1.113"))["firmware"][0]) == plain
    found = (await api.get(path, "1.114"))["firmware"][0]
    assert set(found) == plain | {"vendor", "model", "serial_number"}
    assert (found["current_version"], found["vendor"], found["model"]) == ("1.1", "Acme", None)
    assert set((await api.get(f"{path}?fields=component", "1.86"))["firmware"][0]) == {"created_at", "updated_at", "component"}
    refused = await api.ask("GET", f"{path}?fields=vendor", version="1.113")
    assert refused.status == 400
    assert "at least API version 1.114" in refused.fault
    for query in ("fields=zzz", "detail=true"):
        assert (await api.ask("GET", f"{path}?{query}")).status == 400


async def test_settings_outlive_the_daemon_and_go_with_the_node(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        uuid = (await api.node())["uuid"]
        await apply(api, uuid, A)
    async with serving(tmp_path) as api:
        assert await pairs(api, uuid) == {"a": "1"}
        await api.force(uuid, provision_state="enroll")
        assert (await api.ask("DELETE", f"/v1/nodes/{uuid}")).status == 204
        assert api.house.store.table(Internals).all() == []


def test_a_setting_says_only_what_is_known() -> None:
    assert BiosSetting(name="a").value is None
