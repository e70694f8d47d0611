"""`python -m lab.matrix`: run the crash matrix and print it as a table."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from lab.matrix.matrix import Options, Report, run
from lab.matrix.rounds import KINDS, Row

_RESTART = 5.0
"""Seconds within which a daemon must be at every step again that it was at."""
_TITLES = ("round", "what happened", "in flight", "phases", "ready s", "resumed s", "CPU s", "torn B", "refused", "wrong")
_WIDTHS = (5, 16, 9, 44, 7, 9, 6, 8, 8, 5)

_EXAMPLES = """examples:
  python -m lab.matrix                                  the full matrix: 1,400 nodes, 20 rounds
  python -m lab.matrix --nodes 150 --wire 20 --rounds 5 --pace 0.1
  python -m lab.matrix --kinds 'power loss' --rounds 50 --keep /tmp/matrix
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.matrix",
        description="Kill metald at random moments with a fleet in flight, over a disk that fails. 0 lost, 0 done twice, or exit 1.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--nodes", type=int, default=1250, metavar="N", help="fake machines outside the daemon (default 1250)")
    add("--wire", type=int, default=150, metavar="N", help="machines of the simulated fleet: IPMI, network boot, SSH (default 150)")
    add("--rounds", type=int, default=20, metavar="N", help="how often the worst happens (default 20)")
    add("--seed", type=int, default=int(time.time()), help="of all chance (default: the time)")
    add("--pace", type=float, default=1.0, metavar="X", help="how slow machines and rounds are (default 1)")
    add("--kinds", default=",".join(KINDS), help=f"of rounds, over and over, with commas (default {','.join(KINDS)})")
    add("--least", type=int, default=0, metavar="N", help="workflows that must be in flight when the worst happens")
    add("--keep", type=Path, metavar="DIR", help="keep state and logs there")
    return parser


def _line(*values: object) -> str:
    return "  ".join(f"{value!s:<{width}}" for value, width in zip(values, _WIDTHS, strict=True)).rstrip()


def _show(row: Row) -> None:
    busy = {phase: count for phase, count in row.phases.items() if phase.endswith(("ing", "wait", "call-back", "power"))}
    phases = " ".join(f"{count} {phase}" for phase, count in sorted(busy.items(), key=lambda item: -item[1]))
    print(
        _line(
            row.number,
            row.kind,
            row.resumed,
            phases[:44],
            f"{row.ready_s:.2f}",
            f"{row.resumed_s:.2f}",
            f"{row.cpu_s:.2f}",
            row.torn,
            row.refused,
            len(row.wrong),
        ),
        flush=True,
    )
    for text in row.wrong[:5]:
        print(f"       {text}", flush=True)


def _verdict(report: Report, rounds: int, least: int) -> bool:
    good = sum(not row.wrong and row.resumed_s <= _RESTART and row.resumed >= least for row in report.rows)
    slowest = max(row.resumed_s for row in report.rows)
    flights = sorted(row.resumed for row in report.rows)
    done = ", ".join(f"{count} {name}" for name, count in sorted(report.done.items()))
    print(f"\n{sum(report.done.values())} things were done: {done}")
    print(f"{report.struck} failed as the matrix wanted it; {report.notes} small writes were acknowledged and kept")
    for name, found in (
        ("lost", report.lost),
        ("done twice", report.twice),
        ("failed for no reason given", report.failed),
        ("damage", report.wrong),
    ):
        print(f"{name}: {len(found)}")
        for text in found[:10]:
            print(f"       {text}")
    bars = {
        f"{good} of {rounds} rounds": good == rounds,
        "0 lost": not report.lost,
        "0 done twice": not report.twice,
        "0 failed for no reason given": not report.failed,
        "no damage": not report.wrong,
        f"all resumed after {slowest:.2f} s at most (bar {_RESTART:g} s)": slowest <= _RESTART,
        f"in flight: {flights[0]} to {flights[-1]} (bar {least})": flights[0] >= least,
    }
    for text, met in bars.items():
        print(f"{'met   ' if met else 'MISSED'}  {text}")
    return all(bars.values())


async def _run(args: argparse.Namespace, folder: Path) -> bool:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options = Options(
        folder=folder,
        nodes=args.nodes,
        wire=args.wire,
        rounds=args.rounds,
        seed=args.seed,
        pace=args.pace,
        kinds=tuple(args.kinds.split(",")),
    )
    print(f"crash matrix, seed {args.seed}, load {os.getloadavg()[0]:.1f}", flush=True)
    begun = time.monotonic()
    titled = False

    def show(row: Row) -> None:
        nonlocal titled
        if not titled:
            print(_line(*_TITLES))
            titled = True
        _show(row)

    report = await run(options, lambda text: print(text, flush=True), show)
    good = _verdict(report, args.rounds, args.least)
    print(f"{time.monotonic() - begun:.0f} s, load {os.getloadavg()[0]:.1f}")
    return good


def main() -> int:
    """Run the command line; 0 when every bar is met."""
    args = _parser().parse_args()
    if args.keep is not None:
        args.keep.mkdir(parents=True, exist_ok=True)
        return 0 if asyncio.run(_run(args, args.keep)) else 1
    with tempfile.TemporaryDirectory(prefix="metald-matrix-") as folder:
        return 0 if asyncio.run(_run(args, Path(folder))) else 1


if __name__ == "__main__":
    sys.exit(main())
