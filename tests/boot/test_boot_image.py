"""Images for UEFI HTTP boot: the file system by the field's own tools, and the server that makes them while it sends."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metald.boot import fat
from metald.boot.files import BootFiles
from metald.boot.http import BootHttp
from metald.config import Settings
from metald.model import Node
from tests.support.boot_fleet import MAC, Fleet, boot_settings
from tests.support.far_server import far_server

DASHED = MAC.replace(":", "-")


def written(files: Mapping[str, bytes]) -> bytes:
    made = b""
    for gap in fat.layout({name: len(data) for name, data in files.items()}, 7):
        made += gap.data + (files[gap.file] if gap.file else b"")
    return made


def run(*argv: str) -> bytes:
    return subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 100_000, 40_000_000])
def test_the_fields_own_tools_read_it(tmp_path: Path, size: int) -> None:
    rest = random.Random(size)
    files = {
        "EFI/BOOT/BOOTX64.EFI": rest.randbytes(100_003),
        "EFI/BOOT/GRUBX64.EFI": rest.randbytes(5000),
        "GRUB/GRUB.CFG": b"hello",
        "KERNEL": rest.randbytes(size),
        "INITRD": bytes(size // 2),
        "EMPTY": b"",
    }
    image = tmp_path / "boot.img"
    image.write_bytes(written(files))
    run("fsck.fat", "-n", str(image))
    for name, data in files.items():
        assert run("mtype", "-i", str(image), f"::/{name}") == data


@given(st.lists(st.integers(0, 60_000), max_size=12))
@settings(max_examples=40)
def test_whatever_sizes_the_files_have(sizes: list[int]) -> None:
    files = {f"A{number % 3}/F{number}": bytes([number]) * size for number, size in enumerate(sizes)}
    made = written(files)
    sectors = int.from_bytes(made[19:21], "little") or int.from_bytes(made[32:36], "little")
    assert len(made) == sectors * fat.SECTOR
    assert made[510:512] == b"\x55\xaa"


def test_what_does_not_fit() -> None:
    assert sum(len(gap.data) for gap in fat.layout({"KERNEL": 2_000_000_000}, 0)) < 1 << 20
    with pytest.raises(fat.TooBig, match="do not fit"):
        fat.layout({"KERNEL": 3_000_000_000}, 0)
    with pytest.raises(fat.TooBig, match="too many files"):
        fat.layout({f"A/F{number}": 1 for number in range(100)}, 0)
    for name in ("a.b", "TOOLONGNAME", "A/B.FOUR", "A B", "../A"):
        with pytest.raises(ValueError, match="short names"):
            fat.layout({name: 1}, 0)


class Site:
    """A boot HTTP server with shim and GRUB."""

    def __init__(self, folder: Path) -> None:
        loaders = []
        for name in ("bootx64.efi", "grubx64.efi"):
            (folder / name).write_bytes(name.encode() * 1000)
            loaders.append(f"{name}:{folder / name}")
        self.folder, self.fleet = folder, Fleet()
        self.settings: Settings = boot_settings(folder, loader_file_paths=loaders)
        self.files = BootFiles(self.fleet, self.settings)
        self.server = BootHttp(self.fleet, self.files, self.settings)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.addresses[0][1]}"

    def node(self, **info: Any) -> Node:
        node = self.fleet.boot(self.fleet.add(MAC, boot_interface="http"))
        return self.fleet.change(node, driver_internal_info={**node.driver_internal_info, **info})


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    await made.server.start()
    yield made
    await made.server.close()
    await made.files.fills.close()


@pytest.fixture
async def web(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    # The firmware's own name, and a Host without a port, as it sends.
    headers = {"User-Agent": "UefiHttpBoot/1.0", "Host": "127.0.0.1"}
    async with aiohttp.ClientSession(site.base, headers=headers, timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


async def content(image: bytes, folder: Path, name: str) -> bytes:
    path = folder / "got.img"
    path.write_bytes(image)
    return await asyncio.to_thread(run, "mtype", "-i", str(path), f"::/{name}")


async def test_the_image_of_a_node(site: Site, web: aiohttp.ClientSession, tmp_path: Path) -> None:
    node = site.node()
    path = f"/uefi/{DASHED}/boot.img"
    async with web.head(path) as answer:
        head = answer.headers
        assert (answer.status, head["Content-Type"]) == (200, "application/vnd.efi-img")
    async with web.get(path) as answer:
        image = await answer.read()
        assert len(image) == int(head["Content-Length"])
        assert answer.headers["ETag"] == head["ETag"]
    (tmp_path / "x.img").write_bytes(image)
    await asyncio.to_thread(run, "fsck.fat", "-n", str(tmp_path / "x.img"))
    assert await content(image, tmp_path, "KERNEL") == (tmp_path / "ramdisk/kernel").read_bytes()
    assert await content(image, tmp_path, "INITRD") == (tmp_path / "ramdisk/initramfs").read_bytes()
    assert await content(image, tmp_path, "EFI/BOOT/BOOTX64.EFI") == b"bootx64.efi" * 1000
    assert await content(image, tmp_path, "EFI/BOOT/GRUBX64.EFI") == b"grubx64.efi" * 1000
    configuration = (await content(image, tmp_path, "GRUB/GRUB.CFG")).decode()
    token = node.driver_internal_info["boot_token"]
    assert "linux /KERNEL " in configuration
    assert f"'BOOTIF=01-{DASHED}' 'metald.url={site.base}' 'metald.node={node.uuid}' 'metald.token={token}'" in configuration
    assert "initrd /INITRD;" in configuration
    # Pieces of it, across the files' borders, are the same bytes.
    for first, last in ((0, 9), (500, 700_000), (len(image) - 3, len(image) - 1)):
        async with web.get(path, headers={"Range": f"bytes={first}-{last}"}) as answer:
            assert (answer.status, await answer.read()) == (206, image[first : last + 1])
    told, facts = await site.fleet.event("node.http", f"uefi/{DASHED}/boot.img")
    assert (told, facts["status"]) == (node.uuid, 200)
    assert token not in str(site.fleet.events)


async def test_the_image_by_address(site: Site, web: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DHCP server that knows nothing of nodes names one file for all."""
    site.node()
    async with web.get("/uefi/boot.img") as answer:
        assert answer.status == 404
    assert (await site.fleet.event("boot.unknown"))[1]["mac"] == []
    monkeypatch.setattr(site.files.clients, "mac_of", lambda address: MAC)
    async with web.get("/uefi/boot.img") as answer:
        assert answer.status == 200
    monkeypatch.setattr(site.files.clients, "mac_of", lambda address: "52:54:00:00:00:99")
    for path in ("/uefi/boot.img", f"/uefi/{DASHED}/boot.img"):
        async with web.get(path) as answer:
            assert answer.status == 403
            assert "no port of that node" in await answer.text()


async def test_a_node_that_boots_from_its_disk_has_none(site: Site, web: aiohttp.ClientSession) -> None:
    node = site.node()
    site.fleet.change(node, driver_internal_info={})
    async with web.get(f"/uefi/{DASHED}/boot.img") as answer:
        assert answer.status == 404
    _, facts = await site.fleet.event("node.http", f"uefi/{DASHED}/boot.img")
    assert "error" not in facts
    async with web.get("/uefi/aa-bb-cc-dd-ee-ff/boot.img") as answer:
        assert answer.status == 404
    assert (await site.fleet.event("boot.unknown"))[1]["mac"] == ["aa:bb:cc:dd:ee:ff"]


async def test_an_iso_image_is_sent_as_it_is(site: Site, web: aiohttp.ClientSession) -> None:
    async with far_server({"live.iso": b"iso" * 1000}) as far:
        boot = {"boot_instance": {"kind": "iso", "iso": f"{far.url}/live.iso"}, "boot_instance_token": "t" * 43}
        site.fleet.change(site.node(), driver_internal_info=boot)
        async with web.get(f"/uefi/{DASHED}/boot.iso") as answer:
            assert answer.headers["Content-Type"] == "application/vnd.efi-iso"
            assert await answer.read() == b"iso" * 1000


async def test_files_of_other_servers_and_files_that_are_missing(site: Site, web: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with far_server({"k": b"far kernel"}) as far:
        site.node(boot_agent={"kernel": f"{far.url}/k", "ramdisk": f"{far.url}/k"})
        async with web.get(f"/uefi/{DASHED}/boot.img") as answer:
            assert await content(await answer.read(), tmp_path, "KERNEL") == b"far kernel"
    site.fleet.boot(next(iter(site.fleet.nodes.values())))
    (tmp_path / "grubx64.efi").unlink()
    async with web.get(f"/uefi/{DASHED}/boot.img") as answer:
        assert answer.status == 404
        assert "boot.loader_file_paths" in await answer.text()


async def test_shim_and_grub_file_by_file(site: Site, web: aiohttp.ClientSession) -> None:
    """`boot.http_boot = loader`: shim asks for GRUB beside itself with two slashes, GRUB for its configuration by its card."""
    node = site.node()
    for path, wanted in (("/bootx64.efi", b"bootx64.efi" * 1000), ("//grubx64.efi", b"grubx64.efi" * 1000)):
        async with web.get(f"{site.base}{path}") as answer:
            assert await answer.read() == wanted
    async with web.get("/grub/grub.cfg") as answer:
        assert "grub.cfg-01-$net_default_mac" in await answer.text()
    async with web.get(f"/grub/grub.cfg-01-{MAC}") as answer:
        assert f"linux /boot/{node.uuid}/" in await answer.text()
    async with web.get("/grub/x86_64-efi/command.lst") as answer:
        assert answer.status == 404
    _, facts = await site.fleet.event("node.http", "grub/x86_64-efi/command.lst")
    assert "error" not in facts
