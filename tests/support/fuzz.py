"""schemathesis over a real daemon: `python -m tests.support.fuzz` runs until told to stop, longer and with a new seed each time.

    python -m tests.support.fuzz                    five minutes of it
    python -m tests.support.fuzz --minutes 60       an hour
    python -m tests.support.fuzz --seed 42          a run again

Exits non-zero when a check fails; then it tells the request, and the daemon's log is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support.daemon import Daemon

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "tests" / "http" / "schemathesis.toml"


async def schemathesis(url: str, folder: Path, *options: str) -> tuple[int, str]:
    """Run it; its exit status and what it said.

    Args:
        url: the daemon's.
        folder: where it may write.
        options: further ones of `schemathesis run`.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "schemathesis.cli",
        f"--config-file={CONFIG}",
        "run",
        f"{url}/openapi.json",
        "--no-color",
        "--continue-on-failure",
        *options,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


async def _main(minutes: float, seed: int) -> int:
    folder = Path(tempfile.mkdtemp(prefix="metald-fuzz-"))
    async with Daemon(folder) as daemon:
        await daemon.start()
        print(f"seed {seed}, state and log in {folder}", flush=True)
        options = ("--seed", str(seed), "--max-time", str(int(minutes * 60)), "--max-examples", "100")
        status, output = await schemathesis(daemon.url, folder, *options)
        await daemon.stop()
    print(output)
    if status == 0:
        shutil.rmtree(folder)
    return status


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    chosen = parser.parse_args()
    sys.exit(asyncio.run(_main(chosen.minutes, chosen.seed)))


if __name__ == "__main__":
    main()
