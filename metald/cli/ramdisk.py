"""`metald ramdisk build`: make a ramdisk from Debian packages: metald's own, or one with the Ironic Python Agent."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metald.ramdisk.recipe import Recipe

_OUTPUTS = {"ssh": Path("/var/lib/metald/ramdisk"), "ipa": Path("/var/lib/metald/files/ipa")}
_KEY = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?", re.ASCII)

_EXAMPLES = f"""examples:
  metald ramdisk build                                  metald's own, into {_OUTPUTS["ssh"]}, where the daemon looks
  metald ramdisk build --output DIR                     for METALD__BOOT__RAMDISK_DIR=DIR
  metald ramdisk build --kernel linux-image-amd64       with the drivers of physical servers, which the default kernel lacks
  metald ramdisk build --agent ipa                      with the Ironic Python Agent, into {_OUTPUTS["ipa"]}, for
                                                        METALD__AGENT__DEPLOY_KERNEL=file://{_OUTPUTS["ipa"]}/kernel
                                                        METALD__AGENT__DEPLOY_RAMDISK=file://{_OUTPUTS["ipa"]}/initramfs
  metald ramdisk build --agent ipa --ssh-key ~/.ssh/id_ed25519.pub --firmware /lib/firmware/bnx2 --package fio
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `metald ramdisk` takes."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = commands.add_parser(
        "build",
        help="make kernel, initramfs and manifest.json",
        description="Makes kernel, initramfs and manifest.json from Debian packages, which are fetched and unpacked, never installed. "
        "The same packages give the same bytes; SOURCE_DATE_EPOCH is obeyed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    make.add_argument(
        "--agent",
        choices=("ssh", "ipa"),
        default="ssh",
        help="ssh: metald's own ramdisk, for the deploy interface ssh (default); ipa: the Ironic Python Agent, for direct and all others",
    )
    make.add_argument("--arch", choices=("amd64", "arm64"), default="", help="architecture of the machines (default: this host's)")
    make.add_argument("--output", type=Path, metavar="DIR", help="where the files go (default: see the examples)")
    make.add_argument("--work", type=Path, metavar="DIR", help="where packages are kept between builds")
    kernel = "Debian package of the kernel (default: linux-image-cloud-ARCH; with ipa linux-image-ARCH)"
    make.add_argument("--kernel", default="", metavar="PACKAGE", help=kernel)

    def several(option: str, metavar: str, text: str, kind: type = Path) -> None:
        make.add_argument(option, type=kind, metavar=metavar, action="append", default=[], help=f"{text}; may be given several times")

    several("--module", "NAME", "a further kernel module, or with NAME/ a directory of them", str)
    several("--firmware", "DIR", "firmware, laid out as below /lib/firmware")
    several("--ssh-key", "FILE", "public keys by which root may log in")
    several("--package", "NAME", "a further Debian package, with the libraries it needs (ipa)", str)
    several("--ca-file", "FILE", "certificates of authorities that the agent trusts beside the public ones (ipa)")


def recipe(args: argparse.Namespace) -> Recipe:
    """What the arguments ask for.

    Raises:
        BuildError: a file is not what its option wants, or an option does not belong to the agent.
        OSError: a file cannot be read.
    """
    # here, for every start of the daemon reads this module
    from metald.ramdisk.packages import BuildError
    from metald.ramdisk.recipe import EPOCH, Recipe

    for name in ("package", "ca_file"):
        if getattr(args, name) and args.agent != "ipa":
            raise BuildError(f"--{name.replace('_', '-')} is for --agent ipa alone.")
    keys = []
    for path in args.ssh_key:
        lines = [line.strip() for line in path.read_text().splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found or not all(_KEY.fullmatch(line) for line in found):
            raise BuildError(f"--ssh-key {path}: this is no public key.", remedy="Give the file that ends with .pub.")
        keys += found
    for path in args.ca_file:
        if "-----BEGIN CERTIFICATE-----" not in path.read_text():
            raise BuildError(f"--ca-file {path}: this is no certificate in PEM form.")
    for path in args.firmware:
        if not path.is_dir():
            raise BuildError(f"--firmware {path}: there is no such directory.")
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return Recipe(
        architecture=args.arch,
        kernel=args.kernel,
        modules=tuple(args.module),
        firmware=tuple(args.firmware),
        keys=tuple(keys),
        packages=tuple(args.package),
        certificates=tuple(args.ca_file),
        epoch=int(epoch) if epoch.isdigit() else EPOCH,
    )


async def run(args: argparse.Namespace) -> int:
    """Build, saying what is done.

    Returns:
        0 when the files are there, 1 when something is missing; the text says what and how to get it.
    """
    from metald.ramdisk.agent import build_agent
    from metald.ramdisk.build import build
    from metald.ramdisk.packages import BuildError

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    work = args.work or cache / "metald" / "ramdisk"
    output = args.output or _OUTPUTS[args.agent]
    make = build_agent if args.agent == "ipa" else build
    try:
        manifest = await asyncio.to_thread(make, output, work, recipe(args), say=lambda text: print(f"ramdisk: {text}", flush=True))
    except (BuildError, OSError) as error:
        sys.stderr.write(f"metald: {error}\n")
        return 1
    files = manifest["files"]
    assert isinstance(files, dict)
    for name, facts in files.items():
        print(f"{output / name}: {facts['size']} bytes, SHA-256 {facts['sha256']}")
    return 0
