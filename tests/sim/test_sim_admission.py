"""Tiny limits and many requests at once: everything waits its turn, says for what, and is done; nothing is refused."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from metald.sim.enroll import Enroller
from metald.sim.rack import Options, Rack
from tests.sim.test_sim_fleet import settings
from tests.support.bmc import free_udp_port
from tests.support.daemon import MICROVERSION, Daemon, free_port

NODES = 20
REQUESTS = 2000
TINY = {
    "drivers.ipmi.login_window": 1,
    "drivers.ipmi.session_idle": 0.01,
    "drivers.ssh.handshakes": 1,
    "images.downloads": 1,
    "boot.http_bandwidth": 3 << 20,
}
LIMITS = {"drivers.ipmi.login_window", "drivers.ssh.handshakes", "boot.http_bandwidth"}


class _Crowd:
    """Asks for things all the time, and notes what it is answered."""

    def __init__(self, web: aiohttp.ClientSession, uuids: list[str]) -> None:
        self._web = web
        self._uuids = uuids
        self.statuses: Counter[int] = Counter()
        self.waited_for: Counter[str] = Counter()
        self.explained: set[str] = set()

    async def get(self, path: str) -> Any:
        async with self._web.get(path) as answer:
            self.statuses[answer.status] += 1
            return await answer.json()

    async def watch(self, numbers: Any) -> None:
        for number in numbers:
            uuid = self._uuids[number % len(self._uuids)]
            await self.get(f"/v1/nodes/{uuid}")
            for waiting in (await self.get(f"/v1/nodes/{uuid}/progress"))["waiting"]:
                self.waited_for[waiting["setting"]] += 1
                assert waiting["since"]
                assert waiting["ahead"] >= 0
            for cause in (await self.get(f"/v1/nodes/{uuid}/explain"))["causes"]:
                if cause["code"] == "queued":
                    assert cause["since"]
                    self.explained.add(next(name for name in TINY if name in cause["remedy"]))


async def test_a_crowd_at_tiny_limits_waits_and_is_served(tmp_path: Path) -> None:
    async with Daemon(tmp_path, {**settings(tmp_path, free_udp_port()), **TINY}) as daemon:
        await daemon.start()
        given = Options(
            nodes=NODES,
            boot_url=daemon.boot_url,
            time_scale=0.01,
            control=("127.0.0.1", free_port()),
            bmc_base="127.24.0.0",
            machine_base="127.84.0.0",
        )
        headers = {"X-OpenStack-Ironic-API-Version": MICROVERSION}
        async with Rack(given) as rack, Enroller(daemon.url) as enroller, aiohttp.ClientSession(daemon.url, headers=headers) as web:
            blades = list(rack.blades.values())
            await enroller.enroll(blades, port=rack.ipmi_port, user="admin", password="secret")
            crowd = _Crowd(web, list(enroller.uuids.values()))
            numbers = iter(range(REQUESTS // 3))
            watching = [asyncio.create_task(crowd.watch(numbers)) for _ in range(16)]
            figures = await enroller.deploy(blades, f"{rack.control.url}/image.raw", rack.control.image_sha256)
            await asyncio.gather(*watching)
            async with web.get("/metrics") as answer:
                waits = dict(re.findall(r'metald_limit_waits_total{limit="([^"]+)"} (\d+)', await answer.text()))
            assert figures.states == {"active": NODES}, daemon.output()[-3000:]
            ledger = rack.ledger()
            assert (ledger["writes_done"], ledger["power_on"]) == (NODES, 2 * NODES)
        await daemon.stop()
        daemon.assert_clean()
    assert set(crowd.statuses) == {200}
    assert {name for name in LIMITS if int(waits[name]) > 0} == LIMITS, waits
    assert crowd.waited_for
    assert crowd.explained
