"""The command `metald`: arguments only."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from pathlib import Path

from metald import __version__, configfile
from metald.cli import check, ramdisk
from metald.config import ConfigError, Settings

_EXAMPLES = """examples:
  metald serve                               run with the defaults, API on http://127.0.0.1:6385
  metald serve --config /etc/metald.toml     run with a file of settings
  METALD__API__LISTEN=127.0.0.1:7000 metald serve
  metald check-config --config FILE          say what is wrong with the settings, and the remedy
  metald config-reference > metald.toml      every setting, documented, with its default
  metald ramdisk build --output DIR          make the SSH ramdisk's kernel and initramfs
  metald sim --nodes 100 --enroll http://127.0.0.1:6385    a simulated fleet to try it with
"""


def _parser(wanted: str) -> argparse.ArgumentParser:
    """The command line; of the simulator's arguments only when it is what is asked for, so that the daemon does not load it."""
    parser = argparse.ArgumentParser(
        prog="metald",
        description="Takes powered-off machines to running operating systems, and keeps every promise across a crash.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"metald {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the daemon in the foreground")
    verify = commands.add_parser("check-config", help="check the settings and say what is wrong")
    for command in (serve, verify):
        command.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings")
    commands.add_parser("config-reference", help="print every setting with its meaning and default")
    ramdisk.add_arguments(commands.add_parser("ramdisk", help="make the SSH ramdisk"))
    simulator = commands.add_parser("sim", help="run a simulated fleet")
    if wanted == "sim":
        from metald.cli import sim

        sim.add_arguments(simulator)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 when all went well, 1 when something failed, 2 when the settings or arguments are wrong.
    """
    given = sys.argv[1:] if arguments is None else arguments
    args = _parser(given[0] if given else "").parse_args(given)
    if args.command == "config-reference":
        sys.stdout.write(configfile.reference())
        return 0
    if args.command == "ramdisk":
        return asyncio.run(ramdisk.run(args))
    if args.command == "sim":
        from metald import runtime
        from metald.cli import sim

        with asyncio.Runner(loop_factory=runtime.loop) as runner:
            return runner.run(sim.run(args))
    try:
        settings = configfile.load(args.config)
        check.check(settings)
        return _check(settings) if args.command == "check-config" else _serve(settings)
    except ConfigError as error:
        sys.stderr.write(f"metald: {error}\n")
        return 2


def _check(settings: Settings) -> int:
    from metald import app

    app.check(settings)
    sys.stdout.write("The settings are good.\n")
    return 0


def _serve(settings: Settings) -> int:
    # Nothing of what is imported is garbage, and looking for some takes a tenth of the start.
    gc.disable()
    from metald import app, runtime

    gc.freeze()
    gc.enable()
    with asyncio.Runner(loop_factory=runtime.loop) as runner:
        return runner.run(app.serve(settings))


if __name__ == "__main__":
    sys.exit(main())
