"""The archive and the choice of kernel modules."""

from __future__ import annotations

import lzma
import struct
import subprocess
from pathlib import Path

from metald.ramdisk.cpio import Tree
from metald.ramdisk.modules import choose, indexes


def test_cpio_unpacks_what_was_put_in_and_is_the_same_in_any_order(tmp_path: Path) -> None:
    def tree(names: list[str]) -> bytes:
        made = Tree()
        for name in names:
            made.file(name, name.encode() * 100, 0o750)
        made.link("bin/sh", "busybox")
        made.directory("root", 0o700)
        return made.pack(1_700_000_000)

    packed = tree(["etc/one", "bin/deep/er/two"])
    assert packed == tree(["bin/deep/er/two", "etc/one"])
    subprocess.run(["cpio", "-idm", "--quiet"], input=packed, cwd=tmp_path, check=True)
    assert (tmp_path / "bin/deep/er/two").read_bytes() == b"bin/deep/er/two" * 100
    assert (tmp_path / "etc/one").stat().st_mode & 0o7777 == 0o750
    assert (tmp_path / "etc/one").stat().st_mtime == 1_700_000_000
    assert (tmp_path / "bin/sh").readlink() == Path("busybox")
    assert (tmp_path / "root").stat().st_mode & 0o7777 == 0o700


def module(info: bytes) -> bytes:
    """The smallest ELF file with a `.modinfo` section."""
    names = b"\0.modinfo\0.shstrtab\0"
    body = bytes(64) + info + names
    place = len(body)
    header = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    header += struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, 64, len(info), 0, 0, 1, 0)
    header += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, 64 + len(info), len(names), 0, 0, 1, 0)
    elf = b"\x7fELF\x02\x01".ljust(0x28, b"\0") + struct.pack("<Q", place) + bytes(10) + struct.pack("<HHH", 64, 3, 2)
    return elf + body[64:] + header


def test_modules_come_with_what_they_need_in_the_order_to_load(tmp_path: Path) -> None:
    for name, info in {
        "a/card.ko": b"alias=pci:v1*\0depends=bus-one,lib\0softdep=pre: phy post: gone\0",
        "bus_one.ko": b"depends=lib\0",
        "lib.ko": b"depends=\0",
        "phy.ko": b"alias=mdio:*\0depends=\0",
        "unwanted.ko": b"depends=lib\0",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(module(info))
    (tmp_path / "packed.ko.xz").write_bytes(lzma.compress(module(b"depends=lib\0")))
    found = choose(tmp_path, ["card", "packed", "not-there"])
    assert [one.path for one in found] == ["a/card.ko", "bus_one.ko", "lib.ko", "packed.ko", "phy.ko"]
    text = indexes(found)
    lines = dict(line.split(":", 1) for line in text["modules.dep"].splitlines())
    assert lines["a/card.ko"].split() == ["bus_one.ko", "lib.ko"]
    assert lines["lib.ko"] == ""
    assert text["modules.alias"] == "alias pci:v1* card\nalias mdio:* phy\n"
