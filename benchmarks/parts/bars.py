"""What a benchmark demands of its figures, told the same way by all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Bar(NamedTuple):
    """A figure and what it may be: at most, or at least where `least` says so."""

    name: str
    value: float
    bound: float
    unit: str = ""
    least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.least else self.value <= self.bound

    def __str__(self) -> str:
        figure = f"{self.value:.4g} {self.unit}".rstrip()
        return (
            f"{'met   ' if self.met else 'MISSED'}  {self.name}: {figure} (bar: {'at least' if self.least else 'at most'} {self.bound:g})"
        )


def say(bars: Sequence[Bar]) -> None:
    """Print them, and how busy the machine is."""
    print("\n".join(map(str, bars)), f" (load {os.getloadavg()[0]:.1f})", flush=True)


def verdict(bars: Sequence[Bar], file: Path | None = None) -> int:
    """The exit status; the figures go to `file` too."""
    if file is not None:
        file.write_text(json.dumps([bar._asdict() for bar in bars], indent=1))
    return 0 if all(bar.met for bar in bars) else 1
