"""Metrics: what a scrape of a running daemon tells, read by Prometheus' own parser."""

from __future__ import annotations

from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from metald.metrics import Family, Histogram, Metrics
from tests.support.daemon import Daemon, api


async def scrape(daemon: Daemon) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    async with aiohttp.ClientSession() as session, session.get(f"{daemon.url}/metrics") as answer:
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
