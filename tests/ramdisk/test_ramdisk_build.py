"""The ramdisk as a whole. Needs the package registry, as building it does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from metald.ramdisk.build import build
from metald.ramdisk.packages import BuildError, Debian, run
from metald.ramdisk.recipe import Recipe

pytestmark = pytest.mark.qemu


def test_the_same_packages_give_the_same_bytes(tmp_path: Path) -> None:
    first = build(tmp_path / "one", tmp_path / "work")
    second = build(tmp_path / "two", tmp_path / "work")
    assert first == second
    for name in ("kernel", "initramfs", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads((tmp_path / "one" / "manifest.json").read_text()) == first
    total = sum((tmp_path / "one" / name).stat().st_size for name in ("kernel", "initramfs"))
    assert 15e6 < total < 25e6
    packed = subprocess.run(["zstd", "-dqc", tmp_path / "one" / "initramfs"], check=True, capture_output=True).stdout
    names = subprocess.run(["cpio", "-t", "--quiet"], input=packed, check=True, capture_output=True).stdout.decode().split()
    assert names == sorted(names)
    assert {"init", "bin/metald-ramdisk", "bin/dropbear", "bin/busybox", "lib/libc.so.6"} <= set(names)
    assert any(name.endswith("virtio_net.ko") for name in names)


def test_modules_firmware_and_keys_by_option(tmp_path: Path) -> None:
    (tmp_path / "firmware" / "acme").mkdir(parents=True)
    (tmp_path / "firmware" / "acme" / "card.bin").write_bytes(b"words of a card")
    recipe = Recipe(modules=("dummy",), firmware=(tmp_path / "firmware",), keys=("ssh-ed25519 AAAA me",))
    build(tmp_path / "made", tmp_path / "work", recipe)
    packed = subprocess.run(["zstd", "-dqc", tmp_path / "made" / "initramfs"], check=True, capture_output=True).stdout
    subprocess.run(["cpio", "-idm", "--quiet", "--no-absolute-filenames", "etc/*", "lib/*"], input=packed, cwd=tmp_path, check=True)
    assert (tmp_path / "lib/firmware/acme/card.bin").read_bytes() == b"words of a card"
    assert (tmp_path / "etc/metald/authorized_keys").read_text() == "ssh-ed25519 AAAA me\n"
    assert list((tmp_path / "lib/modules").rglob("dummy.ko"))


def test_libraries_are_followed_to_any_depth(tmp_path: Path) -> None:
    names = Debian(tmp_path).with_libraries(["nvme-cli"])
    assert {"nvme-cli", "libnvme1", "libc6", "zlib1g"} <= set(names)
    assert "uuid-runtime" not in names


def test_missing_packages_and_tools_are_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"linux-image-of-nobody.*apt-get update"):
        Debian(tmp_path).fetch(["linux-image-of-nobody"])
    with pytest.raises(BuildError, match=r"no-such-tool is not installed\. Install it: apt-get install no-such-tool"):
        run("no-such-tool")
