"""A converter that is missing, slow, broken, or out of room."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from metald.errors import ImageError
from metald.images import convert as module
from metald.images.convert import convert


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
        await convert(tmp_path / "a", tmp_path / "b", size=1, shown="i")


@pytest.mark.parametrize(("text", "words"), [("exit 127", "qemu-img is not installed"), ("echo odd >&2; exit 1", "converted: odd")])
async def test_failures(scripted: dict[str, str], tmp_path: Path, text: str, words: str) -> None:
    scripted["text"] = text
    with pytest.raises(ImageError, match=words):
        await convert(tmp_path / "a", tmp_path / "b", size=1, shown="i")


async def test_a_converter_that_hangs_is_ended(scripted: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted["text"] = f"echo $$ > {tmp_path}/pid; exec sleep 600"
    monkeypatch.setattr(module, "_BASE", 0.2)
    with pytest.raises(ImageError, match="took longer"):
        await convert(tmp_path / "a", tmp_path / "b", size=1, shown="i")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


async def test_no_prlimit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def missing(*_: str, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(asyncio, "create_subprocess_exec", missing)
    with pytest.raises(ImageError, match="apt-get install qemu-utils"):
        await convert(tmp_path / "a", tmp_path / "b", size=1, shown="i")
