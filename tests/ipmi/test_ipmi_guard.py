"""What protects BMCs and the fleet from each other: admission that adapts, the token bucket, the circuit breaker."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.drivers.ipmi.client import Bmc
from metald.drivers.ipmi.guard import Breaker, Bucket
from metald.drivers.ipmi.hub import background
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.power import PyghmiPower
from metald.drivers.ipmi.window import AdmissionWindow
from metald.errors import BmcAuthFailed, BmcUnreachable
from metald.model import PowerState
from tests.support.bmc import ADMIN, Simulated, context, hub, simulated

INFO = BmcInfo("192.0.2.1")


def coordinates(server: Simulated, **changes: object) -> BmcInfo:
    return BmcInfo(**{"address": server.address, "port": server.port, "username": ADMIN.name, "password": ADMIN.password, **changes})  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=200), st.floats(1, 100))
def test_a_bucket_never_lets_more_through_than_its_rate_and_a_seconds_worth(gaps: list[float], rate: float) -> None:
    bucket, now, sent = Bucket(rate), 100.0, []
    for gap in gaps:
        now += gap
        sent.append(now + bucket.take(now))
    for begin in range(0, len(sent), 7):
        for end in range(begin, len(sent)):
            assert end - begin <= (sent[end] - sent[begin]) * rate + rate + 1.001


def test_a_rate_of_none_is_no_limit() -> None:
    bucket = Bucket(0)
    assert [bucket.take(1.0) for _ in range(1000)] == [0.0] * 1000


def test_a_breaker_opens_doubles_and_closes() -> None:
    breaker, error = Breaker(3, 2.0, 10.0), BmcUnreachable("BMC x did not answer.", remedy="Look.")
    for failures, pause in ((1, 0), (2, 0), (3, 2), (4, 4), (5, 8), (6, 10), (7, 10)):
        breaker.failed(INFO, error, 100.0)
        assert breaker.failures == failures
        assert breaker.is_open(100.0) is (failures >= 3)
        if pause:
            with pytest.raises(BmcUnreachable, match=rf"did not answer\. .* after {failures} failures .* again in {pause}\.0 seconds"):
                breaker.check(INFO, 100.0)
            assert breaker.pause(INFO, 100.0) == 2.0
        assert breaker.pause(INFO, 102.0) == 0.0
        breaker.check(INFO, 100.0 + pause)
    mended = BmcInfo("192.0.2.1", password="mended")
    breaker.check(mended, 100.0)
    assert breaker.pause(mended, 100.0) == 0.0
    breaker.worked()
    breaker.check(INFO, 100.0)
    assert breaker.pause(INFO, 100.0) == 0.0


def test_a_window_shrinks_when_logins_crowd_and_grows_back() -> None:
    window = AdmissionWindow(64)
    for _ in range(64):
        window.login_ended(crowded=True)
    assert window.limit == 44
    for _ in range(1000):
        window.login_ended(crowded=True)
    assert window.limit == 16
    for _ in range(2000):
        window.login_ended(crowded=False)
    assert window.limit == 64


def test_a_few_that_are_merely_slow_do_not_shrink_the_window() -> None:
    window = AdmissionWindow(100)
    for number in range(1000):
        window.login_ended(crowded=number % 20 == 0)
    assert window.limit == 100


async def test_answers_that_come_too_late_count_as_crowding() -> None:
    async with simulated() as server, hub(login_timeout=9.0) as started:
        server.bmc.faults.delay = 0.65  # later than the first repetition, which is answered too
        asyncio.get_running_loop().call_later(0.4, setattr, server.bmc.faults, "delay", 0.2)
        ended: list[bool] = []
        started.window.login_ended = lambda *, crowded: ended.append(crowded)  # type: ignore[method-assign]
        await Bmc(started, coordinates(server)).power_is_on()
        assert ended == [True]


async def test_a_bmc_that_failed_again_and_again_is_answered_for_at_once() -> None:
    async with simulated() as server, hub(login_timeout=0.05, breaker_pause=30.0) as started:
        server.bmc.faults.dead = True
        bmc = Bmc(started, coordinates(server))
        for _ in range(3):
            with pytest.raises(BmcUnreachable, match="seconds"):
                await bmc.power_is_on()
        logins = [moment.what for moment in started.history(bmc.info)].count("login")
        assert logins == 3
        for _ in range(5):
            with pytest.raises(BmcUnreachable, match="left alone after 3 failures in a row, and tried again in"), background():
                await bmc.power_is_on()
        assert [moment.what for moment in started.history(bmc.info)].count("login") == logins
        assert started.left_alone == 1


async def test_a_corrected_password_is_tried_at_once() -> None:
    async with simulated() as server, hub(breaker_pause=30.0) as started:
        for _ in range(3):
            with pytest.raises(BmcAuthFailed):
                await Bmc(started, coordinates(server, password="wrong")).power_is_on()
        with pytest.raises(BmcAuthFailed, match="left alone"), background():
            await Bmc(started, coordinates(server, password="wrong")).power_is_on()
        assert server.bmc.server.failed_logins == 0  # RAKP 2 already told: no attempt that a lock-out would count
        assert await Bmc(started, coordinates(server)).power_is_on() is False


async def test_commands_to_one_bmc_keep_to_the_rate() -> None:
    async with simulated() as server, hub(command_rate=20.0) as started:
        loop, bmc = asyncio.get_running_loop(), Bmc(started, coordinates(server))
        began = loop.time()
        await asyncio.gather(*(bmc.power_is_on() for _ in range(30)))
        assert loop.time() - began > 0.4  # 20 at once, 10 more at 20 a second


async def test_a_poll_leaves_no_session_behind_but_work_does() -> None:
    async with simulated() as server, hub() as started:
        bmc = Bmc(started, coordinates(server))
        with background():
            await bmc.power_is_on()
        assert started.sessions == 0
        await bmc.power_is_on()
        with background():
            await bmc.power_is_on()
        assert started.sessions == 0
        await bmc.power_is_on()
        assert started.sessions == 1


async def test_a_bmc_that_let_us_in_before_is_asked_one_question_less() -> None:
    async with simulated(suites=(3,)) as server, hub() as started:
        bmc, datagrams = Bmc(started, coordinates(server)), []
        for _ in range(2):
            before = server.bmc.counters.datagrams
            with background():
                await bmc.power_is_on()
            async with asyncio.timeout(10):
                while server.bmc.server.established:  # the farewell is on its way
                    await asyncio.sleep(0.01)
            datagrams.append(server.bmc.counters.datagrams - before)
        assert datagrams[1] == datagrams[0] - 2  # the first login also tried the other suite


@pytest.mark.parametrize("answer", ["silence", "refusal"])
async def test_a_bmc_that_wants_the_first_question_each_time_gets_it(answer: str) -> None:
    async with simulated() as server, hub() as started:
        handle, asked = server.bmc.server.handle, [True]

        def strict(data: bytes, now: float) -> bytes | None:
            if data[4] == 0:
                asked[0] = True
            elif data[4:6] == b"\x06\x10" and not asked[0]:
                return (
                    None if answer == "silence" else b"\x06\x00\xff\x07\x06\x11" + bytes(8) + b"\x08\x00" + data[16:17] + b"\x12" + bytes(6)
                )
            return handle(data, now)

        server.bmc.server.handle = strict  # type: ignore[method-assign]
        for _ in range(2):
            with background():
                assert await Bmc(started, coordinates(server)).power_is_on() is False
            asked[0] = False
        assert server.bmc.server.logins == 2


async def test_changed_coordinates_hold_from_the_next_call() -> None:
    async with simulated() as server, hub() as started:
        power, ctx = PyghmiPower(started, started.settings), context(server.address, server.port)
        assert await power.get_power_state(ctx) is PowerState.OFF
        ctx.set(driver_info={**ctx.node.driver_info, "ipmi_password": "wrong"})
        with pytest.raises(BmcAuthFailed):
            await power.get_power_state(ctx)
