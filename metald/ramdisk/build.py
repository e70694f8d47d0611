"""Builds the ramdisk: a Debian kernel, and an initramfs of busybox, dropbear, kernel modules and metald's own program.

The parts (`base_tree`, `compress`) also make the small operating system of the lab.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from metald import __version__
from metald.ramdisk import modules
from metald.ramdisk.cpio import Tree
from metald.ramdisk.packages import BuildError, Package, fetch, kernel_package, run

CLOUD_KERNEL = "linux-image-cloud-amd64"
_LIBRARIES = {
    "libc6": ("libc.so.6", "ld-linux-x86-64.so.2"),
    "libcrypt1": ("libcrypt.so.1",),
    "libgmp10": ("libgmp.so.10",),
    "libtomcrypt1": ("libtomcrypt.so.1",),
    "libtommath1": ("libtommath.so.1",),
    "zlib1g": ("libz.so.1",),
}
_EPOCH = 1_700_000_000
"""Modification time of everything inside, unless SOURCE_DATE_EPOCH says otherwise."""

Say = Callable[[str], None]


def _quiet(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Parts:
    """What a ramdisk is made of."""

    kernel: bytes
    kernel_version: str
    modules_root: Path
    packages: dict[str, Package]


def gather(work: Path, *, kernel: str = CLOUD_KERNEL, say: Say = _quiet) -> Parts:
    """Fetch and unpack the packages.

    Args:
        work: directory for what is downloaded; the next build uses it again.
        kernel: Debian package of the kernel, or a meta package that leads to it.

    Raises:
        BuildError: a package or a tool is missing; the text says which.
    """
    image = kernel_package(kernel)
    say(f"kernel package {image}")
    packages = fetch([image, "busybox-static", "dropbear-bin", *_LIBRARIES], work)
    root = packages[image].root
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise BuildError(f"The package {image} holds no kernel.", remedy="Name a linux-image package.")
    version = kernels[0].name.removeprefix("vmlinuz-")
    found = [path for path in (root / "lib/modules" / version, root / "usr/lib/modules" / version) if path.is_dir()]
    if not found:
        raise BuildError(f"The package {image} holds no modules.", remedy="Name a linux-image package.")
    return Parts(kernels[0].read_bytes(), version, found[0], packages)


def base_tree(parts: Parts, wanted: Iterable[str] = modules.WANTED) -> Tree:
    """The tree that every small system of ours starts from: busybox, dropbear, libraries, modules, accounts."""
    tree = Tree()
    for name in ("proc", "sys", "dev", "run", "tmp", "mnt", "var/log", "var/run", "etc/dropbear"):
        tree.directory(name)
    tree.directory("root", 0o700)
    tree.character_device("dev/console", 5, 1)
    tree.character_device("dev/null", 1, 3, 0o666)
    busybox = _find(parts.packages["busybox-static"], "busybox")
    tree.file("bin/busybox", busybox.read_bytes(), 0o755)
    for applet in run(str(busybox), "--list").split():
        if applet not in ("busybox", "init", "linuxrc"):
            tree.link(f"bin/{applet}", "busybox")
    tree.link("sbin/modprobe", "/bin/busybox")  # the kernel calls it by this name for file systems
    for program in ("dropbear", "dropbearkey"):
        tree.file(f"bin/{program}", _find(parts.packages["dropbear-bin"], program).read_bytes(), 0o755)
    for package, names in _LIBRARIES.items():
        for name in names:
            place = "lib64" if name.startswith("ld-") else "lib"
            tree.file(f"{place}/{name}", _find(parts.packages[package], name).resolve().read_bytes(), 0o755)
    _add_modules(tree, parts, wanted)
    tree.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    tree.file("etc/shadow", b"root:*:19000:0:99999:7:::\n", 0o600)
    tree.file("etc/group", b"root:x:0:\n")
    tree.file("etc/shells", b"/bin/sh\n")
    tree.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
    tree.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")
    return tree


def _add_modules(tree: Tree, parts: Parts, wanted: Iterable[str]) -> None:
    chosen = modules.choose(parts.modules_root, wanted)
    below = f"lib/modules/{parts.kernel_version}"
    for module in chosen:
        tree.file(f"{below}/{module.path}", module.data)
    for name, text in modules.indexes(chosen).items():
        tree.file(f"{below}/{name}", text.encode())
    for name in ("modules.builtin", "modules.order"):
        tree.file(f"{below}/{name}", b"")


def _find(package: Package, name: str) -> Path:
    for path in sorted(package.root.rglob(name)):
        if path.is_file() and "initramfs" not in path.parts and "share" not in path.parts:
            return path
    raise BuildError(f"The package {package.name} {package.version} has no {name}.")


def own_file(name: str) -> bytes:
    """One of the scripts of `files/`."""
    return resources.files(__package__).joinpath("files", name).read_bytes()


def compile_program() -> bytes:
    """Compile `source/*.c` to the program `metald-ramdisk`.

    Raises:
        BuildError: there is no C compiler.
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
        run("gcc", *flags, "-Wl,--build-id=none", "-o", str(output), *files, cwd=source)
        return output.read_bytes()


def compress(archive: bytes) -> bytes:
    """Compress an initramfs so that the kernel unpacks it fast.

    Raises:
        BuildError: the host has no zstd.
    """
    try:
        done = subprocess.run(["zstd", "-12", "--no-progress", "-q", "-c"], input=archive, capture_output=True, check=True, timeout=300)
    except FileNotFoundError:
        raise BuildError("The ramdisk cannot be built: zstd is not installed.", remedy="Install it: apt-get install zstd.") from None
    return done.stdout


def build(output: Path, work: Path, *, kernel: str = CLOUD_KERNEL, epoch: int | None = None, say: Say = _quiet) -> dict[str, object]:
    """Make `kernel`, `initramfs` and `manifest.json` in `output`, and return the manifest.

    Args:
        epoch: seconds since 1970 that every file inside carries.

    Raises:
        BuildError: a package or a tool is missing; the text says which and how to get it.
    """
    parts = gather(work, kernel=kernel, say=say)
    tree = base_tree(parts)
    tree.file("init", own_file("init"), 0o755)
    tree.file("etc/metald/dhcp", own_file("dhcp"), 0o755)
    tree.file("etc/acpi/PWRF/00000080", own_file("power"), 0o755)
    tree.file("bin/metald-ramdisk", compile_program(), 0o755)
    say("compressing")
    initramfs = compress(tree.pack(_EPOCH if epoch is None else epoch))
    manifest: dict[str, object] = {
        "metald": __version__,
        "kernel_version": parts.kernel_version,
        "packages": {name: {"version": one.version, "sha256": one.sha256} for name, one in sorted(parts.packages.items())},
        "files": {name: _facts(data) for name, data in (("kernel", parts.kernel), ("initramfs", initramfs))},
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, data in (
        ("kernel", parts.kernel),
        ("initramfs", initramfs),
        ("manifest.json", (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()),
    ):
        partial = output / f".{name}.partial"
        partial.write_bytes(data)
        partial.replace(output / name)
    return manifest


def _facts(data: bytes) -> dict[str, object]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
