"""What makes a disk boot by UEFI, decided against a ramdisk that says what the test wants."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from metald.drivers.root_device import Disk
from metald.drivers.ssh import efi
from metald.drivers.ssh.deploy import SshDeploy
from metald.drivers.ssh.partitions import ESP, MIB, Partition, Table
from metald.errors import DeployError, RamdiskLost
from metald.model import BootDevice
from tests.support.deploy_site import Site, Steps

DISK = Disk("/dev/sda", 64 * MIB)
FALLBACK = "/EFI/BOOT/BOOTX64.EFI"
VENDOR = "/EFI/debian/shimx64.efi"


class SaidRamdisk:
    """Answers like `Ramdisk`."""

    def __init__(self, table: Table | None, files: list[str], variables: dict[str, bytes]) -> None:
        self.head = dict(table.render())[0] if table else bytes(34 * 512)
        self.files = files
        self.variables = variables
        self.refuses: Exception | None = None
        self.patched: list[tuple[int, bytes]] = []

    async def disks(self) -> list[Disk]:
        return [DISK]

    async def read(self, _: Disk, parts: list[tuple[int, int]]) -> bytes:
        return self.head

    async def patch(self, _: Disk, parts: list[tuple[int, bytes]]) -> None:
        self.patched += parts

    async def loaders(self, _: Disk, partition: int) -> list[str]:
        assert partition == 2
        return self.files

    async def boot_variables(self) -> dict[str, bytes]:
        return self.variables

    async def put_boot_variable(self, name: str, content: bytes) -> None:
        if self.refuses:
            raise self.refuses
        self.variables[name] = content


def gpt(sectors: int = DISK.size // 512) -> Table:
    return Table.create(sectors, uuid.UUID(int=1)).with_partition(Partition(2, ESP, uuid.UUID(int=2), 2048, 4095))


class Case:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = Site(folder, folder, 0)
        self.site.instance(capabilities="boot_mode:uefi")
        self.monkeypatch = monkeypatch

    async def prepare(self, ramdisk: SaidRamdisk) -> str:
        async def said(_self: SshDeploy, _node: Any) -> SaidRamdisk:
            return ramdisk

        self.monkeypatch.setattr(SshDeploy, "ramdisk", said)
        steps: Steps = self.site.steps()
        outcome = await self.site.deploy.prepare_instance_boot(steps)
        return str(getattr(outcome, "detail", ""))


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


def order(*numbers: int) -> dict[str, bytes]:
    return {efi.ORDER: b"\7\0\0\0" + b"".join(number.to_bytes(2, "little") for number in numbers)}


async def test_adds_an_entry_and_asks_for_the_disk(case: Case) -> None:
    ramdisk = SaidRamdisk(gpt(), [FALLBACK, VENDOR], order(3))
    assert VENDOR in await case.prepare(ramdisk)
    assert efi.title_of(ramdisk.variables[f"Boot0000-{efi.GLOBAL}"][4:]) == "metald instance"
    assert ramdisk.variables[efi.ORDER] == b"\7\0\0\0\0\0\3\0"
    assert case.site.management.devices == [(BootDevice.DISK, True)]
    assert ramdisk.patched == []


async def test_moves_a_backup_table_to_the_end_of_the_disk(case: Case) -> None:
    ramdisk = SaidRamdisk(gpt(8192), [FALLBACK], {})
    await case.prepare(ramdisk)
    assert [offset for offset, _ in ramdisk.patched] == [DISK.size - 33 * 512, 0]


@pytest.mark.parametrize("variables", [{}, order(1)])
async def test_a_fallback_loader_is_enough(case: Case, variables: dict[str, bytes]) -> None:
    ramdisk = SaidRamdisk(gpt(), [FALLBACK], variables)
    ramdisk.refuses = DeployError("no space in the firmware")
    detail = await case.prepare(ramdisk)
    assert ("no space in the firmware" in detail) is bool(variables)


@pytest.mark.parametrize(
    ("ramdisk", "words"),
    [
        (SaidRamdisk(None, [FALLBACK], {}), "no EFI system partition"),
        (SaidRamdisk(Table.create(9000, uuid.UUID(int=1)), [FALLBACK], {}), "no EFI system partition"),
        (SaidRamdisk(gpt(), [], {}), "no EFI loader"),
        (SaidRamdisk(gpt(), [VENDOR], {}), "does not know"),
    ],
)
async def test_what_does_not_boot(case: Case, ramdisk: SaidRamdisk, words: str) -> None:
    with pytest.raises(DeployError, match=words):
        await case.prepare(ramdisk)
    assert case.site.management.devices == []


@pytest.mark.parametrize(("error", "files"), [(RamdiskLost("gone"), [FALLBACK]), (DeployError("no space in the firmware"), [VENDOR])])
async def test_an_entry_that_cannot_be_done_without(case: Case, error: Exception, files: list[str]) -> None:
    ramdisk = SaidRamdisk(gpt(), files, order(1))
    ramdisk.refuses = error
    with pytest.raises(type(error)):
        await case.prepare(ramdisk)


async def test_an_efi_partition_of_an_mbr_counts(case: Case) -> None:
    ramdisk = SaidRamdisk(None, [FALLBACK], {})
    head = bytearray(34 * 512)
    head[466], head[470:478] = 0xEF, (2048).to_bytes(4, "little") + (99).to_bytes(4, "little")
    head[510:512] = b"\x55\xaa"
    ramdisk.head = bytes(head)
    assert FALLBACK in await case.prepare(ramdisk)
