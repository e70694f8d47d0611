"""schemathesis over the live daemon: every check, every operation, with links from one to the next. `make fuzz` runs longer."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.fuzz import schemathesis

DEFECT = " failed ("


async def test_the_daemon_does_what_its_document_says(tmp_path: Path) -> None:
    async with Daemon(tmp_path / "daemon") as daemon:
        await daemon.start()
        options = ("--seed", "1", "--generation-deterministic", "--max-examples", "3", "--phases", "fuzzing,stateful")
        status, output = await schemathesis(daemon.url, tmp_path, *options)
        await daemon.stop()
        assert status == 0, output[-12000:]
        assert DEFECT not in daemon.output()
