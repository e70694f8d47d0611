"""Machines and BMCs that misbehave while they are deployed."""

from __future__ import annotations

import asyncio

import pytest

from tests.acceptance.conftest import Scene
from tests.support.daemon import Refused
from tests.support.sim_machine import MIB

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("bad machines")]


@pytest.fixture(scope="module")
def settings() -> dict[str, object]:
    return {
        "conductor.deploy_callback_timeout": 2,
        "drivers.ipmi.power_timeout": 1,
        "drivers.ipmi.login_timeout": 1,
        "drivers.ipmi.command_timeout": 2,
        "drivers.ssh.connect_timeout": 2,
    }


async def test_machine_that_never_boots(scene: Scene) -> None:
    box = await scene.box()
    box.machine.faults.never_boots = True
    await scene.lab.deploy(scene.api, box, scene.image)
    await scene.api.wait(box.node, "wait call-back")
    await scene.fails(box, "deploy failed", "ramdisk", "did not ask for any boot file")
    assert not box.bmc.power
    box.machine.faults.never_boots = False
    await scene.recovers(box)


async def test_machine_that_gets_no_address(scene: Scene) -> None:
    box = await scene.box()
    box.machine.faults.no_network = True
    await scene.lab.deploy(scene.api, box, scene.image)
    await scene.fails(box, "deploy failed", "did not ask for any boot file")
    box.machine.faults.no_network = False
    await scene.recovers(box)


async def test_machine_whose_ramdisk_dies_before_it_calls(scene: Scene) -> None:
    box = await scene.box()
    box.machine.faults.panics = True
    await scene.lab.deploy(scene.api, box, scene.image)
    await scene.fails(box, "deploy failed", "initramfs")
    box.machine.faults.panics = False
    await scene.recovers(box)


async def test_port_with_the_address_of_another_machine(scene: Scene) -> None:
    box = await scene.box()
    [port] = (await scene.api.ask("GET", f"/v1/nodes/{box.node}/ports"))["ports"]
    path = f"/v1/ports/{port['uuid']}"
    await scene.api.ask("PATCH", path, [{"op": "replace", "path": "/address", "value": "52:54:00:ff:ff:ff"}])
    await scene.lab.deploy(scene.api, box, scene.image)
    await scene.fails(box, "deploy failed", "did not ask", "unknown machine", box.machine.macs[0])
    await scene.api.ask("PATCH", path, [{"op": "replace", "path": "/address", "value": box.machine.macs[0]}])
    await scene.recovers(box)


async def test_ramdisk_without_ssh(scene: Scene) -> None:
    box = await scene.box()
    box.machine.faults.sshd_refuses = True
    await scene.lab.deploy(scene.api, box, scene.image)
    await scene.fails(box, "deploy failed", "ssh", "127.0.0.1", "console")
    assert not box.bmc.power
    box.machine.faults.sshd_refuses = False
    await scene.recovers(box)


async def test_ramdisk_that_dies_in_the_middle_of_a_write(scene: Scene) -> None:
    box = await scene.box()
    box.machine.faults.dies_at = MIB
    await scene.lab.deploy(scene.api, box, scene.image)
    await scene.fails(box, "deploy failed", "ramdisk")
    assert not box.bmc.power
    assert box.machine.report()["writes_done"] == 0
    await scene.recovers(box)


async def test_ramdisk_that_dies_in_the_middle_of_a_write_and_comes_back(scene: Scene) -> None:
    box = await scene.box()
    box.machine.faults.dies_at = MIB
    box.machine.faults.dies_restarting = True
    await scene.lab.deploy(scene.api, box, scene.image)
    node = await scene.api.wait(box.node, "active", "deploy failed")
    if node["provision_state"] == "active":
        assert scene.image.is_on(box.machine.disk)
    else:
        assert "ramdisk" in node["last_error"].lower()
        await scene.recovers(box)


async def test_two_deployments_at_once(scene: Scene) -> None:
    box = await scene.box()
    await scene.api.patch(box.node, instance_info=scene.image.info())
    answers = await asyncio.gather(*(scene.api.provision(box.node, "active") for _ in range(4)), return_exceptions=True)
    assert sum(answer is None for answer in answers) == 1
    assert {answer.status for answer in answers if isinstance(answer, Refused)} <= {400, 409}
    assert not [answer for answer in answers if answer is not None and not isinstance(answer, Refused)]
    await scene.api.wait(box.node, "active")
    assert box.machine.report()["writes_started"] == 1


async def test_delete_while_the_ramdisk_boots(scene: Scene) -> None:
    box = await scene.box()
    box.machine.faults.boot_time = 60
    await scene.lab.deploy(scene.api, box, scene.image)
    await scene.api.wait(box.node, "wait call-back")
    await scene.api.provision(box.node, "deleted")
    node = await scene.api.wait(box.node, "available")
    assert node["instance_info"] == {}
    assert not box.bmc.power
    box.machine.faults.boot_time = 0.05
    await scene.recovers(box)


async def test_delete_while_the_image_is_written_is_refused_and_does_no_harm(scene: Scene) -> None:
    box = await scene.box()
    box.machine.faults.holds_at = MIB
    await scene.lab.deploy(scene.api, box, scene.image)
    await box.machine.faults.held.wait()
    with pytest.raises(Refused) as refused:
        await scene.api.provision(box.node, "deleted")
    assert refused.value.status in (400, 409)
    with pytest.raises(Refused) as refused:
        await scene.api.ask("DELETE", f"/v1/nodes/{box.node}")
    assert refused.value.status in (403, 409)
    box.machine.go_on()
    await scene.api.wait(box.node, "active")
    await scene.api.provision(box.node, "deleted")
    await scene.api.wait(box.node, "available")


async def test_abort_while_the_ramdisk_boots(scene: Scene) -> None:
    box = await scene.box()
    box.machine.faults.boot_time = 60
    await scene.lab.deploy(scene.api, box, scene.image)
    await scene.api.wait(box.node, "wait call-back")
    await scene.api.provision(box.node, "abort")
    await scene.fails(box, "deploy failed", "abort")
    box.machine.faults.boot_time = 0.05
    await scene.recovers(box)


# -- BMCs


async def test_bmc_that_is_not_there(scene: Scene) -> None:
    box = await scene.box(until="enroll")
    box.bmc.faults.dead = True
    await scene.api.provision(box.node, "manage")
    await scene.fails(box, "enroll", "BMC 127.0.0.1", "answer")
    box.bmc.faults.dead = False
    await scene.api.provision(box.node, "manage")
    await scene.api.wait(box.node, "manageable")


async def test_wrong_password_of_the_bmc(scene: Scene) -> None:
    box = await scene.box(until="enroll", driver_info={"ipmi_password": "nonsense"})
    await scene.api.provision(box.node, "manage")
    node = await scene.fails(box, "enroll", "password")
    assert "nonsense" not in node["last_error"]
    await scene.api.patch(box.node, driver_info=box.driver_info())
    await scene.api.provision(box.node, "manage")
    await scene.api.wait(box.node, "manageable")


async def test_missing_driver_info(scene: Scene) -> None:
    box = await scene.lab.machine()
    box.node = await scene.api.create(driver="ipmi", deploy_interface="ssh", boot_interface="ipxe")
    checked = await scene.api.ask("GET", f"/v1/nodes/{box.node}/validate")
    assert "ipmi_address" in checked["power"]["reason"]
    await scene.api.provision(box.node, "manage")
    await scene.fails(box, "enroll", "ipmi_address")


@pytest.mark.parametrize("fields", [{"driver": "no-such"}, {"driver": "ipmi", "power_interface": "no-such"}])
async def test_unknown_driver_or_interface(scene: Scene, fields: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        await scene.api.create(**fields)
    assert refused.value.status == 400
    assert "no-such" in refused.value.text


async def test_bmc_that_loses_every_twentieth_packet(scene: Scene) -> None:
    box = await scene.lab.machine(seed=5)
    box.bmc.faults.loss = 0.05
    await scene.lab.enrol(scene.api, box)
    await scene.recovers(box)
    assert box.bmc.counters.power_on == 2


async def test_bmc_that_restarts_during_a_deployment(scene: Scene) -> None:
    box = await scene.box()
    box.machine.faults.holds_at = MIB
    await scene.lab.deploy(scene.api, box, scene.image)
    await box.machine.faults.held.wait()
    box.bmc.restart()
    box.machine.go_on()
    await scene.api.wait(box.node, "active")
    assert scene.image.is_on(box.machine.disk)


async def test_bmc_that_is_away_for_a_moment_during_a_deployment(scene: Scene) -> None:
    box = await scene.box()
    box.machine.faults.holds_at = MIB
    await scene.lab.deploy(scene.api, box, scene.image)
    await box.machine.faults.held.wait()
    box.bmc.faults.dead = True
    box.machine.go_on()
    asyncio.get_running_loop().call_later(1.5, setattr, box.bmc.faults, "dead", False)
    await scene.api.wait(box.node, "active")
    assert box.bmc.counters.power_on == 2


async def test_power_that_does_not_change(scene: Scene) -> None:
    box = await scene.box()
    box.bmc.faults.power_stuck = True
    await scene.lab.deploy(scene.api, box, scene.image)
    await scene.fails(box, "deploy failed", "power on", "console")
    box.bmc.faults.power_stuck = False
    await scene.recovers(box)
