"""What it costs to refuse a hostile image: time and memory, over the whole corpus of `tests/support/hostile.py`.

    .venv/bin/python benchmarks/inspector.py [--rounds 5] [--json FILE]

Each image is written to a file and looked at in a fresh process that does nothing else; the file is read as often as `--rounds` says,
and the median counts. Time is that of the processor, in that process and in the programs that it starts (gzip and zstd, for what must be
unpacked to be known, in the cage that the daemon uses): the wall's, shown beside it, depends on who else uses the machine. Memory is the
largest resident set of that process, and of those programs.
The bars: all are refused, each with the reason that the corpus names; each in less than 100 ms; nothing takes 64 MiB or more; and
none of the images that qemu-img makes is refused. Exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

TIME_BAR = 0.100
"""Seconds for one image."""

MEMORY_BAR = 64 << 20


def worker(folder: Path, rounds: int) -> None:
    """The fresh process: looks at every image that a list on its input names, and prints what came of it."""
    from metald.errors import ImageError
    from metald.images.inspector import inspect

    found = []
    for one in json.load(sys.stdin):
        took, walls, text = [], [], ""
        for _ in range(rounds):
            begun, wall = processor(), time.perf_counter()
            try:
                with (folder / one["file"]).open("rb") as file:
                    seen = inspect(file, "image", declared=one["declared"], largest=one["largest"], permitted=one["permitted"])
                text = asyncio.run(unpacked(folder / one["file"], seen.name, one["largest"], folder / "out")) if seen.is_packed else ""
            except ImageError as error:
                text = str(error)
            took.append(processor() - begun)
            walls.append(time.perf_counter() - wall)
        found.append({"name": one["file"], "seconds": statistics.median(took), "wall": statistics.median(walls), "text": text})
    programs = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    status = Path("/proc/self/status").read_text()
    own = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    peak = {"self": own, "programs": programs}
    json.dump({"images": found, "peak": peak}, sys.stdout)


def processor() -> float:
    """Seconds of processor time that this process and those it has waited for took."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


async def unpacked(path: Path, kind: str, largest: int, target: Path) -> str:
    """Unpack as the daemon does, and look again. Returns why it is refused; empty when it is not."""
    from metald.errors import ImageError
    from metald.images.convert import unpack
    from metald.images.inspector import inspect
    from metald.images.sink import Sink

    async def grown(_: int) -> None:
        pass

    sink = Sink(target, frozenset({"sha512"}))
    sink.open(resume=False)
    try:
        await unpack(path, sink, kind=kind, largest=largest, shown="image", grown=grown)
        sink.finish()
        with target.open("rb") as file:
            inspect(file, "image", declared=None, largest=largest, inside=kind)
    except ImageError as error:
        return str(error)
    finally:
        sink.close()
    return ""


def ask(folder: Path, images: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """What a fresh process finds."""
    argv = [sys.executable, __file__, "--worker", str(folder), "--rounds", str(rounds)]
    done = subprocess.run(argv, input=json.dumps(images), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.rounds)
        return 0
    from tests.support.disk_images import MIB, honest, zstd
    from tests.support.hostile import EVERY, LARGEST, Hostile, corpus, packed_corpus

    bombs = [Hostile("zstd-bomb", zstd(bytes(64 * MIB)), "more than"), Hostile("zstd-bomb-unsaid", _unsaid(64 * MIB), "more than")]
    small = {one.name for one in bombs}
    hostile = [*corpus(), *packed_corpus(), *bombs]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for one in hostile:
            one.write(folder)
        listed = [
            {"file": one.name, "declared": one.declared, "permitted": one.permitted, "largest": 8 * MIB if one.name in small else LARGEST}
            for one in hostile
        ]
        answer = ask(folder, listed, args.rounds)
        good = [{"file": path.name, "declared": kind, "permitted": EVERY, "largest": LARGEST} for kind, path in honest(folder)]
        honest_answer = ask(folder, good, args.rounds)
    return report(hostile, answer, honest_answer, args.json)


def _unsaid(size: int) -> bytes:
    """Zeros packed from a pipe: the header does not say how many."""
    pipe = f"head -c {size} /dev/zero | zstd -q -c"
    return subprocess.run(pipe, shell=True, capture_output=True, check=True).stdout


def report(hostile: list[Any], answer: dict[str, Any], good: dict[str, Any], path: Path | None) -> int:
    """Print the figures and hold them to the bars."""
    seen = {one["name"]: one for one in answer["images"]}
    wrong = [f"{one.name}: {seen[one.name]['text'] or 'taken'}" for one in hostile if one.why not in seen[one.name]["text"]]
    refused = [f"{one['name']}: {one['text']}" for one in good["images"] if one["text"]]
    slow = sorted(answer["images"], key=lambda one: one["seconds"], reverse=True)
    seconds = [one["seconds"] for one in answer["images"]]
    figures = {
        "images": len(hostile),
        "refused_with_reason": len(hostile) - len(wrong),
        "honest": len(good["images"]),
        "honest_refused": len(refused),
        "median_ms": round(statistics.median(seconds) * 1e3, 3),
        "slowest_ms": round(slow[0]["seconds"] * 1e3, 2),
        "slowest": slow[0]["name"],
        "slowest_wall_ms": round(max(one["wall"] for one in answer["images"]) * 1e3, 2),
        "memory_mib": round(answer["peak"]["self"] / (1 << 20), 1),
        "programs_mib": round(answer["peak"]["programs"] / (1 << 20), 1),
    }
    print(f"{figures['refused_with_reason']} of {figures['images']} hostile images refused, each with its reason")
    print(f"{figures['honest'] - figures['honest_refused']} of {figures['honest']} honest images taken")
    print(f"time: median {figures['median_ms']} ms, slowest {figures['slowest_ms']} ms ({figures['slowest']}), bar {TIME_BAR * 1e3:.0f} ms")
    print(f"      by the wall at most {figures['slowest_wall_ms']} ms")
    print(f"memory: {figures['memory_mib']} MiB here, {figures['programs_mib']} MiB in programs, bar {MEMORY_BAR >> 20} MiB")
    missed = [f"not refused as it should be: {one}" for one in wrong] + [f"refused though honest: {one}" for one in refused]
    missed += [f"too slow: {one['name']} {one['seconds'] * 1e3:.1f} ms" for one in slow if one["seconds"] >= TIME_BAR]
    missed += [f"too much memory ({name}): {value} bytes" for name, value in answer["peak"].items() if value >= MEMORY_BAR]
    if path:
        path.write_text(json.dumps(figures, indent=2) + "\n")
    for line in missed:
        print(f"MISSED {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
