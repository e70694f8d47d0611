"""SIGKILL and SIGTERM at other instants than boundaries: in the middle of a write, of a boot, and wherever chance has it."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from pathlib import Path

import pytest
import pytest_asyncio

from tests.crash.course import Course
from tests.crash.forge import Forge
from tests.support.sim_machine import MIB

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("crash")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def course(tmp_path_factory: pytest.TempPathFactory, ramdisk_program: Path, smith: Forge) -> Course:
    made = Course(tmp_path_factory.mktemp("course"), ramdisk_program, smith, settings={"conductor.drain_timeout": 0.2})
    await made.prepare()
    return made


async def test_kill_in_the_middle_of_a_write(course: Course, smith: Forge, tmp_path: Path) -> None:
    async with course.again("write") as (site, box, client):
        box.machine.faults.holds_at = MIB
        await site.daemon.start(smith.daemon(tmp_path / "tally"))
        await course.ask(client)
        await box.machine.faults.held.wait()
        await site.daemon.kill()
        box.machine.go_on()
        await site.daemon.start(smith.daemon(tmp_path / "tally"))
        await course.arrive(box, client)
        report = box.machine.report()
    assert (report["writes_started"], report["writes_done"], report["power_on"], report["ramdisks"]) == (1, 1, 2, 1)


async def test_stop_in_the_middle_of_a_write_drains_and_goes_on_after_the_next_start(course: Course, smith: Forge, tmp_path: Path) -> None:
    async with course.again("term") as (site, box, client):
        box.machine.faults.holds_at = MIB
        await site.daemon.start(smith.daemon(tmp_path / "tally"))
        await course.ask(client)
        await box.machine.faults.held.wait()
        assert await site.daemon.stop() == 0
        await site.daemon.start(smith.daemon(tmp_path / "tally"))
        node = await client.node(course.node)
        assert node["provision_state"] == "deploying"
        box.machine.go_on()
        await course.arrive(box, client)
        report = box.machine.report()
    assert (report["writes_started"], report["writes_done"], report["power_on"], report["ramdisks"]) == (1, 1, 2, 1)


async def test_daemon_that_is_down_while_the_machine_boots(course: Course, smith: Forge, tmp_path: Path) -> None:
    async with course.again("boot") as (site, box, client):
        box.machine.faults.boot_time = 0.1
        await site.daemon.start(smith.daemon(tmp_path / "tally"))
        await course.ask(client)
        await box.machine.until(lambda m: m.running == "firmware")
        await site.daemon.kill()
        await box.machine.until(lambda m: m.counters.nothing_to_boot > 0)
        await site.daemon.start(smith.daemon(tmp_path / "tally"))
        await course.arrive(box, client)
        assert box.bmc.counters.power_on == 2


async def test_machine_that_started_its_old_disk_while_the_daemon_was_down(course: Course, smith: Forge, tmp_path: Path) -> None:
    quick = {"conductor.deploy_callback_timeout": 4, "conductor.restart_grace": 1}
    course = dataclasses.replace(course, settings={**course.settings, **quick})
    async with course.again("old") as (site, box, client):
        with box.machine.disk.open("r+b") as disk:
            disk.seek(510)
            disk.write(b"\x55\xaa")
        await site.daemon.start(smith.daemon(tmp_path / "tally"))
        await course.ask(client)
        await box.machine.until(lambda m: m.running == "firmware")
        await site.daemon.kill()
        await box.machine.until(lambda m: m.running == "instance")
        await site.daemon.start(smith.daemon(tmp_path / "tally"))
        await course.arrive(box, client)
        assert box.bmc.counters.power_on == 3


async def test_machine_whose_power_fails_while_the_daemon_is_down(course: Course, smith: Forge, tmp_path: Path) -> None:
    async with course.again("dark") as (site, box, client):
        box.machine.faults.holds_at = MIB
        await site.daemon.start(smith.daemon(tmp_path / "tally"))
        await course.ask(client)
        await box.machine.faults.held.wait()
        await site.daemon.kill()
        box.bmc.set_power(False)
        await site.daemon.start(smith.daemon(tmp_path / "tally"))
        node = await client.wait(course.node, "active", "deploy failed", timeout=60)
        if node["provision_state"] == "deploy failed":
            assert "ramdisk" in node["last_error"]
            await client.provision(course.node, "active")
            await course.arrive(box, client)


@pytest.mark.parametrize("seed", range(4))
async def test_kills_at_random_instants(course: Course, smith: Forge, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with course.again(f"random-{seed}") as (site, box, client):
        await site.daemon.start(smith.daemon(tmp_path / "tally"))
        await course.ask(client)
        for _ in range(3):
            await asyncio.sleep(chance.uniform(0.0, 0.4))
            await site.daemon.kill()
            await site.daemon.start(smith.daemon(tmp_path / "tally"))
        if (await client.node(course.node))["provision_state"] == "available":
            await course.ask(client)
        await course.arrive(box, client)
        report = box.machine.report()
        assert (report["writes_started"], report["writes_done"]) == (1, 1)
        # A daemon that is away just when the firmware asks may cost one more boot, never one more write.
        assert report["power_on"] - 2 == report["starts"] - 2 <= report["nothing_to_boot"]
