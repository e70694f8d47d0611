"""Metrics: what a scrape of a running daemon tells, read by Prometheus' own parser."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from metald.metrics import Family, Histogram, Metrics
from tests.support.bmc import ADMIN, WITH_SENSOR, open_ipmi
from tests.support.daemon import Daemon, api


async def scrape(daemon: Daemon, path: str = "/metrics") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    async with aiohttp.ClientSession() as session, session.get(daemon.url + path) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        text = await answer.text()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_scrape_tells_of_nodes_requests_events_and_the_loop(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        await daemon.start()
        async with api(daemon) as client:
            uuid = await client.create(driver="fake-hardware")
            await client.provision(uuid, "manage")
            await client.wait(uuid, "manageable")
        found = await scrape(daemon)
        assert found["metald_nodes", (("state", "manageable"),)] == 1
        assert found["metald_api_requests_total", (("method", "POST"), ("status", "201"))] == 1
        assert found["metald_store_changes_total", ()] >= 3
        while not found["metald_loop_lag_seconds_count", ()]:
            found = await scrape(daemon)
        assert found["metald_limit_waiting", (("limit", "drivers.ipmi.login_window"),)] == 0
        assert any(name == "metald_events_total" for name, _ in found)
        assert (await daemon.stop()) == 0
        daemon.assert_clean()


async def test_histograms_count_what_is_at_most_the_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 7.0):
        histogram.add(value)
    metrics = Metrics()
    metrics.add(lambda: [Family.one("waits_seconds", "histogram", "Waits.", histogram)])
    body, _ = await metrics.render()
    (family,) = text_string_to_metric_families(body.decode())
    assert {sample.labels.get("le"): sample.value for sample in family.samples if sample.name.endswith("_bucket")} == {
        "1": 2.0,
        "2": 3.0,
        "+Inf": 4.0,
    }


async def test_sensors_of_the_fleet_are_scraped_apart(tmp_path: Path) -> None:
    bmc = tmp_path / "bmc"
    bmc.mkdir()
    async with open_ipmi(bmc, WITH_SENSOR) as server, Daemon(tmp_path / "metald", {"conductor.sensor_interval": "0.05"}) as daemon:
        await daemon.start()
        info = {"ipmi_address": server.address, "ipmi_port": server.port, "ipmi_username": ADMIN.name, "ipmi_password": ADMIN.password}
        async with api(daemon) as client:
            uuid = await client.create(driver="ipmi", name="m1", driver_info=info)
            await client.provision(uuid, "manage")
            await client.wait(uuid, "manageable")
        found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        async with asyncio.timeout(60):
            while not found:
                found = await scrape(daemon, "/metrics/sensors")
        labels = (("name", "m1"), ("node", uuid), ("sensor", "CPUTemp"), ("type", "Temperature"))
        assert found["metald_sensor", (*labels, ("unit", "°C"))] == 42
        assert found["metald_sensor_health", labels] == 0
        assert (await daemon.stop()) == 0
        daemon.assert_clean()
