"""Holds the rooms whose mistakes cost most to their coverage of lines and branches."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from coverage import Coverage

BARS = {
    "engine": ("metald/statemachine/",),
    "store": ("metald/store/",),
    "codecs": ("metald/boot/tftp/packet.py", "metald/boot/tftp/transfer.py", "metald/sim/rmcp.py"),
}
LEAST = 95.0


def main() -> int:
    """Print each room's coverage; the exit status says whether all reach the bar."""
    coverage = Coverage()
    coverage.load()
    path = Path(".coverage.json")
    coverage.json_report(outfile=str(path), pretty_print=False)
    files = json.loads(path.read_text(encoding="utf-8"))["files"]
    path.unlink()
    missed = False
    for room, prefixes in BARS.items():
        summaries = [data["summary"] for name, data in files.items() if name.startswith(prefixes)]
        total = sum(s["num_statements"] + s["num_branches"] for s in summaries)
        covered = sum(s["covered_lines"] + s["covered_branches"] for s in summaries)
        share = 100 * covered / total if total else 0.0
        missed |= share < LEAST
        sys.stdout.write(f"{room}: {share:.1f} % of lines and branches covered (at least {LEAST:.0f} %)\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
