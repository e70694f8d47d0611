"""Every image of the corpus is refused, with its reason; none that `qemu-img` makes is."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.config import Images
from metald.errors import ImageError
from metald.images.cache import ImageCache
from metald.images.convert import convert
from metald.images.formats.marks import HEAD, detect
from metald.images.inspector import inspect
from metald.images.request import ImageRequest
from tests.support.disk_images import MIB, honest, qcow2, vdi, vhd, vhdx, vmdk
from tests.support.hostile import EVERY, LARGEST, Hostile, corpus, packed_corpus

CORPUS = corpus()


@pytest.mark.parametrize("image", CORPUS, ids=[one.name for one in CORPUS])
def test_refused(image: Hostile, tmp_path: Path) -> None:
    path = image.write(tmp_path)
    with path.open("rb") as file, pytest.raises(ImageError) as refused:
        inspect(file, "http://host/i", declared=image.declared, largest=LARGEST, permitted=image.permitted)
    assert image.why in str(refused.value)
    assert refused.value.remedy or image.name == "empty"


def test_the_corpus_has_dozens_of_each_kind_and_no_name_twice() -> None:
    names = [one.name for one in CORPUS]
    assert len(set(names)) == len(names)
    for kind, least in (("qcow2", 50), ("vmdk", 50), ("vhd-", 20), ("vhdx", 15), ("vdi", 12), ("polyglot", 12)):
        assert sum(name.startswith(kind) for name in names) >= least


async def test_what_is_packed_is_refused_by_what_comes_out(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    cache = ImageCache(Images(file_roots=[str(tmp_path / "files")], formats=list(EVERY)), tmp_path)
    for image in packed_corpus():
        path = image.write(tmp_path / "files")
        with pytest.raises(ImageError) as refused:
            await cache.fetch(ImageRequest(f"file://{path}"))
        assert image.why in str(refused.value), image.name
    assert not list((tmp_path / "images" / "partial").iterdir())


async def test_honest_images_are_taken_and_become_the_same_disk(tmp_path: Path) -> None:
    made = list(honest(tmp_path))
    content = (tmp_path / "disk.raw").read_bytes()
    for kind, path in made:
        with path.open("rb") as file:
            seen = await asyncio.to_thread(inspect, file, path.name, declared=kind, largest=LARGEST, permitted=EVERY)
        assert seen.name == ("mbr" if kind == "raw" else kind)
        assert seen.size == len(content), path.name
        if kind != "raw":
            raw = tmp_path / "out"
            await convert(path, raw, kind=kind, size=seen.size, shown=path.name)
            assert raw.read_bytes() == content, path.name


WHOLE = {"qcow2": qcow2(), "vmdk": vmdk(), "vhd": vhd(), "vhdx": vhdx()[: 3 * MIB], "vdi": vdi()}


@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.integers(0, 4096), st.binary(min_size=1, max_size=16)), max_size=8), st.data())
def test_no_change_of_a_header_breaks_the_inspector(kind: str, changes: list[tuple[int, bytes]], data: st.DataObject) -> None:
    image = bytearray(WHOLE[kind])
    for offset, piece in changes:
        image[offset : offset + len(piece)] = piece
    length = data.draw(st.integers(0, len(image)))
    with contextlib.suppress(ImageError):
        seen = inspect(io.BytesIO(bytes(image[:length])), "i", declared=None, largest=LARGEST, permitted=EVERY)
        assert 0 < seen.size <= LARGEST


@given(st.binary(max_size=2048), st.sampled_from([b"", b"QFI\xfb\0\0\0\2", b"QFI\xfb\0\0\0\3", b"\0" * 512 + b"EFI PART", b"#\nversion="]))
def test_any_bytes_are_taken_or_refused(data: bytes, begin: bytes) -> None:
    whole = begin + data
    assert detect(whole[:HEAD])
    with contextlib.suppress(ImageError):
        inspect(io.BytesIO(whole), "i", declared=None, largest=LARGEST)
