"""dnsmasq's lease file as the fleet hears of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.boot.dhcp.lease_file import Lease, LeaseWatch, read
from metald.model import Node

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
SOON = int(time.time()) + 3600


class Fleet:
    """A directory with one node that has MAC."""

    def __init__(self) -> None:
        self.node = Node(driver="ipmi")
        self.told: list[tuple[str, str | None, dict[str, Any]]] = []

    def node_by_mac(self, mac: str) -> Node | None:
        return self.node if mac == MAC else None

    def seen(self, kind: str, *, node_uuid: str | None, data: Mapping[str, Any]) -> None:
        self.told.append((kind, node_uuid, dict(data)))


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
async def watch(tmp_path: Path, fleet: Fleet) -> LeaseWatch:
    watch = LeaseWatch(tmp_path / "leases", fleet)  # type: ignore[arg-type]
    await watch.look()
    return watch


def _write(folder: Path, *leases: tuple[int, str, str]) -> None:
    (folder / "leases").write_text("".join(f"{ends} {mac} {address} * 01:{mac}\n" for ends, mac, address in leases))


async def test_a_new_address_is_told_once(tmp_path: Path, fleet: Fleet, watch: LeaseWatch) -> None:
    _write(tmp_path, (SOON, MAC.upper(), "192.0.2.7"), (SOON, OTHER, "192.0.2.8"))
    await watch.look()
    await watch.look()
    assert fleet.told == [("node.dhcp", fleet.node.uuid, {"client": "192.0.2.7", "mac": MAC})]
    _write(tmp_path, (SOON + 60, MAC, "192.0.2.7"))
    await watch.look()
    assert len(fleet.told) == 1
    _write(tmp_path, (SOON + 120, MAC, "192.0.2.99"))
    await watch.look()
    assert fleet.told[1][2]["client"] == "192.0.2.99"


async def test_a_machine_that_boots_a_ramdisk_is_told_of_each_time(tmp_path: Path, fleet: Fleet, watch: LeaseWatch) -> None:
    fleet.node = Node(driver="ipmi", driver_internal_info={"boot_token": "t"})
    for ends in (SOON, SOON + 10, SOON + 20):
        _write(tmp_path, (ends, MAC, "192.0.2.7"))
        await watch.look()
    assert len(fleet.told) == 3


async def test_what_is_there_at_the_start_is_no_news(tmp_path: Path, fleet: Fleet) -> None:
    _write(tmp_path, (SOON, MAC, "192.0.2.7"))
    watch = LeaseWatch(tmp_path / "leases", fleet)  # type: ignore[arg-type]
    await watch.look()
    assert fleet.told == []


async def test_a_line_that_is_missing_for_a_moment_is_not_news_when_it_is_back(tmp_path: Path, fleet: Fleet, watch: LeaseWatch) -> None:
    _write(tmp_path, (SOON, MAC, "192.0.2.7"))
    await watch.look()
    _write(tmp_path)
    await watch.look()
    _write(tmp_path, (SOON, MAC, "192.0.2.7"))
    await watch.look()
    assert len(fleet.told) == 1


async def test_a_lease_that_ended_is_forgotten(tmp_path: Path, fleet: Fleet, watch: LeaseWatch) -> None:
    for leases in ([(1, MAC, "192.0.2.7")], [], [(1, MAC, "192.0.2.7")]):
        _write(tmp_path, *leases)
        await watch.look()
    assert len(fleet.told) == 2


async def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, fleet: Fleet) -> None:
    watch = LeaseWatch(tmp_path, fleet)  # type: ignore[arg-type]
    with pytest.raises(IsADirectoryError):
        await watch.look()


@given(st.text())
def test_any_text_is_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "leases-any"
    path.write_text(text, encoding="utf-8", errors="replace")
    for mac, lease in read(path).items():
        assert ":" in mac
        assert isinstance(lease, Lease)
