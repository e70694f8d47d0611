"""Config drives from every form, and from none."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import zlib
from typing import Any

import pycdlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.errors import ImageError, Invalid
from metald.images import config_drive
from metald.images.config_drive import build_config_drive, make_iso, unpack
from metald.model import Node

NODE = Node(driver="ipmi", name="n1")


def files_in(iso: bytes, version: str = "latest") -> dict[str, bytes]:
    reader = pycdlib.PyCdlib()
    reader.open_fp(io.BytesIO(iso))
    assert reader.pvd.volume_identifier.strip() == b"config-2"
    found = {}
    for child in reader.list_children(joliet_path=f"/openstack/{version}"):
        name = child.file_identifier().decode("utf-16-be")
        if child.is_file():
            output = io.BytesIO()
            reader.get_file_from_iso_fp(output, rr_path=f"/openstack/{version}/{name}")
            found[name] = output.getvalue()
    reader.close()
    return found


async def test_an_object_becomes_the_files_of_openstack() -> None:
    given: dict[str, Any] = {
        "meta_data": {"hostname": "h", "uuid": "own"},
        "network_data": {"links": []},
        "user_data": {"a": 1},
        "vendor_data": {"v": 2},
    }
    iso = await build_config_drive(given, NODE)
    for version in ("latest", "2012-08-10"):
        files = files_in(iso, version)
        assert json.loads(files["meta_data.json"]) == {"uuid": "own", "name": "n1", "hostname": "h"}
        assert json.loads(files["network_data.json"]) == {"links": []}
        assert json.loads(files["user_data"]) == {"a": 1}
        assert json.loads(files["vendor_data2.json"]) == {"v": 2}


async def test_user_data_as_text_and_defaults() -> None:
    files = files_in(await build_config_drive({"user_data": "#!/bin/sh\n"}, NODE))
    assert files["user_data"] == b"#!/bin/sh\n"
    assert json.loads(files["meta_data.json"]) == {"uuid": NODE.uuid, "name": "n1"}


async def test_packed_forms() -> None:
    iso = make_iso({"meta_data.json": b"{}"})
    for data in (gzip.compress(iso, mtime=0), iso):
        assert await build_config_drive(base64.encodebytes(data).decode(), NODE) == iso


@pytest.mark.parametrize(
    "given",
    [
        "not base64 at all!",
        base64.b64encode(b"\x1f\x8bbroken").decode(),
        base64.b64encode(gzip.compress(b"x" * 99, mtime=0)[:-9]).decode(),
    ],
)
async def test_what_cannot_be_unpacked(given: str) -> None:
    with pytest.raises(Invalid, match="config drive"):
        await build_config_drive(given, NODE)


@pytest.mark.parametrize("given", [5, {"unknown": 1}, {"meta_data": "text"}, ["list"]])
async def test_wrong_kinds(given: Any) -> None:
    with pytest.raises(Invalid, match="config drive"):
        await build_config_drive(given, NODE)


def test_bombs_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_drive, "LARGEST", 1 << 20)
    bomb = base64.b64encode(zlib.compress(bytes(8 << 20), wbits=31)).decode()
    with pytest.raises(ImageError, match="more than 1048576"):
        unpack(bomb, "n1")
    with pytest.raises(ImageError, match="larger than"):
        make_iso({"user_data": bytes(2 << 20)})


@given(st.text())
def test_any_text_is_taken_or_refused(text: str) -> None:
    with contextlib.suppress(Invalid, ImageError):
        unpack(text, "n1")
