"""The parts of the agent's ramdisk that need no package registry: choosing files, finding libraries, packing, options."""

from __future__ import annotations

import argparse
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from metald.cli import ramdisk as cli
from metald.ramdisk import python
from metald.ramdisk.cpio import Tree
from metald.ramdisk.elf import linkage
from metald.ramdisk.modules import choose
from metald.ramdisk.packages import BuildError, Debian, Package
from metald.ramdisk.recipe import EPOCH
from metald.ramdisk.rootfs import Root
from metald.ramdisk.squashfs import pack
from tests.ramdisk.test_ramdisk_archive import module

TRUE = Path(shutil.which("true") or "/bin/true").resolve()
MULTIARCH = "x86_64-linux-gnu"


def package(folder: Path, name: str, files: dict[str, bytes | str]) -> Package:
    """An unpacked package; a text is the target of a link."""
    root = folder / name
    for path, content in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            place.symlink_to(content)
        else:
            place.write_bytes(content)
            place.chmod(0o755)
    return Package(name, "1.0", "0" * 64, root)


def library(name: str) -> bytes:
    found = sorted(path for top in ("/lib", "/usr/lib") for path in Path(top).rglob(name))
    return found[0].read_bytes()


def root_of(tmp_path: Path, *, with_libc: bool = True) -> Root:
    found = linkage(TRUE.read_bytes())
    assert found is not None
    loader = Path(found.interpreter).name
    libc = {f"lib/{MULTIARCH}/{name}": library(name) for name in ("libc.so.6", loader)}
    packages = {
        "tool": package(
            tmp_path, "tool", {"bin/tool": TRUE.read_bytes(), "usr/share/doc/tool/copyright": b"words", "sbin/again": "/bin/tool"}
        ),
        "libc6": package(tmp_path, "libc6", libc if with_libc else {"etc/nothing": b""}),
    }
    return Root(packages, MULTIARCH)


def test_programs_come_with_their_libraries_and_the_loader(tmp_path: Path) -> None:
    root = root_of(tmp_path)
    root.take("tool", ("usr/bin/*", "usr/sbin/*", "!*/doc/*"))
    root.add_libraries()
    entries = {name: (mode, data) for name, mode, data, _ in root.tree.entries()}
    assert stat.S_ISREG(entries["usr/bin/tool"][0])
    assert entries["usr/sbin/again"][1] == b"/bin/tool"
    assert f"usr/lib/{MULTIARCH}/libc.so.6" in entries
    assert entries["bin"][1] == b"usr/bin"
    assert "usr/share/doc/tool/copyright" not in entries
    loaders = [data for name, (mode, data) in entries.items() if stat.S_ISLNK(mode) and "ld-linux" in name]
    assert loaders
    assert loaders[0].startswith(f"/usr/lib/{MULTIARCH}/ld-linux".encode())


def test_what_a_package_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"The package tool 1\.0 has no usr/bin/other"):
        root_of(tmp_path).take("tool", ("usr/bin/tool", "usr/bin/other"))


def test_a_library_that_nobody_brings_is_named_with_who_needs_it(tmp_path: Path) -> None:
    root = root_of(tmp_path, with_libc=False)
    root.take("tool", ("usr/bin/tool",))
    with pytest.raises(BuildError, match=r"usr/bin/tool needs libc\.so\.6, which no package brings"):
        root.add_libraries()


def test_only_elf_files_are_linked() -> None:
    assert linkage(b"#!/bin/sh\n") is None
    found = linkage(TRUE.read_bytes())
    assert found is not None
    assert "libc.so.6" in found.needed


def test_packed_trees_are_whole_and_the_same(tmp_path: Path) -> None:
    tree = Tree()
    tree.file("usr/bin/sudo", b"x" * 200_000, 0o4755)
    tree.link("bin", "usr/bin")
    tree.directory("tmp", 0o1777)
    tree.character_device("dev/null", 1, 3, 0o666)
    for name in ("one", "two"):
        pack(tree, tmp_path / name, EPOCH)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    listed = subprocess.run(
        ["unsquashfs", "-lls", tmp_path / "one"], check=True, capture_output=True, text=True, env={"TZ": "UTC", "PATH": "/usr/bin"}
    )
    lines = {line.split()[5]: line for line in listed.stdout.splitlines() if "squashfs-root/" in line}
    assert lines["squashfs-root/usr/bin/sudo"].startswith("-rwsr-xr-x root/root")
    assert all("2023-11-14 22:13" in line for line in listed.stdout.splitlines() if "squashfs-root" in line)
    assert lines["squashfs-root/tmp"].startswith("drwxrwxrwt")
    assert "squashfs-root/bin -> usr/bin" in listed.stdout
    assert any(line.startswith("crw-rw-rw-") for line in listed.stdout.splitlines())


def test_no_packer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"mksquashfs is not installed\. Install it: apt-get install squashfs-tools"):
        pack(Tree(), tmp_path / "packed", EPOCH)


def test_a_directory_of_modules(tmp_path: Path) -> None:
    for name in ("kernel/drivers/net/one.ko", "kernel/drivers/net/deep/two.ko", "kernel/sound/three.ko"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(module(b"depends=\0"))
    assert [one.name for one in choose(tmp_path, ["kernel/drivers/net/"])] == ["two", "one"]


def test_wheels_are_unpacked_without_what_nobody_imports(tmp_path: Path) -> None:
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (
            "thing/__init__.py",
            "thing/tests/test_it.py",
            "thing/part.pyi",
            "thing-1.0.dist-info/METADATA",
            "thing-1.0.dist-info/RECORD",
        ):
            archive.writestr(name, "words")
        archive.writestr("thing-1.0.data/purelib/other.py", "more")
        archive.writestr("thing-1.0.data/scripts/run", "no")
    python._unpack(wheel, tmp_path / "site")
    found = sorted(str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*") if path.is_file())
    assert found == ["other.py", "thing-1.0.dist-info/METADATA", "thing/__init__.py"]
    assert python.describe([wheel])["thing"]["version"] == "1.0"


def test_a_wheel_that_reaches_out_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("../../evil.py", "words")
    with pytest.raises(BuildError, match="reaches out"):
        python._unpack(wheel, tmp_path / "site")


def test_architectures_and_names(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"No ramdisk can be built for riscv64\. Known are amd64, arm64"):
        Debian(tmp_path, "riscv64")
    with pytest.raises(BuildError, match="no name of a Debian package"):
        Debian(tmp_path).describe(["--option"])


def asked(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args(["build", *argv])


def test_options_make_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")
    key = tmp_path / "id.pub"
    key.write_text("# mine\nssh-ed25519 AAAAC3Nz me@here\n")
    authority = tmp_path / "ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")
    given = ["--agent", "ipa", "--ssh-key", str(key), "--ca-file", str(authority), "--module", "a", "--module", "b/", "--package", "fio"]
    recipe = cli.recipe(asked(*given, "--firmware", str(tmp_path), "--arch", "arm64", "--kernel", "linux-image-rt-arm64"))
    assert (recipe.keys, recipe.modules, recipe.packages, recipe.epoch) == (("ssh-ed25519 AAAAC3Nz me@here",), ("a", "b/"), ("fio",), 5)
    assert (recipe.architecture, recipe.kernel, recipe.firmware) == ("arm64", "linux-image-rt-arm64", (tmp_path,))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--package", "fio"], "--package is for --agent ipa alone"),
        (["--ssh-key", "PRIVATE"], r"this is no public key\. Give the file that ends with \.pub"),
        (["--agent", "ipa", "--ca-file", "PRIVATE"], "this is no certificate in PEM form"),
        (["--firmware", "PRIVATE"], "there is no such directory"),
    ],
)
def test_wrong_options_are_told(argv: list[Any], words: str, tmp_path: Path) -> None:
    private = tmp_path / "id"
    private.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(BuildError, match=words):
        cli.recipe(asked(*[str(private) if word == "PRIVATE" else word for word in argv]))
