"""`metald ramdisk build`: make the SSH ramdisk from Debian packages."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from metald.ramdisk.build import CLOUD_KERNEL, build
from metald.ramdisk.packages import BuildError

_EXAMPLES = f"""examples:
  metald ramdisk build                                  into /var/lib/metald/ramdisk, where the daemon looks
  metald ramdisk build --output DIR                     for METALD__BOOT__RAMDISK_DIR=DIR
  metald ramdisk build --kernel linux-image-amd64       with the drivers of physical servers, which {CLOUD_KERNEL} lacks
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `metald ramdisk` takes."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = commands.add_parser(
        "build",
        help="make kernel, initramfs and manifest.json",
        description="Makes kernel, initramfs and manifest.json from Debian packages, which are fetched and unpacked, never installed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    make.add_argument("--output", type=Path, default=Path("/var/lib/metald/ramdisk"), metavar="DIR", help="where the files go")
    make.add_argument("--work", type=Path, metavar="DIR", help="where packages are kept between builds")
    make.add_argument("--kernel", default=CLOUD_KERNEL, metavar="PACKAGE", help=f"Debian package of the kernel (default {CLOUD_KERNEL})")


async def run(args: argparse.Namespace) -> int:
    """Build, saying what is done.

    Returns:
        0 when the files are there, 1 when something is missing; the text says what and how to get it.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        manifest = await asyncio.to_thread(
            build,
            args.output,
            args.work or cache / "metald" / "ramdisk",
            kernel=args.kernel,
            epoch=int(epoch) if epoch.isdigit() else None,
            say=lambda text: print(f"ramdisk: {text}", flush=True),
        )
    except (BuildError, OSError) as error:
        sys.stderr.write(f"metald: {error}\n")
        return 1
    files = manifest["files"]
    assert isinstance(files, dict)
    for name, facts in files.items():
        print(f"{args.output / name}: {facts['size']} bytes, SHA-256 {facts['sha256']}")
    return 0
