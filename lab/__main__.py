"""`python -m lab up`: machines to play with, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shlex
import sys

from lab.hardware import GIB
from lab.process import LabError
from lab.program import until_done
from lab.rack import Lab, LabMachine


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description="Virtual machines behind real BMCs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="bring machines up, say how to reach them, and wait for Ctrl-C")
    up.add_argument("--machines", type=int, default=2, metavar="N", help="how many (default 2)")
    up.add_argument("--uefi", action="store_true", help="UEFI firmware instead of BIOS")
    up.add_argument("--no-rom", action="store_true", help="no iPXE in the network card; UEFI boots by the firmware's own PXE")
    up.add_argument("--disk", type=int, default=4, metavar="GIB", help="size of the disk (default 4)")
    up.add_argument("--network", choices=("auto", "bridge", "user"), default="auto", help="kind of wire (default auto)")
    up.add_argument("--boot-url", default="http://10.0.2.2:6386/boot.ipxe", metavar="URL", help="boot file on a user network")
    return parser


def _print_machine(one: LabMachine) -> None:
    bmc = one.bmc
    print(f"\n# {one.name}: MAC {one.mac}, disk {one.disk_serials[0]}, serial log {one.serial_log}")
    print(f"ipmitool -I lanplus -C 3 -H {bmc.address} -p {bmc.port} -U {bmc.user} -P {bmc.password} sol activate")
    info = " ".join(f"--driver-info {key}={value}" for key, value in one.driver_info.items())
    print(f"baremetal node create --driver ipmi --name {one.name} {info}")
    print(f"baremetal port create {one.mac} --node $(baremetal node show {one.name} -f value -c uuid)")


def _print_settings(lab: Lab) -> None:
    print("# metald for these machines:")
    for key, value in lab.metald.items():
        print(f"export {key}={shlex.quote(value)}")
    for what in lab.left_out:
        print(f"# left out: {what}")


async def _up(args: argparse.Namespace) -> None:
    lab = Lab(args.machines, uefi=args.uefi, rom=not args.no_rom, disks=(args.disk * GIB,), network=args.network, boot_url=args.boot_url)
    async with lab:
        _print_settings(lab)
        for one in lab.machines:
            _print_machine(one)
        print("\n# Ctrl-C takes everything down.", flush=True)
        await asyncio.Event().wait()


def main() -> int:
    """Run the command line; 1 when the lab cannot be made."""
    args = _parser().parse_args()
    try:
        with contextlib.suppress(asyncio.CancelledError):
            until_done(_up(args))
    except LabError as error:
        sys.stderr.write(f"lab: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
