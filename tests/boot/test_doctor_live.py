"""The doctor at work: it follows events, tells of boots that stop, once, and knows after a restart what it knew before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from metald.boot.doctor import Doctor
from metald.boot.doctor import doctor as module
from metald.config import Boot, Settings
from metald.model import Event, now
from metald.statemachine.sightings import sighting
from tests.support.boot_fleet import MAC, Fleet

STRANGER = "52:54:00:00:00:99"


class Ward:
    """A doctor, its fleet, and stories for it."""

    def __init__(self, quiet: float = 3600.0) -> None:
        self.fleet = Fleet()
        self.node = self.fleet.boot(self.fleet.add(MAC))
        self.doctor = Doctor(self.fleet, Settings(boot=Boot(quiet_time=quiet)))
        self.story: list[Event] = []

    def event(self, kind: str, *, node: str | None = "", ago: float = 0.0, **data: Any) -> Event:
        uuid = self.node.uuid if node == "" else node
        made = msgspec.structs.replace(sighting(kind, uuid, data), time=now() - timedelta(seconds=ago))
        self.story.append(made)
        return made

    def tell(self, kind: str, **data: Any) -> None:
        self.doctor.follow([self.event(kind, **data)])

    def on(self, **more: Any) -> None:
        self.tell("node.step", interface="power", step="power_on", outcome="done", **more)

    @property
    def told(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        return [each for each in self.fleet.events if each[0].endswith("stopped")]


@pytest.fixture
async def ward() -> AsyncIterator[Ward]:
    made = Ward()
    yield made
    made.doctor.close()


async def test_a_boot_that_stops_is_told_of_once() -> None:
    ward = Ward(quiet=0.05)
    try:
        ward.on()
        kind, uuid, data = await _stopped(ward)
        assert (kind, uuid) == ("node.boot_stopped", ward.node.uuid)
        assert (data["stage"], data["cause"], data["mac"], data["seen"]) == ("power", "nothing-seen", MAC, "when its power came on")
        assert data["seconds"] >= 0.05
        ward.tell("node.tftp", client="10.0.0.5", file="ipxe.efi", bytes=1000)
        await _stopped(ward, 2)
        assert [each["cause"] for _, _, each in ward.told] == ["nothing-seen", "secure-boot"]
        boot = ward.doctor._nodes[ward.node.uuid]
        ward.doctor._look(boot, stopped=True)
        assert len(ward.told) == 2
    finally:
        ward.doctor.close()


async def _stopped(ward: Ward, count: int = 1) -> tuple[str, str | None, dict[str, Any]]:
    async with asyncio.timeout(30):
        while len(ward.told) < count:
            ward.fleet.told.clear()
            await ward.fleet.told.wait()
    return ward.told[count - 1]


async def test_a_boot_that_goes_on_is_left_alone(ward: Ward) -> None:
    ward.on(ago=100.0)
    boot = ward.doctor._nodes[ward.node.uuid]
    ward.tell("node.dhcp", mac=MAC, firmware="pxe", asked="discover", answer="offer")
    timer = boot.timer
    ward.tell("node.tftp", client="10.0.0.5", file="ipxe.efi", bytes=1000)
    assert boot.timer is timer  # not moved by every sign
    ward.doctor._expired(boot)
    assert boot.timer is not None
    assert ward.told == []
    ward.tell("node.ramdisk", address="10.0.0.5")
    assert boot.timer is None
    assert ward.node.uuid not in ward.doctor._nodes
    assert ward.told == []


async def test_a_machine_that_boots_from_its_disk_is_not_expected(ward: Ward) -> None:
    ward.fleet.change(ward.node, driver_internal_info={})
    ward.on()
    assert ward.doctor._nodes == {}
    assert ward.doctor.of_node(ward.node.uuid, ward.story) == []


async def test_whoever_has_nothing_to_load_any_more_is_forgotten(ward: Ward) -> None:
    ward.on()
    boot = ward.doctor._nodes[ward.node.uuid]
    ward.fleet.change(ward.node, driver_internal_info={})
    ward.doctor._expired(boot)
    assert ward.told == []
    assert ward.doctor._nodes == {}
    ward.fleet.boot(ward.node)
    ward.on()
    ward.tell("node.delete")
    assert ward.doctor._nodes == {}


async def test_what_is_certain_is_told_at_once(ward: Ward) -> None:
    ward.on()
    for uuid in ("00000001-0000-4000-8000-000000000000", "00000002-0000-4000-8000-000000000000", "00000003-0000-4000-8000-000000000000"):
        ward.tell("node.dhcp", mac=MAC, firmware="pxe", asked="discover", answer="offer", machine=uuid)
    assert [(each["cause"], each["seconds"]) for _, _, each in ward.told] == [("two-machines", 0.0)]


async def test_a_warning_is_told_once_and_the_boot_goes_on(ward: Ward) -> None:
    ward.on()
    answers = {"mac": MAC, "firmware": "pxe", "asked": "discover", "answer": "offer"}
    ward.tell("node.dhcp", **answers, file="ipxe.efi")
    for _ in range(2):
        ward.tell("node.dhcp", **answers, file="other.efi", server="10.0.0.9", overheard=True)
    ward.tell("node.tftp", client="10.0.0.5", file="ipxe.efi", bytes=1000)
    ((kind, uuid, data),) = ward.fleet.events
    assert (kind, uuid, data["stage"], data["cause"], data["mac"]) == ("node.boot_warning", ward.node.uuid, "dhcp", "two-dhcp-servers", MAC)
    assert "10.0.0.9 names other.efi" in data["warning"]
    assert ward.doctor.warned == {"two-dhcp-servers": 1}
    assert ward.doctor.stopped == {}
    ward.tell("node.ramdisk", address="10.0.0.5")
    (report,) = ward.doctor.of_node(ward.node.uuid, ward.story)
    assert (report.diagnosis.stage, report.diagnosis.cause) == ("done", "")
    assert [each.cause for each in report.diagnosis.warnings] == ["two-dhcp-servers"]
    ward.on()  # and of the next boot anew
    ward.tell("node.dhcp", **answers, file="ipxe.efi")
    ward.tell("node.dhcp", **answers, file="other.efi", server="10.0.0.9", overheard=True)
    assert len(ward.fleet.events) == 2


async def test_secure_boot_of_the_node_counts(ward: Ward) -> None:
    for change, words in (
        ({"secure_boot": True}, "Secure boot refuses it"),
        ({"secure_boot": False}, "no driver for the network card"),
        ({"secure_boot": None, "properties": {"capabilities": "secure_boot:true"}}, "Secure boot refuses it"),
    ):
        ward.fleet.change(ward.fleet.nodes[ward.node.uuid], **change)
        events = [ward.event("node.tftp", ago=9999.0, client="10.0.0.5", file="ipxe.efi", bytes=1000)]
        (report,) = ward.doctor.of_node(ward.node.uuid, events)
        assert words in report.diagnosis.likely
        assert report.stopped_for is not None
        assert report.stopped_for > 9000


async def test_strangers(ward: Ward) -> None:
    ward.tell("boot.unknown", node=None, client="10.0.0.9", mac=[STRANGER, "52:54:00:00:00:98"])
    ward.tell("node.tftp", node=None, client="10.0.0.9", file="undionly.kpxe", bytes=10)
    ward.tell("node.tftp", node=None, client="10.0.0.77", file="undionly.kpxe", bytes=10)  # of whom nobody knows the MAC address
    ward.tell("node.dhcp", node=None, mac=MAC, firmware="pxe")  # it is a node by now
    (report,) = ward.doctor.of_stranger(STRANGER)
    assert report.attempt.macs == [STRANGER, "52:54:00:00:00:98"]
    assert [each.file for each in report.attempt.files] == ["undionly.kpxe"]
    assert ward.doctor.of_stranger(MAC) == []
    error = "there is no boot loader for the architecture UEFI IA32"
    ward.tell("node.dhcp", node=None, mac=STRANGER, firmware="pxe", asked="discover", error=error)
    assert [(kind, uuid, each["mac"], each["cause"]) for kind, uuid, each in ward.told] == [
        ("boot.stopped", None, STRANGER, "wrong-architecture")
    ]
    answers = {"mac": STRANGER, "firmware": "pxe", "asked": "discover", "answer": "offer"}
    ward.tell("node.dhcp", node=None, **answers, file="ipxe.efi")
    ward.tell("node.dhcp", node=None, **answers, file="other.efi", server="10.0.0.8", overheard=True)
    kind, uuid, data = ward.fleet.events[-1]
    assert (kind, uuid, data["mac"], data["cause"]) == ("boot.warning", None, STRANGER, "two-dhcp-servers")
    # A node of which nothing was seen: the unknown machine may be it.
    ward.on()
    ward.tell("boot.unknown", node=None, client="10.0.0.9", mac=[STRANGER])
    boot = ward.doctor._nodes[ward.node.uuid]
    ward.doctor._look(boot, stopped=True)
    assert ward.told[-1][2]["cause"] == "unknown-mac"
    assert [report.attempt.node_uuid for report in ward.doctor.under_way()] == [None, ward.node.uuid]


async def test_after_a_restart_it_knows_and_is_silent(ward: Ward) -> None:
    ward.on()
    ward.tell("node.tftp", client="10.0.0.5", file="ipxe.efi", bytes=1000)
    ward.tell("node.dhcp", mac=MAC, firmware="pxe", asked="discover", error="no boot loader", answer=None)
    again = Doctor(ward.fleet, Settings(boot=Boot(quiet_time=3600.0)))
    told = len(ward.told)
    assert told == 1
    again.remember(ward.story)
    assert len(ward.told) == told
    boot = again._nodes[ward.node.uuid]
    assert boot.timer is not None
    assert [each.file for each in boot.attempt.files] == ["ipxe.efi"]
    again.close()


async def test_it_is_bounded(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    monkeypatch.setattr(module, "_ADDRESSES", 10)
    for number in range(40):
        ward.tell("boot.unknown", node=None, client=f"10.0.1.{number}", mac=[f"52:54:00:00:01:{number:02x}"])
        node = ward.fleet.boot(ward.fleet.add(f"52:54:00:00:02:{number:02x}"))
        ward.tell("node.step", node=node.uuid, interface="power", step="power_on", outcome="done")
    assert len(ward.doctor._nodes) == len(ward.doctor._strangers) == len(ward.doctor._macs) == 10
    assert len(ward.doctor.under_way()) == 20
