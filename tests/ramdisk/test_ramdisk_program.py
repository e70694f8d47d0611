"""The program that runs inside the ramdisk, compiled for this host and run on plain files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

MIB = 1 << 20


@dataclass
class House:
    """One machine's files, and a server that stands for metald."""

    program: Path
    folder: Path
    data: bytes = b""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    breaks_at: list[int] = field(default_factory=list)
    ranges: bool = True
    status: int = 200
    answers: bytes = b""
    port: int = 0

    def lay_out(self) -> None:
        for name, value in (("url", f"http://127.0.0.1:{self.port}/"), ("node", "n1"), ("token", "secret")):
            path = self.folder / "run" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{value}\n")
        (self.folder / "dev").mkdir()
        with self.disk.open("wb") as file:
            file.truncate(16 * MIB)

    @property
    def disk(self) -> Path:
        return self.folder / "dev" / "sda"

    @property
    def environment(self) -> dict[str, str]:
        return {"METALD_RUN": str(self.folder / "run"), "METALD_SYS": str(self.folder / "sys"), "METALD_DEV": str(self.folder / "dev")}

    async def run(self, *argv: str, data: bytes = b"") -> tuple[int, bytes, str]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(self.program, *argv, stdin=pipe, stdout=pipe, stderr=pipe, env=self.environment)
        async with asyncio.timeout(60):
            output, errors = await process.communicate(data)
        assert process.returncode is not None
        return process.returncode, output, errors.decode()

    async def image(self, job: str = "j", **more: Any) -> tuple[int, dict[str, Any]]:
        words = {"job": job, "disk": "sda", "size": len(self.data), "sha512": hashlib.sha512(self.data).hexdigest(), "patience": 5, **more}
        argv = [word for key, value in words.items() for word in (f"--{key}", str(value))]
        status, output, errors = await self.run("image", *argv)
        lines = output.splitlines()
        return status, json.loads(lines[-1]) if lines else {"error": errors}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range", "")
        self.requests.append((request.method, request.path, asked or (await request.text())))
        if self.status != 200:
            return web.Response(status=self.status)
        body = self.data if request.path.endswith(("image", "configdrive")) else self.answers
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        headers = {"Content-Length": str(len(body) - begin)}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        answer = web.StreamResponse(status=206 if begin else 200, headers=headers)
        await answer.prepare(request)
        end = self.breaks_at.pop(0) if self.breaks_at else None
        await answer.write(body[begin:end])
        if end is not None and request.transport:
            request.transport.close()
        return answer


@pytest.fixture
async def house(tmp_path: Path, ramdisk_program: Path) -> AsyncIterator[House]:
    made = House(ramdisk_program, tmp_path)
    app = web.Application()
    app.router.add_route("*", "/boot/n1/secret/{name}", made.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    made.lay_out()
    yield made
    await runner.cleanup()


@pytest.mark.parametrize("size", [1, 511, 4096, MIB, 3 * MIB + 777, 9 * MIB + 1])
async def test_writes_any_size_and_proves_it(house: House, size: int) -> None:
    house.data = os.urandom(size)
    status, state = await house.image()
    assert (status, state["state"], state["phase"], state["bytes"]) == (0, "done", "verify", size)
    assert house.disk.read_bytes() == house.data.ljust(16 * MIB, b"\0")
    status, again = await house.image()
    assert (status, again) == (0, state)
    assert len(house.requests) == 1


async def test_writes_at_an_offset(house: House) -> None:
    house.data = os.urandom(5000)
    status, _ = await house.image(name="configdrive", offset=3 * 512)
    assert status == 0
    assert house.disk.read_bytes()[3 * 512 : 3 * 512 + 5000] == house.data
    assert house.requests[0][1].endswith("/configdrive")


@pytest.mark.parametrize("ranges", [True, False])
async def test_broken_transfers_go_on(house: House, ranges: bool) -> None:
    house.data = os.urandom(5 * MIB)
    house.breaks_at = [MIB + 5, 3 * MIB] if ranges else [4 * MIB]
    house.ranges = ranges
    status, state = await house.image()
    assert (status, state["retries"]) == (0, len(house.requests) - 1)
    assert house.disk.read_bytes()[: 5 * MIB] == house.data
    assert all(int(asked.removeprefix("bytes=").removesuffix("-")) > 0 for _, _, asked in house.requests[1:])


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"sha512": "0" * 128}, "mismatch"), ({"size": 999}, "size"), ({"disk": "sdz"}, "disk")],
)
async def test_failures_are_told_and_may_be_tried_again(house: House, change: dict[str, Any], kind: str) -> None:
    house.data = os.urandom(MIB)
    status, state = await house.image(**change)
    assert (status, state["state"], state["kind"]) == (1, "failed", kind)
    assert state["error"]
    assert (await house.image())[0] == 0


@pytest.mark.parametrize(("answer", "kind"), [(404, "http"), (403, "http"), (503, "network")])
async def test_what_metald_answers(house: House, answer: int, kind: str) -> None:
    house.data, house.status = b"x", answer
    status, state = await house.image(patience=0.2)
    assert (status, state["kind"]) == (1, kind)
    assert str(answer) in state["error"]


async def test_the_writer_outlives_who_started_it_and_is_alone(house: House) -> None:
    house.data = os.urandom(8 * MIB)
    house.breaks_at = [MIB]
    words = ("--disk", "sda", "--size", str(8 * MIB), "--sha512", hashlib.sha512(house.data).hexdigest())
    first = await asyncio.create_subprocess_exec(
        house.program, "image", "--job", "j", *words, stdout=asyncio.subprocess.PIPE, env=house.environment
    )
    assert first.stdout is not None
    await first.stdout.readline()
    first.kill()
    await first.wait()
    status, state = await house.image()
    assert (status, state["state"]) == (0, "done")
    assert sum(not asked for _, _, asked in house.requests) == 1


async def test_a_killed_writer_is_noticed_and_replaced(house: House) -> None:
    jobs = house.folder / "run" / "jobs" / "j"
    jobs.mkdir(parents=True)
    (jobs / "state").write_text('"state":"running","phase":"write","bytes":5')
    house.data = os.urandom(MIB)
    assert (await house.image())[0] == 0
    assert house.disk.read_bytes()[:MIB] == house.data


async def test_read_patch_zero_and_flush(house: House) -> None:
    assert (await house.run("patch", "sda", "100:3", "16777210:6", data=b"abcdefghi"))[0] == 0
    assert (await house.run("read", "sda", "99:5", "16777210:99"))[1] == b"\0abc\0defghi"
    assert (await house.run("zero", "sda", "101:1", "16777212:2"))[0] == 0
    assert (await house.run("read", "sda", "100:3", "16777210:6"))[1] == b"a\0cde\0\0hi"
    assert (await house.run("flush", "sda"))[0] == 0
    before = house.disk.read_bytes()
    status, _, errors = await house.run("patch", "sda", "0:10", data=b"short")
    assert (status, "got 5 of 10" in errors) == (1, True)
    assert house.disk.read_bytes() == before


@pytest.mark.parametrize("name", ["../sda", "", ".", "a/b", "sdz"])
async def test_only_disks_can_be_named(house: House, name: str) -> None:
    for command in (("read", name, "0:1"), ("zero", name, "0:1"), ("flush", name)):
        assert (await house.run(*command))[0] != 0


async def test_disks_are_described_as_the_kernel_does(house: House) -> None:
    place = house.folder / "sys/devices/pci0000:00/ata3/host2/target2:0:0/2:0:0:0/block/sda"
    for name, text in {
        "size": "32768",
        "device/model": 'Odd "model"\\\x07 ',
        "queue/rotational": "1",
        "device/vpd_pg80": "\0\x80\0\3abc",
        "device/wwid": "naa.5000",
    }.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    port = house.folder / "sys/class/ata_port/ata3/port_no"
    port.parent.mkdir(parents=True)
    port.write_text("1\n")
    (house.folder / "sys/block").mkdir()
    (house.folder / "sys/block/sda").symlink_to(place)
    (house.folder / "sys/block/loop0").mkdir()
    _, output, _ = await house.run("disks")
    [line] = output.splitlines()
    seen = json.loads(line)
    assert (seen["name"], seen["size"], seen["ata_port"], seen["device/wwid"]) == ("sda", "32768", "1", "naa.5000")
    assert seen["device/model"] == 'Odd "model"\\\x07'
    assert bytes.fromhex(seen["vpd_pg80"]) == b"\0\x80\0\3abc"
    assert seen["path"] == str(place)


async def test_boot_variables(house: House) -> None:
    folder = house.folder / "sys/firmware/efi/efivars"
    assert await house.run("efivar", "list") == (0, b"", "")
    folder.mkdir(parents=True)
    assert (await house.run("efivar", "put", "Boot0001-x", data=b"\7\0\0\0content"))[0] == 0
    (folder / "Other-x").write_bytes(b"no")
    assert await house.run("efivar", "list") == (0, b"Boot0001-x " + b"\7\0\0\0content".hex().encode() + b"\n", "")
    assert (await house.run("efivar", "put", "../x", data=b""))[0] == 2


async def test_fetch_and_post(house: House) -> None:
    house.answers = os.urandom(100_000)
    assert await house.run("fetch", "dropbear_host_key") == (0, house.answers, "")
    status, _, _ = await house.run("post", "ready", "port=22&uptime=1.5")
    assert status == 0
    assert house.requests[-1] == ("POST", "/boot/n1/secret/ready", "port=22&uptime=1.5")
    house.status = 404
    status, output, errors = await house.run("fetch", "host_key")
    assert (status, output, errors) == (1, b"", "metald answered 404\n")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://host", "not a plain http URL"),
        ("http://", "not a plain http URL"),
        ("http://127.0.0.1:1", "cannot connect"),
        ("", "lacks metald.url"),
    ],
)
async def test_urls_that_lead_nowhere(house: House, url: str, words: str) -> None:
    (house.folder / "run" / "url").write_text(url)
    status, _, errors = await house.run("fetch", "host_key")
    assert status == 1
    assert words in errors


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 206 P\r\n\r\n",
        b"A" * 20000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfew",
    ],
)
async def test_answers_that_are_none(house: House, answer: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        (house.folder / "run" / "url").write_text(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        status, _, errors = await house.run("fetch", "host_key")
    assert status == 1
    assert errors
