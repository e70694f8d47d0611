"""Builds the ramdisk of the Ironic Python Agent: Debian's kernel and tools, and the unmodified agent from PyPI.

The initramfs holds busybox, three modules and one packed file system (`root.squashfs`) that is mounted, not unpacked:
a machine keeps the packed bytes in memory and reads what it uses. There is no systemd; busybox is the first process,
`udevd` finds the devices, `dhcpcd` the addresses (see `files/agent/`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from metald import __version__
from metald.ramdisk import modules
from metald.ramdisk.build import add_busybox, add_firmware, add_modules, kernel_parts, manifest, own_file, write
from metald.ramdisk.cpio import Tree
from metald.ramdisk.packages import Debian, run
from metald.ramdisk.python import Python, describe
from metald.ramdisk.recipe import Parts, Recipe, Say, quiet
from metald.ramdisk.rootfs import Root
from metald.ramdisk.squashfs import pack

_PROGRAMS: dict[str, tuple[str, ...]] = {
    "bash": ("usr/bin/bash",),
    "bsdextrautils": ("usr/bin/hexdump",),
    "chrony": ("usr/sbin/chronyd", "usr/bin/chronyc"),
    "coreutils": ("usr/bin/*",),
    "dash": ("usr/bin/dash",),
    "dhcpcd-base": (
        "usr/sbin/dhcpcd",
        "usr/lib/dhcpcd/dhcpcd-run-hooks",
        "usr/lib/dhcpcd/*/20-resolv.conf",
        "usr/lib/*/dhcpcd/dev/udev.so",
    ),
    "dmidecode": ("usr/sbin/*",),
    "dosfstools": ("usr/sbin/*",),
    "dropbear-bin": ("usr/sbin/dropbear", "usr/bin/dropbearkey"),
    "e2fsprogs": ("usr/sbin/*", "etc/mke2fs.conf", "!usr/sbin/e2scrub*"),
    "efibootmgr": ("usr/bin/efibootmgr",),
    "ethtool": ("usr/sbin/ethtool",),
    "fdisk": ("usr/sbin/*",),
    "file": ("usr/bin/file",),
    "gdisk": ("usr/sbin/*",),
    "genisoimage": ("usr/bin/genisoimage",),
    "hdparm": ("usr/sbin/hdparm",),
    "iproute2": ("usr/bin/ip", "usr/sbin/ip", "usr/bin/ss"),
    "ipmitool": ("usr/bin/ipmitool",),
    "kmod": ("usr/bin/kmod", "usr/sbin/*", "usr/bin/lsmod"),
    "kpartx": ("usr/sbin/kpartx", "usr/lib/udev/*"),
    "libc-bin": ("usr/sbin/ldconfig", "etc/ld.so.conf*", "usr/bin/getent", "usr/lib/locale/C.utf8/*"),
    "libc6": ("etc/ld.so.conf.d/*",),
    "libgcc-s1": ("usr/lib/*/libgcc_s.so.1",),
    "libmagic-mgc": ("usr/lib/file/magic.mgc", "usr/share/misc/magic.mgc", "usr/share/file/magic.mgc"),
    "libpam-modules": ("usr/lib/*/security/pam_permit.so",),
    "libudev1": ("usr/lib/*/libudev.so.1*",),
    "lshw": ("usr/bin/lshw",),
    "mdadm": ("usr/sbin/*", "usr/lib/udev/*"),
    "mount": ("usr/bin/*", "usr/sbin/losetup"),
    "multipath-tools": ("usr/sbin/multipath*", "usr/lib/multipath/*", "usr/lib/udev/*"),
    "nvme-cli": ("usr/sbin/nvme",),
    "parted": ("usr/sbin/*",),
    "pci.ids": ("usr/share/misc/pci.ids",),
    "pciutils": ("usr/bin/lspci", "usr/bin/setpci"),
    "psmisc": ("usr/bin/fuser", "usr/bin/killall", "usr/bin/pstree"),
    "qemu-utils": ("usr/bin/qemu-img",),
    "smartmontools": ("usr/sbin/smartctl",),
    "sudo": ("usr/bin/sudo", "usr/libexec/sudo/*"),
    "udev": (
        "usr/bin/udevadm",
        "usr/lib/systemd/systemd-udevd",
        "usr/lib/systemd/network/*",
        "usr/lib/udev/*",
        "etc/udev/*",
        "!*/hwdb.d/*",
    ),
    "util-linux": ("usr/bin/*", "usr/sbin/*"),
    "util-linux-extra": ("usr/sbin/hwclock",),
    "xfsprogs": ("usr/sbin/mkfs.xfs", "usr/sbin/xfs_repair", "usr/sbin/fsck.xfs"),
}
"""The programs that the agent calls, what these load by name, and what a person needs to look around, by package."""

_EARLY_MODULES = ("loop", "squashfs", "overlay")
_CERTIFICATES = "/etc/ssl/certs/metald.pem"
_ACCOUNTS = (
    ("root", 0, "/root", "/bin/bash"),
    ("_chrony", 101, "/var/lib/chrony", "/bin/false"),
    ("dhcpcd", 102, "/usr/lib/dhcpcd", "/bin/false"),
    ("rescue", 1000, "/home/rescue", "/bin/bash"),
    ("nobody", 65534, "/", "/bin/false"),
)
_GROUPS = (
    *("root:0", "tty:5", "disk:6", "lp:7", "kmem:15", "dialout:20", "cdrom:24", "floppy:25", "tape:26", "sudo:27", "audio:29", "video:44"),
    *("_chrony:101", "dhcpcd:102", "input:104", "kvm:105", "render:106", "sgx:107", "rescue:1000", "nogroup:65534"),
)
"""The groups that udev's rules give devices to, and those of the accounts."""


def build_agent(output: Path, work: Path, recipe: Recipe, *, say: Say = quiet) -> dict[str, object]:
    """Make `kernel`, `initramfs` and `manifest.json` in `output`, and return the manifest.

    Args:
        work: directory for what is downloaded; the next build uses it again.

    Raises:
        BuildError: a package or a tool is missing; the text says which and how to get it.
    """
    debian = Debian(work, recipe.architecture)
    python = Python(debian)
    say("packages")
    image = debian.kernel_package(recipe.kernel or f"linux-image-{debian.architecture}")
    names = debian.with_libraries([*_PROGRAMS, *python.packages, *recipe.packages])
    parts = kernel_parts(debian, debian.fetch([image, "busybox-static", *names]), image)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        stage = Path(folder)
        lock = stage / "constraints.txt"
        lock.write_bytes(own_file("agent/constraints.txt"))
        say("the agent from PyPI")
        wheels = python.wheels(lock, work)
        python.stage(parts.packages, wheels, stage / "python")
        tree = _root(parts, python, stage / "python", recipe)
        _add_kernel_modules(tree, parts, recipe, stage / "modules")
        say("compressing")
        pack(tree, stage / "root.squashfs", recipe.epoch)
        initramfs = _early(parts, (stage / "root.squashfs").read_bytes()).pack(recipe.epoch)
    return write(output, manifest("ipa", parts) | {"python_packages": describe(wheels)}, parts.kernel, initramfs)


def _early(parts: Parts, packed: bytes) -> Tree:
    """What the kernel unpacks: as little as mounts the packed file system."""
    tree = Tree()
    for name in ("proc", "sys", "dev", "packed", "new", "changes"):
        tree.directory(name)
    add_busybox(tree, parts, "bin")
    add_modules(tree, parts, _EARLY_MODULES)
    tree.file("init", own_file("agent/init"), 0o755)
    tree.file("root.squashfs", packed)
    return tree


def _root(parts: Parts, python: Python, stage: Path, recipe: Recipe) -> Tree:
    root = Root(parts.packages, parts.debian.multiarch)
    tree = root.tree
    for name in ("proc", "sys", "dev", "run", "mnt", "media", "var/log", "var/lib/chrony", "var/lib/dhcpcd", "etc/dropbear"):
        tree.directory(name)
    for name, permissions in (
        ("root", 0o700),
        ("root/.ssh", 0o700),
        ("etc/ipa-rescue-config", 0o700),
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
    ):
        tree.directory(name, permissions)
    tree.link("var/run", "/run")
    tree.link("etc/mtab", "/proc/self/mounts")
    for name, patterns in _PROGRAMS.items():
        root.take(name, patterns)
    for name in recipe.packages:
        root.take(name, ("*", "!usr/share/doc/*", "!usr/share/man/*", "!usr/share/locale/*"))
    root.take(python.packages[0], (f"usr/bin/python{python.version}",))
    root.put_directory("", stage)
    tree.link("usr/bin/sh", "dash")  # busybox's would run its own commands in place of the real ones
    tree.link("usr/bin/python3", f"python{python.version}")
    add_busybox(tree, parts, "usr/bin", beside=("usr/bin", "usr/sbin"))
    tree.link("usr/sbin/init", "../bin/busybox")
    _add_own_files(tree, recipe, stage / python.site / "certifi/cacert.pem")
    add_firmware(tree, recipe, "usr/lib/firmware")
    root.add_libraries()
    return tree


def _add_own_files(tree: Tree, recipe: Recipe, authorities: Path) -> None:
    for name in ("start", "agent", "rescue", "sshd"):
        tree.file(f"etc/metald/{name}", own_file(f"agent/{name}"), 0o755)
    tree.file("etc/inittab", own_file("agent/inittab"))
    tree.file("etc/dhcpcd.conf", own_file("agent/dhcpcd.conf"))
    tree.file("etc/acpi/PWRF/00000080", own_file("agent/power"), 0o755)
    tree.file("usr/local/bin/ironic-python-agent", own_file("agent/ironic-python-agent"), 0o755)
    tree.file("root/.ssh/authorized_keys", recipe.authorized_keys, 0o600)
    for name, text in _etc().items():
        tree.file(f"etc/{name}", text.encode(), {"shadow": 0o600, "sudoers": 0o440}.get(name, 0o644))
    settings = own_file("agent/agent.conf")
    if recipe.certificates:
        bundle = b"".join(path.read_bytes().strip() + b"\n" for path in (authorities, *recipe.certificates))
        tree.file(_CERTIFICATES, bundle)
        settings += f"cafile = {_CERTIFICATES}\n".encode()
    tree.file("etc/ironic-python-agent/ironic-python-agent.conf", settings)


def _etc() -> dict[str, str]:
    permit = "".join(f"{kind} required pam_permit.so\n" for kind in ("auth", "account", "session", "password"))
    return {
        "passwd": "".join(f"{name}:x:{uid}:{uid}::{home}:{shell}\n" for name, uid, home, shell in _ACCOUNTS),
        "shadow": "".join(f"{name}:*:19000:0:99999:7:::\n" for name, *_ in _ACCOUNTS),
        "group": "".join(f"{one.replace(':', ':x:')}:{'rescue' if one.startswith('sudo:') else ''}\n" for one in _GROUPS),
        "shells": "/bin/sh\n/bin/bash\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
        "hosts": "127.0.0.1 localhost metald-agent\n::1 localhost\n",
        "os-release": f'NAME="metald agent ramdisk"\nID=metald\nVERSION_ID="{__version__}"\n',
        "sudoers": "Defaults secure_path=/usr/local/bin:/usr/sbin:/usr/bin\nroot ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) NOPASSWD: ALL\n",
        "pam.d/sudo": permit,
        "pam.d/sudo-i": permit,
        "pam.d/other": permit.replace("permit", "deny"),
    }


def _add_kernel_modules(tree: Tree, parts: Parts, recipe: Recipe, stage: Path) -> None:
    """Modules with the indexes that udev reads, which `depmod` makes."""
    below = f"lib/modules/{parts.kernel_version}"
    for module in modules.choose(parts.modules_root, (*modules.AGENT_WANTED, *recipe.modules)):
        _write(stage / below / module.path, module.data)
        tree.file(f"usr/{below}/{module.path}", module.data)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        _write(stage / below / name, (parts.modules_root / name).read_bytes())
    run("depmod", "-b", str(stage), parts.kernel_version)
    for path in sorted((stage / below).glob("modules.*")):
        tree.file(f"usr/{below}/{path.name}", path.read_bytes())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
