"""`metald sim` with a real daemon: a hundred machines from enrolment to running, and what its control API shows."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from metald.__main__ import main
from metald.sim.control import image
from metald.sim.enroll import Enroller, EnrollError
from metald.sim.rack import Options, Rack
from tests.support.bmc import free_udp_port
from tests.support.daemon import Daemon, free_port

NODES = 100


def settings(folder: Path, tftp: int) -> dict[str, object]:
    for name, size in {"ramdisk/kernel": 60_000, "ramdisk/initramfs": 200_000, "ipxe/undionly.kpxe": 70_000}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return {
        "boot.ramdisk_dir": folder / "ramdisk",
        "boot.ipxe_dir": folder / "ipxe",
        "boot.tftp_listen": f"127.0.0.1:{tftp}",
        "conductor.automated_clean": "false",
        "conductor.retry_delay": 0.1,
        "drivers.ipmi.power_poll": 0.1,
    }


async def ipmitool(port: int, address: str, *words: str) -> str:
    started = await asyncio.create_subprocess_exec(
        *("ipmitool", "-I", "lanplus", "-H", address, "-p", str(port), "-U", "admin", "-P", "secret", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    return (await started.communicate())[0].decode()


async def test_a_hundred_machines_are_enrolled_and_deployed_by_one_command(tmp_path: Path) -> None:
    tftp = free_udp_port()
    async with Daemon(tmp_path, settings(tmp_path, tftp)) as daemon:
        await daemon.start()
        words = ["--nodes", str(NODES), "--seed", "7", "--time-scale", "0.01", "--post", "0-10", "--fault", "loss=0.01"]
        words += ["--boot-url", daemon.boot_url, "--tftp", f"127.0.0.1:{tftp}", "--enroll", daemon.url, "--deploy", "--once"]
        command = (sys.executable, "-m", "metald", "sim", *words, "--log", str(tmp_path / "story.jsonl"))
        sim = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        output = (await sim.communicate())[0].decode()
        assert sim.returncode == 0, output + daemon.output()[-3000:]
        await daemon.stop()
        daemon.assert_clean()
    assert f"{NODES} active" in output
    ledger = {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", output.rpartition("ledger:")[2])}
    assert ledger["writes_started"] == ledger["writes_done"] == ledger["ramdisks"] == NODES
    assert ledger["power_on"] == 2 * NODES
    assert ledger["bytes_written"] == NODES * (1 << 20)
    assert (tmp_path / "story.jsonl").read_text().count('"disk_boot"') <= NODES


async def test_ironics_agent_deploys_a_fleet_over_tls(tmp_path: Path) -> None:
    async with Daemon(tmp_path, settings(tmp_path, free_udp_port())) as daemon:
        await daemon.start()
        given = Options(nodes=20, seed=7, boot_url=daemon.boot_url, time_scale=0.01, post=(0.0, 10.0), control=("127.0.0.1", free_port()))
        said: list[str] = []
        async with Rack(given) as rack, Enroller(daemon.url, deploy_interface="direct", say=said.append) as enroller:
            blades = list(rack.blades.values())
            rack.inject("all", {"loss": 0.01})
            await enroller.enroll(blades, port=rack.ipmi_port, user="admin", password="secret")
            figures = await enroller.deploy(blades, f"{rack.control.url}/image.raw", rack.control.image_sha256)
            assert figures.states == {"active": 20}, [daemon.output()[-3000:], *said]
            ledger = rack.ledger()
            assert ledger["writes_started"] == ledger["writes_done"] == ledger["ramdisks"] == ledger["ready_calls"] == 20
            assert ledger["power_on"] == 40
            assert not rack.state()["defects"]
        await daemon.stop()
        daemon.assert_clean()


async def test_one_that_dies_is_booted_again_and_nothing_is_done_twice(tmp_path: Path) -> None:
    more = {"conductor.deploy_callback_timeout": 3, "drivers.ipmi.login_timeout": 3}
    async with Daemon(tmp_path, {**settings(tmp_path, free_udp_port()), **more}) as daemon:
        await daemon.start()
        given = Options(nodes=5, seed=1, boot_url=daemon.boot_url, time_scale=0.01, post=(0.0, 1.0), control=("127.0.0.1", free_port()))
        async with Rack(given) as rack, Enroller(daemon.url) as enroller, aiohttp.ClientSession(rack.control.url) as web:
            *blades, dead = rack.blades.values()
            rack.inject(dead.name, {"dead": True})
            await enroller.enroll([*blades, dead], port=rack.ipmi_port, user="admin", password="secret")
            assert (await enroller.states([blades[0], dead])) == {"sim-0": "available", "sim-4": "enroll"}
            async with web.post("/faults", json={"nodes": "sim-0", "fault": {"agent-dies": 1}}) as answer:
                assert await answer.json() == {"nodes": 1}
            work = asyncio.ensure_future(enroller.deploy(blades, f"{rack.control.url}/image.raw", rack.control.image_sha256))
            await blades[0].until(lambda found: any(line.get("fault") == "agent-dies" for line in rack.story.of(found.name)))
            async with web.post("/faults", json={"nodes": "sim-0", "fault": {"clear": True}}) as answer:
                assert answer.status == 200
            figures = await work
            assert sum(figures.states.values()) == 4
            assert figures.states.get("active", 0) >= 3, daemon.output()
            for blade in blades[1:]:
                assert (blade.counters.writes_started, blade.counters.writes_done, blade.counters.ramdisks) == (1, 1, 1)
            assert blades[0].counters.writes_done <= 1
            await enroller.enroll(blades, port=rack.ipmi_port, user="admin", password="secret")
            with pytest.raises(EnrollError, match="404"):
                await enroller.move(["no-such-node"], "manage")
            assert not rack.state()["defects"]


async def test_ipmitool_and_the_control_api_see_one_fleet() -> None:
    async with Rack(Options(nodes=12, seed=7, time_scale=0.001, boot_url="http://127.0.0.1:1")) as rack:
        for number, suite in enumerate(("3", "17")):
            assert "Up/On" in await ipmitool(rack.ipmi_port, f"127.20.0.{number + 1}", "-C", suite, "power", "on")
        async with aiohttp.ClientSession(rack.control.url) as web:

            async def ask(path: str, body: Any = None) -> tuple[int, Any]:
                async with web.request("GET" if body is None else "POST", path, json=body) as answer:
                    return answer.status, await answer.json()

            assert (await ask("/"))[1]["running"] == {"firmware": 2, "off": 10}
            assert (await ask("/ledger"))[1]["power_on"] == 2
            assert [node["power"] for node in (await ask("/nodes"))[1]["nodes"]] == ["on"] * 2 + ["off"] * 10
            assert (await ask("/nodes/sim-05/power", {"power": "on"}))[0] == 200
            shown = (await ask("/nodes/sim-05"))[1]
            assert (shown["power"], shown["story"][0]["event"]) == ("on", "power_on")
            assert (await ask("/faults", {"nodes": "sim-05", "fault": {"lying": 1}}))[1] == {"nodes": 1}
            assert "is off" in await ipmitool(rack.ipmi_port, "127.20.0.6", "power", "status")
            found = (await ask("/events?since=1"))[1]
            assert found["events"][0]["event"] == "power_on"
            assert found["next"] == rack.story.count
            for path, body, status in (
                ("/nodes/nobody", None, 404),
                ("/nodes/sim-05/power", {"power": "maybe"}, 400),
                ("/faults", {"nodes": "all"}, 400),
                ("/faults", {"fault": {"tired": 1}}, 400),
                ("/events?since=x", None, 400),
            ):
                answered, told = await ask(path, body)
                assert (answered, bool(told["error"])) == (status, True)
            async with web.get("/image.raw") as answer:
                assert await answer.read() == image()


def test_wrong_arguments_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = str(tmp_path / "no.jsonl")
    for words, status in ((["--fault", "tired=1"], 2), (["--nodes", "0"], 2), (["--replay", log], 2), (["--scenario", log], 1)):
        assert main(["sim", *words]) == status
        assert capsys.readouterr().err.startswith("metald sim: ")
