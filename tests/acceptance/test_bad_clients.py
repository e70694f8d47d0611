"""Clients that connect and then say nothing, or half a sentence: others are served, and the daemon still stops."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.daemon import Daemon, api

HALF = b"PATCH /v1/nodes/x HTTP/1.1\r\nHost: metald\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n[{"


async def test_clients_that_hang_hold_up_nobody(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon, api(daemon) as client:
        await daemon.start()
        hanging = []
        for url in (daemon.url, daemon.boot_url):
            host, _, port = url.removeprefix("http://").partition(":")
            for said in (b"", HALF[:20], HALF):
                for _ in range(20):
                    _, writer = await asyncio.open_connection(host, int(port))
                    writer.write(said)
                    hanging.append(writer)
        made = await client.create(driver="fake-hardware")
        await client.provision(made, "manage")
        await client.wait(made, "manageable", timeout=10)
        assert await daemon.stop() == 0
        for writer in hanging:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in hanging), return_exceptions=True)
    daemon.assert_clean()
