"""Builds the SSH ramdisk: a Debian kernel, and an initramfs of busybox, dropbear, kernel modules and metald's own program.

The parts (`base_tree`, `compress`) also make the small operating system of the lab, and the agent's ramdisk.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from metald import __version__
from metald.ramdisk import modules
from metald.ramdisk.cpio import Tree
from metald.ramdisk.packages import BuildError, Debian, Package, missing, run
from metald.ramdisk.recipe import Parts, Recipe, Say, quiet

_LIBRARIES = {
    "libc6": ("libc.so.6",),
    "libcrypt1": ("libcrypt.so.1",),
    "libgmp10": ("libgmp.so.10",),
    "libtomcrypt1": ("libtomcrypt.so.1",),
    "libtommath1": ("libtommath.so.1",),
    "zlib1g": ("libz.so.1",),
}
_LOADERS = {"amd64": ("lib64", "ld-linux-x86-64.so.2"), "arm64": ("lib", "ld-linux-aarch64.so.1")}


def gather(work: Path, recipe: Recipe | None = None, *, say: Say = quiet) -> Parts:
    """Fetch and unpack the packages.

    Args:
        work: directory for what is downloaded; the next build uses it again.

    Raises:
        BuildError: a package or a tool is missing; the text says which.
    """
    recipe = recipe or Recipe()
    debian = Debian(work, recipe.architecture)
    image = debian.kernel_package(recipe.kernel or f"linux-image-cloud-{debian.architecture}")
    say(f"kernel package {image}")
    packages = debian.fetch([image, "busybox-static", "dropbear-bin", *_LIBRARIES])
    return kernel_parts(debian, packages, image)


def kernel_parts(debian: Debian, packages: dict[str, Package], image: str) -> Parts:
    """The kernel and its modules in the package `image`.

    Raises:
        BuildError: it holds none.
    """
    root = packages[image].root
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise BuildError(f"The package {image} holds no kernel.", remedy="Name a linux-image package.")
    version = kernels[0].name.removeprefix("vmlinuz-")
    found = [path for path in (root / "lib/modules" / version, root / "usr/lib/modules" / version) if path.is_dir()]
    if not found:
        raise BuildError(f"The package {image} holds no modules.", remedy="Name a linux-image package.")
    return Parts(debian, kernels[0].read_bytes(), version, found[0], packages)


def base_tree(parts: Parts, wanted: Iterable[str] = modules.WANTED) -> Tree:
    """The tree that every small system of ours starts from: busybox, dropbear, libraries, modules, accounts."""
    tree = Tree()
    for name in ("proc", "sys", "dev", "run", "tmp", "mnt", "var/log", "var/run", "etc/dropbear"):
        tree.directory(name)
    tree.directory("root", 0o700)
    add_busybox(tree, parts, "bin")
    tree.link("sbin/modprobe", "/bin/busybox")  # the kernel calls it by this name for file systems
    for program in ("dropbear", "dropbearkey"):
        tree.file(f"bin/{program}", _find(parts.packages["dropbear-bin"], program).read_bytes(), 0o755)
    for package, names in _LIBRARIES.items():
        for name in names:
            tree.file(f"lib/{name}", _find(parts.packages[package], name).resolve().read_bytes(), 0o755)
    place, loader = _LOADERS[parts.debian.architecture]
    tree.file(f"{place}/{loader}", _find(parts.packages["libc6"], loader).resolve().read_bytes(), 0o755)
    add_modules(tree, parts, wanted)
    tree.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    tree.file("etc/shadow", b"root:*:19000:0:99999:7:::\n", 0o600)
    tree.file("etc/group", b"root:x:0:\n")
    tree.file("etc/shells", b"/bin/sh\n")
    tree.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
    tree.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")
    return tree


def add_busybox(tree: Tree, parts: Parts, place: str, *, beside: tuple[str, ...] = ()) -> None:
    """Add busybox and a link for each of its commands that is in none of the directories `beside`; and the first devices.

    The list of commands comes from busybox itself: of another architecture's package, from the host's of the same version.
    """
    busybox = _find(parts.packages["busybox-static"], "busybox")
    tree.character_device("dev/console", 5, 1)
    tree.character_device("dev/null", 1, 3, 0o666)
    tree.file(f"{place}/busybox", busybox.read_bytes(), 0o755)
    for applet in _applets(parts.debian, busybox):
        if applet not in ("busybox", "init", "linuxrc") and not any(f"{other}/{applet}" in tree for other in beside):
            tree.link(f"{place}/{applet}", "busybox")


def _applets(debian: Debian, busybox: Path) -> list[str]:
    if debian.architecture != debian.native:
        busybox = _find(Debian(debian.work).fetch(["busybox-static"])["busybox-static"], "busybox")
    return run(str(busybox), "--list").split()


def add_modules(tree: Tree, parts: Parts, wanted: Iterable[str]) -> None:
    """Add kernel modules and the indexes that busybox's `modprobe` reads."""
    chosen = modules.choose(parts.modules_root, wanted)
    below = f"lib/modules/{parts.kernel_version}"
    for module in chosen:
        tree.file(f"{below}/{module.path}", module.data)
    for name, text in modules.indexes(chosen).items():
        tree.file(f"{below}/{name}", text.encode())
    for name in ("modules.builtin", "modules.order"):
        tree.file(f"{below}/{name}", b"")


def add_firmware(tree: Tree, recipe: Recipe, place: str) -> None:
    """Add the recipe's directories of firmware, laid out as below `/lib/firmware`.

    Raises:
        BuildError: a directory holds no file.
    """
    for directory in recipe.firmware:
        files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
        if not files:
            raise BuildError(f"The firmware directory {directory} holds no file.")
        for path in files:
            tree.file(f"{place}/{path.relative_to(directory)}", path.read_bytes())


def _find(package: Package, name: str) -> Path:
    for path in sorted(package.root.rglob(name)):
        if path.is_file() and "initramfs" not in path.parts and "share" not in path.parts:
            return path
    raise BuildError(f"The package {package.name} {package.version} has no {name}.")


def own_file(name: str) -> bytes:
    """One of the scripts of `files/`."""
    return resources.files(__package__).joinpath("files", name).read_bytes()


def compile_program(compiler: str = "gcc") -> bytes:
    """Compile `source/*.c` to the program `metald-ramdisk`.

    Raises:
        BuildError: there is no such C compiler.
    """
    with tempfile.TemporaryDirectory() as directory, resources.as_file(resources.files(__package__).joinpath("source")) as source:
        output = Path(directory) / "metald-ramdisk"
        files = sorted(path.name for path in source.glob("*.c"))
        flags = (
            "-std=gnu11",
            "-O2",
            "-D_GNU_SOURCE",
            "-D_FILE_OFFSET_BITS=64",
            "-Wall",
            "-Wextra",
            "-pthread",
            "-s",
            "-Wl,--build-id=none",
        )
        run(compiler, *flags, "-Wl,--build-id=none", "-o", str(output), *files, cwd=source)
        return output.read_bytes()


def compress(archive: bytes) -> bytes:
    """Compress an initramfs so that the kernel unpacks it fast.

    Raises:
        BuildError: the host has no zstd.
    """
    try:
        done = subprocess.run(["zstd", "-12", "--no-progress", "-q", "-c"], input=archive, capture_output=True, check=True, timeout=300)
    except FileNotFoundError:
        raise missing("zstd") from None
    return done.stdout


def build(output: Path, work: Path, recipe: Recipe | None = None, *, say: Say = quiet) -> dict[str, object]:
    """Make `kernel`, `initramfs` and `manifest.json` in `output`, and return the manifest.

    Raises:
        BuildError: a package or a tool is missing; the text says which and how to get it.
    """
    recipe = recipe or Recipe()
    parts = gather(work, recipe, say=say)
    tree = base_tree(parts, (*modules.WANTED, *recipe.modules))
    tree.file("init", own_file("init"), 0o755)
    tree.file("etc/metald/dhcp", own_file("dhcp"), 0o755)
    tree.file("etc/acpi/PWRF/00000080", own_file("power"), 0o755)
    foreign = parts.debian.architecture != parts.debian.native
    tree.file("bin/metald-ramdisk", compile_program(f"{parts.debian.multiarch}-gcc" if foreign else "gcc"), 0o755)
    if recipe.keys:
        tree.file("etc/metald/authorized_keys", recipe.authorized_keys, 0o600)
    add_firmware(tree, recipe, "lib/firmware")
    say("compressing")
    return write(output, manifest("ssh", parts), parts.kernel, compress(tree.pack(recipe.epoch)))


def manifest(agent: str, parts: Parts) -> dict[str, object]:
    """What a ramdisk was made of."""
    return {
        "metald": __version__,
        "agent": agent,
        "architecture": parts.debian.architecture,
        "kernel_version": parts.kernel_version,
        "packages": {name: {"version": one.version, "sha256": one.sha256} for name, one in sorted(parts.packages.items())},
    }


def write(output: Path, facts: dict[str, object], kernel: bytes, initramfs: bytes) -> dict[str, object]:
    """Write the three files, each at once, and return the manifest: the facts, and size and SHA-256 of the files."""
    whole = facts | {"files": {name: _facts(data) for name, data in (("kernel", kernel), ("initramfs", initramfs))}}
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(whole, indent=2, sort_keys=True) + "\n"
    for name, data in (("kernel", kernel), ("initramfs", initramfs), ("manifest.json", text.encode())):
        partial = output / f".{name}.partial"
        partial.write_bytes(data)
        partial.replace(output / name)
    return whole


def _facts(data: bytes) -> dict[str, object]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
