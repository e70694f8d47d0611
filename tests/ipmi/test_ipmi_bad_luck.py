"""The native interface on the hub when BMCs, networks and machines misbehave."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from metald.drivers.ipmi.client import Bmc
from metald.drivers.ipmi.hub import IpmiHub, background
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.management import PyghmiManagement
from metald.drivers.ipmi.power import PyghmiPower
from metald.drivers.ipmi.refusal import CompletionCode
from metald.errors import BmcAuthFailed, BmcCipherUnsupported, BmcPrivilegeTooLow, BmcUnreachable, DeadlineExceeded, Unsupported
from metald.model import BootDevice, PowerState, PowerTarget
from metald.sim.bmc import Fleet, build
from tests.support.bmc import ADMIN, WATCH, Simulated, context, hub, quick, simulated


def coordinates(server: Simulated, **changes: Any) -> BmcInfo:
    return BmcInfo(**{"address": server.address, "port": server.port, "username": ADMIN.name, "password": ADMIN.password, **changes})


async def test_a_dead_bmc_is_known_dead_within_its_budget_and_only_once_for_all_who_wait() -> None:
    async with simulated() as server, hub(login_timeout=0.3) as started:
        server.bmc.faults.dead = True
        bmc = Bmc(started, coordinates(server))
        results = await asyncio.gather(*(bmc.power_is_on() for _ in range(20)), return_exceptions=True)
        assert all(isinstance(result, BmcUnreachable) for result in results)
        assert [moment.what for moment in started.history(bmc.info)].count("login") == 1
        server.bmc.faults.dead = False
        assert await bmc.power_is_on() is False


async def test_answers_that_lie_unread_are_found_before_anybody_is_given_up() -> None:
    async with simulated() as server, hub(command_timeout=30.0, login_timeout=30.0) as started:
        bmc = Bmc(started, coordinates(server))
        assert await bmc.power_is_on() is False
        link = await started.link(bmc.info)
        # a loop that never comes to the socket in time: only who has waited in vain looks there
        asyncio.get_running_loop().remove_reader(link._sock)
        assert await bmc.power_is_on() is False
        assert server.bmc.server.logins == 1
        assert link.session is not None
        assert link.session.repeats == 0


async def test_a_wrong_password_is_tried_once_for_all_who_wait() -> None:
    async with simulated() as server, hub() as started:
        bmc = Bmc(started, coordinates(server, password="wrong"))
        results = await asyncio.gather(*(bmc.power_is_on() for _ in range(10)), return_exceptions=True)
        assert all(isinstance(result, BmcAuthFailed) for result in results)
        assert [moment.what for moment in started.history(bmc.info)].count("login") == 1


async def test_five_percent_loss_is_not_noticed() -> None:
    fleet = Fleet(build(20, "127.23.0.0", users=(ADMIN,), seed=11, slots=20))
    for simulated_bmc in fleet.bmcs.values():
        simulated_bmc.faults.loss = 0.05
    async with fleet, hub(command_timeout=10.0, login_timeout=8.0) as started:
        clients = [Bmc(started, BmcInfo(address, fleet.port, ADMIN.name, ADMIN.password)) for address in fleet.bmcs]

        async def work(client: Bmc) -> bool:
            await client.power_on()
            await client.set_boot_device(BootDevice.PXE, None, persistent=False)
            return await client.power_is_on()

        assert all(await asyncio.gather(*(work(client) for client in clients)))
        assert fleet.report()["power_on"] == 20


async def test_a_bmc_that_restarts_heals_within_the_call() -> None:
    async with simulated() as server, hub(command_timeout=10.0) as started:
        bmc = Bmc(started, coordinates(server))
        await bmc.power_on()
        server.bmc.restart()
        assert await bmc.power_is_on()
        assert server.bmc.server.logins == 2


async def test_a_reset_on_a_forgotten_session_happens_once() -> None:
    async with simulated() as server, hub(command_timeout=10.0) as started:
        server.bmc.power = True
        bmc = Bmc(started, coordinates(server))
        await bmc.power_is_on()
        server.bmc.restart()
        await bmc.reset()
        assert server.bmc.counters.reset == 1


async def test_a_lost_answer_to_a_reset_is_said_to_be_unsure() -> None:
    async with simulated() as server, hub(command_timeout=0.5) as started:
        server.bmc.power = True
        handle = server.bmc.server.handle

        def deaf_after_the_reset(data: bytes, now: float) -> bytes | None:
            answer = handle(data, now)
            return None if server.bmc.counters.reset else answer

        server.bmc.server.handle = deaf_after_the_reset  # type: ignore[method-assign]
        with pytest.raises(BmcUnreachable, match="whether it obeyed is not known"):
            await Bmc(started, coordinates(server)).reset()
        assert server.bmc.counters.reset == 1


async def test_power_that_does_not_change_ends_at_the_deadline() -> None:
    async with simulated() as server, hub() as started:
        power = PyghmiPower(started, started.settings)
        ctx = context(server.address, server.port)
        server.bmc.faults.power_stuck = True
        with pytest.raises(DeadlineExceeded, match="not at 'power on'"):
            await power.set_power_state(ctx, PowerTarget.ON, timeout=0.1)
        assert server.bmc.counters.control == 1
        server.bmc.power = True
        server.bmc.faults.power_stuck, server.bmc.faults.ignore_soft = False, True
        with pytest.raises(DeadlineExceeded, match="hard power off"):
            await power.set_power_state(ctx, PowerTarget.SOFT_OFF, timeout=0.1)
        server.bmc.faults.power_shown = "on"
        with pytest.raises(DeadlineExceeded):
            await power.set_power_state(ctx, PowerTarget.REBOOT, timeout=0.1)
        assert server.bmc.counters.power_on == 0  # no "on" before "off" was seen


async def test_a_slow_power_change_is_waited_for() -> None:
    async with simulated() as server, hub() as started:
        server.bmc.faults.power_delay = 0.05
        power = PyghmiPower(started, started.settings)
        ctx = context(server.address, server.port)
        await power.set_power_state(ctx, PowerTarget.ON)
        await power.set_power_state(ctx, PowerTarget.REBOOT)
        assert server.bmc.power
        assert (server.bmc.counters.power_on, server.bmc.counters.power_off) == (2, 1)


async def test_silence_while_the_power_changes_is_forgiven() -> None:
    async with simulated() as server, hub(command_timeout=0.3, login_timeout=0.2) as started:
        loop = asyncio.get_running_loop()

        def vanish(_bmc: object, effect: str) -> None:
            if effect == "power_on":
                server.bmc.faults.dead = True
                loop.call_later(0.6, setattr, server.bmc.faults, "dead", False)

        server.bmc.on_change = vanish
        server.bmc.faults.power_delay = 0.02
        power = PyghmiPower(started, started.settings)
        await power.set_power_state(context(server.address, server.port), PowerTarget.ON)
        assert server.bmc.counters.power_on == 1


@pytest.mark.parametrize(
    ("arguments", "user", "more", "error"),
    [
        ({"suites": (3,)}, ADMIN, {"ipmi_cipher_suite": 17}, BmcCipherUnsupported),
        ({"suites": ()}, ADMIN, {}, BmcCipherUnsupported),
        ({}, WATCH, {}, BmcPrivilegeTooLow),
        ({"kg": b"k" * 20}, ADMIN, {}, BmcAuthFailed),
        ({}, ADMIN, {"ipmi_hex_kg_key": "ab" * 20}, BmcAuthFailed),
    ],
)
async def test_a_refused_login_is_typed(arguments: dict[str, Any], user: Any, more: dict[str, Any], error: type[Exception]) -> None:
    async with simulated(**arguments) as server, hub() as started:
        with pytest.raises(error):
            await PyghmiPower(started, started.settings).get_power_state(context(server.address, server.port, user, **more))
        assert started.sessions == 0
        assert started.window.taken == 0


async def test_a_kg_key_opens() -> None:
    async with simulated(kg=bytes(range(20))) as server, hub() as started:
        ctx = context(server.address, server.port, ipmi_hex_kg_key=bytes(range(20)).hex())
        assert await PyghmiPower(started, started.settings).get_power_state(ctx) is PowerState.OFF


async def test_a_refused_command_carries_its_completion_code() -> None:
    async with simulated() as server, hub() as started:
        bmc = Bmc(started, coordinates(server))
        with pytest.raises(CompletionCode) as error:
            await bmc.reset()  # the machine is off
        assert error.value.completion == 0xD5
        server.bmc.faults.refuse = {"00:09": 0x80, "00:08": 0xC1}
        assert (await bmc.boot_flags()).valid is False
        with pytest.raises(CompletionCode):
            await bmc.set_boot_device(BootDevice.PXE, None, persistent=False)


async def test_a_busy_bmc_is_asked_again() -> None:
    async with simulated() as server, hub() as started:
        server.bmc.faults.refuse = {"00:01": 0xC0}
        asyncio.get_running_loop().call_later(0.1, server.bmc.faults.refuse.clear)
        assert await Bmc(started, coordinates(server)).power_is_on() is False
        assert server.bmc.counters.refused == 1


async def test_no_free_slot_is_said_to_be_that() -> None:
    async with simulated(slots=0) as server, hub(login_timeout=0.3) as started:
        with pytest.raises(BmcUnreachable, match="no free session slot"):
            await Bmc(started, coordinates(server)).power_is_on()


async def test_an_idle_session_gives_its_slot_back() -> None:
    async with simulated() as server, hub(session_idle=0.05) as started:
        await Bmc(started, coordinates(server)).power_is_on()
        async with asyncio.timeout(5):
            while server.bmc.server.established or started.sessions:
                await asyncio.sleep(0.01)


async def test_closing_the_hub_logs_out_and_ends_what_waits() -> None:
    async with simulated() as server:
        async with hub() as started:
            await Bmc(started, coordinates(server)).power_is_on()
            assert server.bmc.server.established == 1
            server.bmc.faults.delay = 30.0
            waiting = asyncio.create_task(Bmc(started, coordinates(server)).power_is_on())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        with pytest.raises(BmcUnreachable):
            await waiting
        async with asyncio.timeout(5):
            while server.bmc.server.established:
                await asyncio.sleep(0.01)


async def test_closing_the_hub_ends_what_queues_too() -> None:
    async with simulated() as server:
        async with hub(login_window=1, command_timeout=600.0, login_timeout=600.0) as started:
            server.bmc.faults.dead = True
            dead = [coordinates(server), coordinates(server, username="other"), coordinates(server, address="127.28.0.1")]
            tasks = [asyncio.create_task(Bmc(started, info).power_is_on()) for info in dead]
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, BmcUnreachable) and "metald stops" in str(result) for result in results)


async def test_changed_credentials_take_a_session_of_their_own() -> None:
    async with simulated() as server, hub() as started:
        await Bmc(started, coordinates(server)).power_is_on()
        await Bmc(started, coordinates(server, username=WATCH.name, privilege=2)).power_is_on()
        assert server.bmc.server.logins == 2
        assert started.sessions == 1


@pytest.mark.parametrize("when", ["login", "command", "queue"])
async def test_a_cancelled_call_leaves_nothing_behind(when: str) -> None:
    async with simulated() as server, hub() as started:
        bmc = Bmc(started, coordinates(server))
        if when != "login":
            await bmc.power_is_on()
        server.bmc.faults.dead = True
        tasks = [asyncio.create_task(bmc.power_is_on()) for _ in range(3)]
        await asyncio.sleep(0.01)
        tasks[1 if when == "queue" else 0].cancel()
        server.bmc.faults.dead = False
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results].count(asyncio.CancelledError) == 1
        assert results.count(False) == 2
        assert started.window.taken == 0
        assert await bmc.power_is_on() is False


async def test_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this host has no IPv6")
    async with simulated("::1") as server, hub() as started:
        ctx = context("[::1]", server.port)
        await PyghmiPower(started, started.settings).set_power_state(ctx, PowerTarget.ON)
        assert server.bmc.power


async def test_a_name_is_resolved_and_one_that_is_none_is_said_to_be_that() -> None:
    async with simulated() as server, hub() as started:
        assert await Bmc(started, coordinates(server, address="localhost")).power_is_on() is False
        with pytest.raises(BmcUnreachable, match="cannot be resolved"):
            await Bmc(started, coordinates(server, address="no-such-bmc.invalid")).power_is_on()
        with pytest.raises(BmcUnreachable, match="cannot be resolved"):
            await Bmc(started, coordinates(server, address="a" * 70 + ".invalid")).power_is_on()


async def test_three_hundred_bmcs_a_tenth_of_them_dead() -> None:
    """The healthy ones are all done while the dead ones still wait, though the window is smaller than the dead are many."""
    fleet = Fleet(build(300, "127.24.0.0", users=(ADMIN,)))
    for index, simulated_bmc in enumerate(fleet.bmcs.values()):
        simulated_bmc.faults.dead = index % 10 == 0
    async with fleet, hub(login_window=16, login_timeout=600.0, command_timeout=600.0) as started:
        tasks = {
            address: asyncio.create_task(Bmc(started, BmcInfo(address, fleet.port, ADMIN.name, ADMIN.password)).power_on())
            for address in fleet.bmcs
        }
        healthy = [task for address, task in tasks.items() if not fleet.bmcs[address].faults.dead]
        dead = [task for task in tasks.values() if task not in healthy]
        async with asyncio.timeout(60):
            await asyncio.gather(*healthy)
        assert len(dead) == 30
        assert not any(task.done() for task in dead)
        assert fleet.report()["power_on"] == 270
        for task in dead:
            task.cancel()
        await asyncio.gather(*dead, return_exceptions=True)
        assert started.window.taken == started.window.aside == started.window.waiting == 0


async def test_background_logins_give_way() -> None:
    fleet = Fleet(build(20, "127.25.0.0", users=(ADMIN,)))
    async with fleet, hub(login_window=1) as started:
        order: list[str] = []

        async def poll(address: str) -> None:
            with background():
                await Bmc(started, BmcInfo(address, fleet.port, ADMIN.name, ADMIN.password)).power_is_on()
            order.append("poll")

        async def deploy(address: str) -> None:
            await Bmc(started, BmcInfo(address, fleet.port, ADMIN.name, ADMIN.password)).power_on()
            order.append("deploy")

        addresses = list(fleet.bmcs)
        async with asyncio.TaskGroup() as group:
            for address in addresses[:15]:
                group.create_task(poll(address))
            await asyncio.sleep(0)
            for address in addresses[15:]:
                group.create_task(deploy(address))
        assert "poll" not in order[1:6]


async def test_strangers_and_junk_on_the_sockets_are_dropped() -> None:
    async with simulated() as server, hub() as started:
        bmc = Bmc(started, coordinates(server))
        await bmc.power_is_on()
        own = next(iter(started._sockets.values()))[0].getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for junk in (b"", b"\x06", b"\x06\x00\xff\x07" + bytes(60), bytes(2000)):
                stranger.sendto(junk, ("127.0.0.1", own))
        assert await bmc.power_is_on() is False
        assert started.strays == 4


async def test_nmi_and_device_id() -> None:
    async with simulated() as server, hub() as started:
        server.bmc.power = True
        await PyghmiManagement(started, started.settings).inject_nmi(context(server.address, server.port))
        assert server.bmc.counters.nmi == 1
        device = await Bmc(started, coordinates(server)).device_id()
        assert (device.manufacturer, device.product, device.firmware) == (343, 0x1234, "2.10")


@pytest.mark.parametrize(
    "more",
    [
        {"ipmi_protocol_version": "1.5"},
        {"ipmi_cipher_suite": 1},
    ],
)
async def test_what_only_ipmitool_can_is_refused_before_anything_is_sent(more: dict[str, Any]) -> None:
    settings = quick()
    started = IpmiHub(settings)
    ctx = context("127.0.0.1", 623, **more)
    for interface in (PyghmiPower(started, settings), PyghmiManagement(started, settings)):
        with pytest.raises(Unsupported, match="ipmitool"):
            await interface.validate(ctx)
