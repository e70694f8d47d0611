"""What the demo tells: progress lines and time-lines."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from lab.screen import Screen, bar, describe
from lab.story import Moment, moment, shares, size, tell


def at(seconds: float) -> str:
    return datetime.fromtimestamp(1_000_000 + seconds, UTC).isoformat()


def step(seconds: float, interface: str, name: str, took: float, outcome: str = "done") -> dict[str, Any]:
    data = {"interface": interface, "step": name, "outcome": outcome, "seconds": took, "detail": ""}
    return {"type": "node.step", "time": at(seconds), "data": data}


def test_a_deployments_seconds_are_divided() -> None:
    events = [
        step(1.0, "deploy", "prepare", 0.1),
        step(2.0, "power", "power_on", 0.5),
        step(2.0, "deploy", "wait_ramdisk", 0.0, "wait"),
        {"type": "node.ramdisk", "time": at(10.0), "data": {}},
        step(14.0, "deploy", "write_image", 3.5),
        step(15.0, "power", "power_on", 0.5),
    ]
    split = shares(events, 1_000_000, 1_000_015, 1_000_025)
    assert (split.bmc, split.boot, split.ramdisk, split.instance) == (1.0, 8.0, 3.5, 10.0)
    assert round(split.own, 6) == 2.5
    assert split.total == 25.0


def test_lines_are_in_order_and_within_the_deployment() -> None:
    lines = tell([Moment(30.0, "late", ""), Moment(12.0, "b", "2"), Moment(11.0, "a", "1"), Moment(1.0, "early", "")], 10.0, 20.0)
    assert [line.split()[1] for line in lines] == ["a", "b"]


def test_a_transfer_says_what_went_over_the_wire() -> None:
    event = {
        "type": "node.tftp",
        "time": at(0),
        "data": {"file": "boot.ipxe", "bytes": 2048, "seconds": 0.5, "windowsize": 4, "retransmits": 2},
    }
    told = moment(event)
    assert told is not None
    assert told.what == "boot.ipxe, 2.0 KiB in 0.50 s, window 4, 2 sent again"


def test_events_that_tell_nothing_new_are_left_out() -> None:
    assert moment({"type": "node.update", "time": at(0), "data": {}}) is None
    assert moment(step(0, "deploy", "wait_ramdisk", 0, "wait")) is None


def test_sizes() -> None:
    assert [size(n) for n in (10, 2048, 3 << 20)] == ["10 B", "2.0 KiB", "3.0 MiB"]
    assert bar(0.5, 4) == "##.."
    assert bar(7.0, 4) == "####"


def test_progress_has_rate_and_remaining_time() -> None:
    node = {"provision_state": "deploying", "deploy_step": {"interface": "deploy", "step": "write_image"}}
    line = describe(node, {"bytes": 8 << 20, "total": 32 << 20, "rate": 4 << 20, "eta": 6.0, "message": "Writing"})
    assert line == "deploying  deploy.write_image  #####............... 8.0 of 32.0 MiB  4.0 MiB/s  6 s left  Writing"


def test_a_log_gets_a_line_per_change_only() -> None:
    out = io.StringIO()
    screen = Screen(out)
    for text in ("deploying", "deploying", "active"):
        screen.show("m0", text)
    assert [line.split()[-1] for line in out.getvalue().splitlines()] == ["deploying", "active"]


def test_a_terminal_is_redrawn() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    screen = Screen(out)
    screen.show("m0", "deploying")
    screen.show("m0", "active")
    assert "\x1b[1A\x1b[J" in out.getvalue()
