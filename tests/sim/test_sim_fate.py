"""Faults: how they are written, whom they strike, and that the same seed tells the same story."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from metald.cli.sim import options, scenario
from metald.sim import fate
from metald.sim.blade import Blade
from metald.sim.chassis import SimBmc
from metald.sim.fate import Fault, FaultError, Wrongs
from metald.sim.rack import Options, Rack, mac, replayed
from metald.sim.story import StoryError


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("loss=0.05", Fault("loss", 0.05)),
        ("loss=5%@10%", Fault("loss", 0.05, 0.1)),
        ("delay=0.3", Fault("delay", 0.3)),
        ("dead=10%", Fault("dead", 1.0, 0.1)),
        ("slow-disk=10M", Fault("slow-disk", 10 << 20)),
        ("slow-disk=20%:1k", Fault("slow-disk", 1024, 0.2)),
        ("slow-disk=20%", Fault("slow-disk", fate.SLOW_DISK, 0.2)),
        ("agent-dies=3%", Fault("agent-dies", 0.03)),
    ],
)
def test_faults_are_read(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


@pytest.mark.parametrize(
    "text", ["", "loss", "tired=1", "loss=much", "dead=200%", "delay=-1", "loss=0.1@x", "slow-disk=5%:fast", "delay=inf"]
)
def test_what_is_no_fault_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(FaultError):
        Fault.parse(text)


def test_a_share_strikes_about_so_many_and_always_the_same() -> None:
    fault = Fault.parse("dead=10%")
    names = [f"sim-{number}" for number in range(2000)]
    struck = [name for name in names if fault.strikes(7, name)]
    assert struck == [name for name in names if fault.strikes(7, name)]
    assert 150 < len(struck) < 250
    assert struck != [name for name in names if fault.strikes(8, name)]


def test_faults_come_and_go() -> None:
    bmc, wrongs = SimBmc(), Wrongs()
    for name, value in {"loss": 0.1, "lying": True, "dead": True, "slow-disk": "5M", "hung-post": "3%", "no-network": 1}.items():
        fate.change(name, value, bmc, wrongs)
    assert set(fate.shown(bmc, wrongs)) == {"loss", "lying", "dead", "slow-disk", "hung-post", "no-network"}
    fate.change("lying", 0, bmc, wrongs)
    assert bmc.faults.power_shown == ""
    fate.clear(bmc, wrongs)
    assert fate.shown(bmc, wrongs) == {}
    for bad in ({"nothing": 1}, {"loss": "x"}, {"loss": None}, {"delay": -1}):
        with pytest.raises(FaultError):
            fate.change(*next(iter(bad.items())), bmc, wrongs)


def _ended(blade: Blade) -> int:
    return blade.counters.hung + blade.counters.nothing_to_boot


async def lived(folder: Path, **more: Any) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Three power-ons of each of 40 machines that nobody boots; what was told of each, without the times."""
    given = {"nodes": 40, "seed": 7, "time_scale": 1e-4, "boot_url": "http://127.0.0.1:1", **more}
    async with Rack(Options(**given, log=folder / "story.jsonl")) as rack:
        blades = list(rack.blades.values())
        for _ in range(3):
            before = {blade.name: _ended(blade) for blade in blades}
            for blade in blades:
                blade.bmc.set_power(True)
            for blade in blades:
                await blade.until(lambda found, before=before: _ended(found) > before[found.name])
            for blade in blades:
                blade.bmc.set_power(False)
        await asyncio.sleep(0)
        stories = {blade.name: [{k: v for k, v in line.items() if k != "t"} for line in rack.story.of(blade.name)] for blade in blades}
        shown = {blade.name: fate.shown(blade.bmc, blade.wrongs) for blade in blades}
        return stories, shown


async def test_the_same_seed_tells_the_same_story_and_a_log_can_be_replayed(tmp_path: Path) -> None:
    faults = [Fault.parse(text) for text in ("hung-post=20%", "bmc-restart=20%", "dead=10%", "slow-disk=30%:1M", "no-network=50%")]
    first = await lived(tmp_path, faults=faults)
    assert await lived(tmp_path, faults=faults) == first
    again = replayed(tmp_path / "story.jsonl")
    assert await lived(tmp_path, **again) == first
    assert await lived(tmp_path, faults=faults, seed=8) != first
    kinds = {line.get("fault") for story in first[0].values() for line in story}
    assert {"hung-post", "bmc-restart"} <= kinds


async def test_injected_faults_are_logged_and_come_again(tmp_path: Path) -> None:
    log = tmp_path / "story.jsonl"
    async with Rack(Options(nodes=20, seed=3, log=log)) as rack:
        assert rack.inject("all", {"loss": 0.2}) == 20
        assert rack.inject("sim-00,sim-07", {"dead": True, "restart": True}) == 2
        struck = rack.inject("30%", {"hung-post": 1})
        assert struck == rack.inject("30%", {"hung-post": 1}) > 0
        for nodes, fault in (("sim-99", {"dead": True}), ("all", {"nothing": 1}), ("200%", {"dead": 1}), ("all", {})):
            with pytest.raises(FaultError):
                rack.inject(nodes, fault)
    again = replayed(log)
    assert [(one.nodes, one.fault) for one in again["injections"]][:2] == [
        ("all", {"loss": 0.2}),
        ("sim-00,sim-07", {"dead": True, "restart": True}),
    ]
    async with Rack(Options(**again)) as rack:
        assert len(again["injections"]) == 4
        async with asyncio.timeout(10):
            while rack.story.count < 5:
                await asyncio.sleep(0.01)
        assert rack.blades["sim-00"].bmc.faults.dead
        assert rack.blades["sim-07"].bmc.faults.loss == 0.2
    log.write_text(json.dumps({"event": "other"}))
    with pytest.raises(StoryError):
        replayed(log)


def test_scenarios_and_arguments_are_read(tmp_path: Path) -> None:
    path = tmp_path / "bad-day.toml"
    path.write_text('[[at]]\ntime = 3\nnodes = "10%"\nfault = { dead = true }\nseconds = 2\n')
    (one,) = scenario(path)
    assert (one.at, one.nodes, one.fault, one.seconds) == (3.0, "10%", {"dead": True}, 2.0)
    path.write_text("[[at]]\ntime = 3\n")
    with pytest.raises(FaultError, match="scenario"):
        scenario(path)
    assert mac(258) == "52:54:00:00:01:02"


def test_arguments_make_a_fleet() -> None:
    import argparse

    from metald.cli.sim import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    made = options(parser.parse_args(["--nodes", "5", "--seed", "7", "--fault", "loss=0.1", "--post", "1-2", "--tftp", "127.0.0.1:69"]))
    assert (made.nodes, made.seed, made.post, made.tftp) == (5, 7, (1.0, 2.0), ("127.0.0.1", 69))
    for wrong in (["--post", "9-1"], ["--fault", "x=1"], ["--time-scale", "-1"], ["--tftp", "here"]):
        with pytest.raises((FaultError, ValueError)):
            options(parser.parse_args(wrong))
