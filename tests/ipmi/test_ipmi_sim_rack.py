"""A rack of real BMC software: one `ipmi_sim` with 220 BMCs, all on one hub, also when it dies and comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from metald.drivers.ipmi.client import Bmc, DeviceId
from metald.drivers.ipmi.hub import IpmiHub, background
from metald.drivers.ipmi.info import BmcInfo
from metald.errors import BmcAuthFailed
from tests.support.bmc import hub, ipmi_sim, rack

_COUNT = 220


def _clients(started: IpmiHub, ports: list[int]) -> list[Bmc]:
    return [Bmc(started, BmcInfo("127.0.0.1", port, "admin", f"word-{port}")) for port in ports]


async def _everyone(clients: list[Bmc]) -> list[DeviceId]:
    return await asyncio.gather(*(client.device_id() for client in clients))


async def test_each_of_220_bmcs_is_itself_and_comes_back_by_itself(tmp_path: Path) -> None:
    ports = rack(tmp_path, _COUNT)
    async with hub(command_timeout=60.0, login_timeout=30.0, session_idle=60.0) as started:
        clients = _clients(started, ports)
        async with ipmi_sim(tmp_path, ports):
            for _ in range(2):
                assert [found.product for found in await _everyone(clients)] == [0x20 + index for index in range(_COUNT)]
            assert started.sessions == started.logins == _COUNT
        async with ipmi_sim(tmp_path, ports):  # it knows nothing of the sessions that were
            assert [found.product for found in await _everyone(clients)] == [0x20 + index for index in range(_COUNT)]
            assert started.logins == 2 * _COUNT
            with background():
                await _everyone(clients)
            assert started.sessions == 0
            wrong = Bmc(started, BmcInfo("127.0.0.1", ports[0], "admin", f"word-{ports[1]}"))
            with pytest.raises(BmcAuthFailed):
                await wrong.device_id()
            assert (await clients[0].device_id()).product == 0x20


async def test_a_bmc_that_dies_in_the_middle_of_a_command_answers_it_when_it_is_back(tmp_path: Path) -> None:
    ports = rack(tmp_path, 1)
    async with hub(command_timeout=60.0, login_timeout=60.0) as started:
        (client,) = _clients(started, ports)
        async with ipmi_sim(tmp_path, ports):
            await client.device_id()
        asked = asyncio.create_task(client.device_id())
        link = await started.link(client.info)
        async with asyncio.timeout(30):
            while link.session is None or not link.session.repeats + link.session.sent > 6:
                await asyncio.sleep(0.01)
        assert not asked.done()
        async with ipmi_sim(tmp_path, ports):
            assert (await asked).product == 0x20
