"""Disks that erase themselves, as the ramdisk's program asks them to: plain files with a disk's manners (`erasing_disks.c`)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
Run = Callable[..., Any]
HELD = b"secret of the last tenant " * 1000


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "dev" / "sda"
    path.parent.mkdir()
    path.write_bytes(HELD.ljust(4 * MIB + 512, b"x"))
    return path


@pytest.fixture
def run(ramdisk_program: Path, erasing_disks: Path, tmp_path: Path) -> Run:
    (tmp_path / "run").mkdir()
    places = {f"METALD_{name.upper()}": str(tmp_path / name) for name in ("run", "dev", "sys")}

    async def call(*argv: str) -> tuple[int, list[dict[str, Any]], str]:
        pipe = asyncio.subprocess.PIPE
        environment = {**places, "LD_PRELOAD": str(erasing_disks)}
        process = await asyncio.create_subprocess_exec(ramdisk_program, *argv, stdout=pipe, stderr=pipe, env=environment)
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, [json.loads(line) for line in output.splitlines()], errors.decode()

    return call


def erase(run: Run, method: str, job: str = "j", *more: str) -> Any:
    return run("erase", "--job", job, "--disk", "sda", "--method", method, *more)


def log(disk: Path) -> list[str]:
    path = disk.with_name("sda.log")
    return path.read_text().splitlines() if path.exists() else []


async def test_what_erases_nothing_by_itself(run: Run, disk: Path) -> None:
    assert await run("erasures", "sda") == (0, [{}], "")
    for method in ("nvme", "ata"):
        status, states, _ = await erase(run, method, method)
        assert (status, states[-1]["state"], states[-1]["kind"]) == (1, "failed", "unable")
    assert disk.read_bytes().startswith(HELD)


@pytest.mark.parametrize(("words", "method", "setting"), [("format", "nvme", 1), ("format crypto", "nvme-crypto", 2)])
async def test_an_nvme_disk_is_formatted_and_keeps_its_format(run: Run, disk: Path, words: str, method: str, setting: int) -> None:
    disk.with_name("sda.nvme").write_text(words)
    _, (offers,), _ = await run("erasures", "sda")
    assert offers == {"kind": "nvme", "format": True, "crypto": setting == 2}
    status, states, _ = await erase(run, method)
    assert (status, states[-1]["state"]) == (0, "done")
    assert not any(disk.read_bytes())
    # LBA format 1 of the third sixteen, metadata in the data, protection type 1 at the start
    assert log(disk) == [f"format nsid=1 word={0x1 | 0x10 | 1 << 5 | 1 << 8 | setting << 9 | 2 << 12:#x}"]
    assert (await erase(run, method))[1][-1]["state"] == "done"
    assert len(log(disk)) == 1


async def test_an_nvme_disk_that_refuses(run: Run, disk: Path) -> None:
    disk.with_name("sda.nvme").write_text("format refuses")
    status, states, _ = await erase(run, "nvme")
    assert (status, states[-1]["kind"]) == (1, "refused")
    assert "0x10a" in states[-1]["error"]


@pytest.mark.parametrize(("words", "method", "first"), [("supported", "ata", "0"), ("supported enhanced", "ata-enhanced", "0x2")])
async def test_an_ata_disk_erases_itself(run: Run, disk: Path, words: str, method: str, first: str) -> None:
    disk.with_name("sda.ata").write_text(words)
    _, (offers,), _ = await run("erasures", "sda")
    assert (offers["kind"], offers["enhanced"], offers["minutes"], offers["enhanced_minutes"]) == ("ata", "enhanced" in words, 6, 32)
    status, states, _ = await erase(run, method)
    assert (status, states[-1]["state"]) == (0, "done")
    assert not any(disk.read_bytes())
    assert log(disk) == ["0xf1 0", "0xf3 0", f"0xf4 {first}"]
    assert "enabled" not in disk.with_name("sda.ata").read_text()


async def test_an_erasure_that_was_cut_off_goes_on(run: Run, disk: Path) -> None:
    """Its password is set, and the disk is locked by the loss of power."""
    disk.with_name("sda.ata").write_text("supported enabled locked")
    assert (await erase(run, "ata"))[0] == 0
    assert log(disk) == ["0xf2 0", "0xf3 0", "0xf4 0"]
    assert not any(disk.read_bytes())


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("supported frozen", "frozen"),
        ("supported enabled locked foreign", "locked"),
        ("supported enabled locked exhausted", "locked"),
        ("supported enabled foreign", "refused"),
        ("supported refuses", "refused"),
    ],
)
async def test_ata_disks_that_do_not_erase_themselves(run: Run, disk: Path, words: str, kind: str) -> None:
    disk.with_name("sda.ata").write_text(words)
    status, states, _ = await erase(run, "ata")
    assert (status, states[-1]["kind"]) == (1, kind)
    assert disk.read_bytes().startswith(HELD)
    if words == "supported refuses":  # the password is gone again, and the disk can be used
        assert "enabled" not in disk.with_name("sda.ata").read_text()
        disk.with_name("sda.ata").write_text("supported")
        assert (await erase(run, "ata"))[0] == 1  # what failed is told, and tried again by another name
        assert (await erase(run, "ata", "another"))[0] == 0


async def test_overwriting_from_where_it_was(run: Run, disk: Path) -> None:
    status, states, _ = await erase(run, "zero", "j", "--offset", str(MIB))
    size = disk.stat().st_size
    assert (status, states[-1]["state"], states[-1]["bytes"], states[-1]["total"]) == (0, "done", size, size)
    assert disk.read_bytes() == HELD.ljust(MIB, b"x")[:MIB] + bytes(size - MIB)


async def test_what_cannot_be_asked(run: Run, disk: Path) -> None:
    for argv in (("erasures",), ("erasures", "sdz"), ("erasures", "../sda"), ("erase", "--job", "j", "--disk", "sda", "--method", "fire")):
        status, _, errors = await run(*argv)
        assert status in (1, 2)
        assert errors
    for method, job in (("zero", "../j"), ("zero", "j/k")):
        assert (await erase(run, method, job))[0] == 2
    status, states, _ = await run("erase", "--job", "n", "--disk", "sdz", "--method", "zero")
    assert (status, states[-1]["kind"]) == (1, "disk")
    assert os.listdir(disk.parent) == ["sda"]  # names alone
