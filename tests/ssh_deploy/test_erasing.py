"""Whole disks are erased by metald's ramdisk: by themselves where they offer it, else with zeros; with all that goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from metald.drivers.base import Done, Outcome, Wait
from metald.errors import DeployError, RamdiskLost
from tests.support.deploy_site import MIB, Site

SIZE = 32 * MIB


@pytest.fixture
async def site(tmp_path: Path, ramdisk_program: Path, erasing_disks: Path) -> AsyncIterator[Site]:
    program = tmp_path / "metald-ramdisk"
    program.write_text(f'#!/bin/sh\nLD_PRELOAD={erasing_disks} exec {ramdisk_program} "$@"\n')
    program.chmod(0o755)
    async with Site(tmp_path, program, SIZE).running() as made:
        made.disk.write_bytes(b"x" * SIZE)
        yield made


def manners(site: Site, kind: str, words: str) -> None:
    """What the disk offers."""
    real = Path(site.disk).resolve()
    real.with_name(f"{real.name}.{kind}").write_text(words)


def log(site: Site) -> str:
    real = Path(site.disk).resolve()
    path = real.with_name(f"{real.name}.log")
    return path.read_text() if path.exists() else ""


async def erased(steps: Any, step: Callable[[Any], Awaitable[Outcome]]) -> list[Wait]:
    """Call a step as the engine does until it is done. Returns what it waited for."""
    waits = []
    async with asyncio.timeout(60):
        while not isinstance(outcome := await step(steps), Done):
            assert isinstance(outcome, Wait)
            assert outcome.look is not None
            waits.append(outcome)
            await outcome.look()
    return waits


async def test_what_offers_nothing_is_overwritten(site: Site) -> None:
    await site.boot()
    steps = site.steps()
    await erased(steps, site.deploy.erase_devices)
    assert not any(site.disk.read_bytes())
    assert [data["method"] for kind, data in steps.notes if kind == "erasure"] == ["zero"]
    await erased(steps, site.deploy.erase_devices)  # again, as after a crash behind the end
    assert len([1 for kind, _ in steps.notes if kind == "erasure"]) == 1


async def test_overwriting_goes_on_where_it_was_after_another_boot(site: Site) -> None:
    await site.boot()
    steps = site.steps()
    ramdisk = await site.deploy.ramdisk(steps.node)
    (disk,) = await ramdisk.disks()
    entry = {"method": "zero", "job": "j", "offset": 8 * MIB, "marks": [], "done": False}
    steps.memo["erased"] = {f"{disk.serial} {disk.wwn}" if disk.serial or disk.wwn else f"{disk.name} {disk.size}": entry}
    await erased(steps, site.deploy.erase_devices)
    assert site.disk.read_bytes() == b"x" * (8 * MIB) + bytes(SIZE - 8 * MIB)


async def test_what_is_lost_is_told_and_what_comes_back_is_erased(site: Site) -> None:
    await site.boot()
    steps = site.steps()
    outcome = await site.deploy.erase_devices(steps)
    if isinstance(outcome, Wait):
        assert (outcome.signal, outcome.callback) == ("ramdisk", True)
        site.bmc.set_power(False)
        assert outcome.look is not None
        await outcome.look()
        with pytest.raises(RamdiskLost):
            await site.deploy.erase_devices(steps)
        await site.boot()
    await erased(steps, site.deploy.erase_devices)
    assert not any(site.disk.read_bytes())


@pytest.mark.parametrize(
    ("kind", "words", "method"),
    [
        ("nvme", "format", "nvme"),
        ("nvme", "format crypto", "nvme-crypto"),
        ("ata", "supported", "ata"),
        ("ata", "supported enhanced", "ata-enhanced"),
        ("nvme", "", "zero"),
    ],
)
async def test_a_disk_erases_itself_where_it_offers_to(site: Site, kind: str, words: str, method: str) -> None:
    manners(site, kind, words)
    await site.boot()
    steps = site.steps()
    await erased(steps, site.deploy.erase_devices)
    assert not any(site.disk.read_bytes())
    assert [data["method"] for name, data in steps.notes if name == "erasure"] == [method]
    assert bool(log(site)) == (method != "zero")


async def test_a_disk_that_says_it_is_erased_and_is_not(site: Site) -> None:
    manners(site, "nvme", "format lies")
    await site.boot()
    with pytest.raises(DeployError, match="says that it has erased itself, and holds at byte 4194304 what was there") as told:
        await erased(site.steps(), site.deploy.erase_devices)
    assert "agent_continue_if_secure_erase_failed" in told.value.remedy


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("supported frozen", "frozen by the firmware"),
        ("supported enabled locked foreign", "locked with a password"),
        ("supported refuses", ""),
    ],
)
async def test_a_disk_that_does_not_erase_itself_is_overwritten_only_where_that_is_admitted(site: Site, words: str, why: str) -> None:
    manners(site, "ata", words)
    await site.boot()
    steps = site.steps()
    with pytest.raises(DeployError, match=f"could not be erased.*{why}"):
        await erased(steps, site.deploy.erase_devices)
    site.fleet.change(steps.node, driver_info={"agent_continue_if_secure_erase_failed": "true"})
    await erased(steps, site.deploy.erase_devices)
    assert not any(site.disk.read_bytes())
    assert [data["method"] for name, data in steps.notes if name == "erasure"][-1] == "zero"


async def test_who_wants_no_secure_erase_gets_none(site: Site) -> None:
    manners(site, "nvme", "format")
    await site.boot()
    steps = site.steps()
    site.fleet.change(steps.node, driver_info={"agent_enable_nvme_secure_erase": False})
    await erased(steps, site.deploy.erase_devices)
    assert not log(site)
    assert not any(site.disk.read_bytes())


async def test_the_express_erases_what_is_quick_and_wipes_the_rest(site: Site) -> None:
    await site.boot()
    steps = site.steps()
    await erased(steps, site.deploy.erase_devices_express)
    data = site.disk.read_bytes()
    assert not any(data[:MIB])
    assert not any(data[-MIB:])
    assert any(data)
    manners(site, "nvme", "format crypto")
    await erased(steps, site.deploy.erase_devices_express)
    assert not any(site.disk.read_bytes())
    assert "format" in log(site)
