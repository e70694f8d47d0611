"""The daemon of the matrix: `metald serve`, whose fake machines live outside it (see `hardware.py`)."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from lab.matrix.hardware import OutsideHardware
from metald import app, configfile
from metald.config import Fake
from metald.drivers import fake


def _outside(settings: Fake) -> OutsideHardware:
    return OutsideHardware(settings, Path(os.environ["MATRIX_MACHINES"]))


if __name__ == "__main__":
    fake.FakeHardware = _outside  # type: ignore[assignment,misc]
    sys.exit(asyncio.run(app.serve(configfile.load())))
