"""An operator's way through the API of a daemon with one BMC: a wrong password and its repair, power, boot device, NMI, raw commands."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.support.bmc import ADMIN, simulated
from tests.support.daemon import Api, Daemon, api


async def until(client: Api, path: str, **wanted: Any) -> None:
    async with asyncio.timeout(60):
        while not wanted.items() <= (await client.ask("GET", path)).items():
            await asyncio.sleep(0.05)


async def test_from_a_wrong_password_to_a_raw_command(tmp_path: Path) -> None:
    async with simulated() as server, Daemon(tmp_path) as daemon:
        await daemon.start()
        info = {"ipmi_address": server.address, "ipmi_port": server.port, "ipmi_username": ADMIN.name, "ipmi_password": "mistyped-word"}
        async with api(daemon) as client:
            uuid = await client.create(driver="ipmi", name="m1", driver_info=info, properties={"capabilities": "boot_mode:uefi"})
            await client.provision(uuid, "manage")
            node = await client.wait(uuid, "enroll")
            async with asyncio.timeout(60):
                while not (node := await client.node(uuid))["last_error"]:
                    await asyncio.sleep(0.05)
            assert "ipmi_password" in node["last_error"]
            told = (await client.ask("GET", "/v1/nodes/m1/timeline"))["timeline"]
            assert any("login" in line for event in told for line in event.get("data", {}).get("exchange", ()))

            await client.patch(uuid, driver_info={**info, "ipmi_password": ADMIN.password})
            await client.provision(uuid, "manage")
            await client.wait(uuid, "manageable")
            assert (await client.ask("GET", "/v1/nodes/m1/validate"))["power"] == {"result": True}

            await client.ask("PUT", "/v1/nodes/m1/management/boot_device", {"boot_device": "pxe", "persistent": True})
            assert await client.ask("GET", "/v1/nodes/m1/management/boot_device") == {"boot_device": "pxe", "persistent": True}
            assert server.bmc.boot_options[5].hex() == "e004000000"
            await client.ask("PUT", "/v1/nodes/m1/states/power", {"target": "power on"})
            await until(client, "/v1/nodes/m1", power_state="power on", target_power_state=None, reservation=None)
            await client.ask("PUT", "/v1/nodes/m1/management/inject_nmi", {})
            for method, arguments in (("send_raw", {"raw_bytes": "0x06 0x37"}), ("bmc_reset", {"warm": False})):
                await client.ask("POST", f"/v1/nodes/m1/vendor_passthru?method={method}", arguments)
                await until(client, "/v1/nodes/m1", reservation=None)
            assert (server.bmc.counters.nmi, server.bmc.counters.restarts) == (1, 1)

            exchange = (await client.ask("GET", "/v1/nodes/m1/management/exchange"))["exchange"]
            assert any(entry["what"].startswith("command 00 02 04") for entry in exchange)
            told = (await client.ask("GET", "/v1/nodes/m1/timeline"))["timeline"]
            assert any(server.bmc.guid.hex(" ") in json.dumps(event) for event in told)
            for secret in (ADMIN.password, "mistyped-word"):
                assert secret not in json.dumps([exchange, told, await client.node(uuid)])
                assert secret not in daemon.output()
        assert await daemon.stop() == 0
        daemon.assert_clean()
