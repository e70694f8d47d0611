"""The chassis: what the BMC answers and what a boot makes of its flags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.chassis import OK, PARAMETER_UNSUPPORTED, WRONG_STATE, Action, Chassis, Device

SET_FLAGS = b"\x08\x05"
GET_FLAGS = b"\x09\x05\x00\x00"


def test_status_tells_the_power() -> None:
    chassis = Chassis()
    assert chassis.answer(b"\x01")[:2] == bytes([OK, 0])
    chassis.on = True
    assert chassis.answer(b"\x01")[:2] == bytes([OK, 1])


@pytest.mark.parametrize(("code", "action"), [(0, Action.OFF), (1, Action.ON), (5, Action.SOFT)])
def test_control_acts(code: int, action: Action) -> None:
    seen: list[Action] = []
    assert Chassis(act=seen.append).answer(bytes([2, code])) == bytes([OK])
    assert seen == [action]


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_needs_power_is_refused_without(code: int) -> None:
    seen: list[Action] = []
    chassis = Chassis(act=seen.append)
    assert chassis.answer(bytes([2, code])) == bytes([WRONG_STATE])
    chassis.on = True
    assert chassis.answer(bytes([2, code])) == bytes([OK])
    assert len(seen) == 1


@given(st.binary(min_size=5, max_size=5))
def test_all_five_bytes_of_the_flags_are_kept(flags: bytes) -> None:
    chassis = Chassis()
    assert chassis.answer(SET_FLAGS + flags) == bytes([OK])
    assert chassis.answer(GET_FLAGS) == bytes([OK, 1, 5]) + flags


def test_one_time_flags_are_used_up_by_one_boot() -> None:
    chassis = Chassis()
    chassis.answer(SET_FLAGS + bytes([0xA0, 0x04, 0, 0, 0]))
    assert chassis.flags.efi
    assert chassis.boot() is Device.PXE
    assert chassis.boot() is None
    assert chassis.answer(GET_FLAGS)[3:] == bytes([0x20, 0x04, 0, 0, 0])


def test_persistent_flags_stay() -> None:
    chassis = Chassis()
    chassis.answer(SET_FLAGS + bytes([0xC0, 0x08, 0, 0, 0]))
    assert [chassis.boot() for _ in range(3)] == [Device.DISK] * 3


def test_flags_that_are_not_valid_force_nothing() -> None:
    chassis = Chassis()
    chassis.answer(SET_FLAGS + bytes([0x00, 0x04, 0, 0, 0]))
    assert chassis.boot() is None


def test_unknown_parameters_are_refused() -> None:
    assert Chassis().answer(b"\x09\x7f\x00\x00") == bytes([PARAMETER_UNSUPPORTED])


@given(st.binary(max_size=40))
def test_no_request_breaks_it(request: bytes) -> None:
    answer = Chassis().answer(request)
    assert 1 <= len(answer) <= 64
