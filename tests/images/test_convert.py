"""A converter that is missing, slow, broken, out of room, or up to something."""

from __future__ import annotations

import asyncio
import hashlib
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metald.errors import ImageError
from metald.images import confine, sandbox
from metald.images import convert as module
from metald.images.convert import convert, unpack
from metald.images.sandbox import Cage, running
from metald.images.sink import Sink


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Runs a shell script in the place of qemu-img."""
    script = {"text": "exit 0"}
    real = asyncio.create_subprocess_exec

    async def run(*_: str, **more: Any) -> asyncio.subprocess.Process:
        return await real("/bin/sh", "-c", script["text"], **more)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", run)
    return script


async def test_out_of_room_is_an_error_of_the_system(scripted: dict[str, str], tmp_path: Path) -> None:
    scripted["text"] = "echo 'error while writing: No space left on device' >&2; exit 1"
    with pytest.raises(OSError, match="No space left"):
        await convert(tmp_path / "a", tmp_path / "b", kind="qcow2", size=1, shown="i")


@pytest.mark.parametrize(("text", "words"), [("exit 127", "qemu-img is not installed"), ("echo odd >&2; exit 1", "converted: odd")])
async def test_failures(scripted: dict[str, str], tmp_path: Path, text: str, words: str) -> None:
    scripted["text"] = text
    with pytest.raises(ImageError, match=words):
        await convert(tmp_path / "a", tmp_path / "b", kind="qcow2", size=1, shown="i")


async def test_a_converter_that_hangs_is_ended(scripted: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted["text"] = f"echo $$ > {tmp_path}/pid; exec sleep 600"
    monkeypatch.setattr(module, "_BASE", 0.2)
    with pytest.raises(ImageError, match="took longer"):
        await convert(tmp_path / "a", tmp_path / "b", kind="qcow2", size=1, shown="i")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


async def test_no_converter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "ENVIRONMENT", {"PATH": str(tmp_path)})
    with pytest.raises(ImageError, match="apt-get install qemu-utils"):
        await convert(tmp_path / "a", tmp_path / "b", kind="qcow2", size=1, shown="i")


def raw_disk(tmp_path: Path, size: int = 1 << 20) -> Path:
    path = tmp_path / "disk"
    path.write_bytes((bytes(510) + b"\x55\xaa").ljust(size, b"\0"))
    return path


async def test_a_disk_larger_than_its_header_says_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLACK", 0)
    source = tmp_path / "image"
    data = raw_disk(tmp_path, 4 << 20)
    with data.open("ab") as file:
        file.write(b"x" * 512)
    await asyncio.to_thread(subprocess.run, ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", data, source], check=True)
    with pytest.raises(ImageError, match="larger than its header says"):
        await convert(source, tmp_path / "raw", kind="qcow2", size=1 << 20, shown="i")


async def said(script: str, cage: Cage) -> tuple[int | None, str, str]:
    """What a shell script comes to in a cage."""
    async with running(("bash", "-c", script), cage, output=True) as process, asyncio.timeout(60):
        output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


class TestCage:
    """What a program may do, tried by a program. Landlock and seccomp are there on every kernel that tests run on."""

    def cage(self, tmp_path: Path) -> Cage:
        for name in ("input", "output", "secret"):
            (tmp_path / name).write_text(f"{name} words")
        return Cage(memory=1 << 30, processor=5, file_size=1 << 20, reads=[tmp_path / "input"], writes=[tmp_path / "output"])

    async def test_reads_its_input_and_writes_its_output(self, tmp_path: Path) -> None:
        cage = self.cage(tmp_path)
        status, output, _ = await said(f"cat {tmp_path}/input; echo made > {tmp_path}/output", cage)
        assert (status, output, (tmp_path / "output").read_text()) == (0, "input words", "made\n")

    @pytest.mark.parametrize(
        ("script", "words"),
        [
            ("cat {0}/secret", "Permission denied"),
            ("cat /etc/passwd", "Permission denied"),
            ("echo evil > {0}/other", "Permission denied"),
            ("echo evil > {0}/input", "Permission denied"),
            ("ls {0}", "Permission denied"),
            ("rm {0}/secret", "Permission denied"),
            ("mv {0}/secret {0}/output", "denied"),
            ("ln {0}/secret {0}/link", "denied"),
            ("exec 3<>/dev/tcp/127.0.0.1/22", "Operation not permitted"),
            ("exec 3<>/dev/udp/127.0.0.1/53", "Operation not permitted"),
            ("unshare -r true", "unshare failed: Operation not permitted"),
            ("mount -t tmpfs none /mnt", "ermi"),
        ],
    )
    async def test_does_nothing_else(self, tmp_path: Path, script: str, words: str) -> None:
        status, _, errors = await said(script.format(tmp_path), self.cage(tmp_path))
        assert status
        assert words in errors
        assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "output", "secret"]
        assert (tmp_path / "input").read_text() == "input words"

    async def test_is_bounded(self, tmp_path: Path) -> None:
        cage = self.cage(tmp_path)
        assert (await said("ulimit -v; ulimit -t; ulimit -c", cage))[1].split() == [str(1 << 20), "5", "0"]
        status, _, errors = await said(f"head -c 2M /dev/zero > {tmp_path}/output", cage)
        assert status
        assert "File too large" in errors or "File size limit" in errors
        assert (tmp_path / "output").stat().st_size <= 1 << 20

    async def test_dies_with_who_started_it(self, tmp_path: Path) -> None:
        script = (
            "import asyncio, sys\nfrom pathlib import Path\nfrom metald.images.sandbox import Cage, running\n"
            "async def main():\n"
            "    async with running(('sh', '-c', 'echo $$; exec sleep 600'), Cage(memory=1 << 30, processor=5), output=True) as process:\n"
            "        print((await process.stdout.readline()).decode(), flush=True)\n"
            "        await process.wait()\n"
            "asyncio.run(main())\n"
        )
        parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
        assert parent.stdout is not None
        async with asyncio.timeout(60):
            child = int(await parent.stdout.readline())
            parent.kill()
            await parent.wait()
            while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
                await asyncio.sleep(0.02)


class TestUnpack:
    """Raw disks packed with gzip and zstd."""

    async def unpacked(self, packed: Path, kind: str, tmp_path: Path, largest: int = 1 << 30) -> tuple[Path, dict[str, str], list[int]]:
        sink, asked = Sink(tmp_path / "raw", frozenset({"sha256"})), []

        async def grown(size: int) -> None:
            asked.append(size)

        sink.open(resume=False)
        try:
            await unpack(packed, sink, kind=kind, largest=largest, shown="i", grown=grown)
            digests = sink.finish()
        finally:
            sink.close()
        return tmp_path / "raw", digests, asked

    @pytest.mark.parametrize("kind", ["gzip", "zstd"])
    async def test_holes_become_holes(self, kind: str, tmp_path: Path) -> None:
        disk = raw_disk(tmp_path, 64 << 20)
        packed = tmp_path / "packed"
        await asyncio.to_thread(subprocess.run, f"{kind} -c {disk} > {packed}", shell=True, check=True)
        raw, digests, asked = await self.unpacked(packed, kind, tmp_path)
        assert digests["sha256"] == hashlib.sha256(disk.read_bytes()).hexdigest()
        assert raw.stat().st_size == 64 << 20
        assert raw.stat().st_blocks * 512 < 1 << 20
        assert asked[-1] == 64 << 20

    @pytest.mark.parametrize("kind", ["gzip", "zstd"])
    async def test_a_bomb_is_stopped_where_it_grows_too_large(self, kind: str, tmp_path: Path) -> None:
        packed = tmp_path / "packed"
        await asyncio.to_thread(subprocess.run, f"head -c 64M /dev/zero | {kind} -c > {packed}", shell=True, check=True)
        with pytest.raises(ImageError, match="holds more than 8388608 bytes when it is unpacked"):
            await self.unpacked(packed, kind, tmp_path, largest=8 << 20)
        assert (tmp_path / "raw").stat().st_size <= 8 << 20

    async def test_a_packer_that_hangs_is_ended(self, scripted: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scripted["text"] = "exec sleep 600"
        monkeypatch.setattr(module, "_BASE", 0.2)
        with pytest.raises(ImageError, match="Unpacking the image i took longer"):
            await self.unpacked(raw_disk(tmp_path), "gzip", tmp_path, largest=1)

    async def test_no_packer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sandbox, "ENVIRONMENT", {"PATH": str(tmp_path)})
        with pytest.raises(ImageError, match=r"is packed with zstd, and zstd is not installed\. Install it \(apt-get install zstd\)"):
            await self.unpacked(raw_disk(tmp_path), "zstd", tmp_path)


def test_system_calls_are_known_by_their_numbers() -> None:
    """The tables of both architectures name the same calls, and the filter refuses each of them."""
    for architecture, calls in confine.CALLS.values():
        assert len(set(calls.values())) == len(calls)
        code = list(struct.iter_unpack("=HBBI", confine.program(architecture, calls.values())))
        for number in calls.values():
            line = next(index for index, (kind, _, _, value) in enumerate(code) if kind == 0x15 and value == number)
            assert code[line + 1 + code[line][1]] == (0x06, 0, 0, 0x00050001)
        assert code[-2] == (0x06, 0, 0, 0x7FFF0000)
        assert code[4 + 1 + code[4][1]] == (0x06, 0, 0, 0x00050001)
    known = {"socket": 41, "io_uring_setup": 425, "open_by_handle_at": 304, "process_vm_writev": 311, "setns": 308}
    assert known.items() <= confine.CALLS["x86_64"][1].items()
    assert {"socket": 198, "io_uring_setup": 425, "open_by_handle_at": 265}.items() <= confine.CALLS["aarch64"][1].items()
