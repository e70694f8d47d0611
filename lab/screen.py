"""Live progress: lines that redraw themselves on a terminal, plain lines where it is a log."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

_MIB = 1 << 20
_EVERY = 5.0
"""Seconds between two plain lines about the same step."""
_EVERY_BYTES = 1.0
"""The same while bytes are written."""


def describe(node: Mapping[str, Any], progress: Mapping[str, Any]) -> str:
    """One line about a node: state, step, how far, how fast, how long still."""
    parts = [str(node["provision_state"])]
    step = node.get("deploy_step") or node.get("clean_step") or {}
    if step.get("step"):
        parts.append(f"{step.get('interface', '?')}.{step['step']}")
    done, total = progress.get("bytes"), progress.get("total")
    if done is not None and total:
        parts.append(f"{bar(done / total)} {done / _MIB:.1f} of {total / _MIB:.1f} MiB")
        if progress.get("rate"):
            parts.append(f"{progress['rate'] / _MIB:.1f} MiB/s")
        if progress.get("eta"):
            parts.append(f"{progress['eta']:.0f} s left")
    if progress.get("message"):
        parts.append(str(progress["message"]))
    return "  ".join(parts)


def bar(share: float, width: int = 20) -> str:
    """A bar that is filled to a share of 0 to 1."""
    full = round(max(0.0, min(1.0, share)) * width)
    return "#" * full + "." * (width - full)


class Screen:
    """Where the demo says what happens.

    Args:
        out: where to; redraws when that is a terminal.
    """

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._live = out.isatty()
        self._start = time.monotonic()
        self._drawn = 0
        self._lines: dict[str, str] = {}
        self._said: dict[str, tuple[str, float]] = {}

    def say(self, text: str = "") -> None:
        """Print a line that stays, with the seconds since the start."""
        self._erase()
        self._out.write(f"{time.monotonic() - self._start:6.1f}  {text}\n" if text else "\n")
        self._draw()

    def plain(self, text: str) -> None:
        """Print text as it is."""
        self._erase()
        self._out.write(text + "\n")
        self._draw()

    def title(self, text: str) -> None:
        """Begin a part."""
        self.plain(f"\n\x1b[1m== {text}\x1b[0m" if self._live else f"\n== {text}")

    def show(self, name: str, text: str) -> None:
        """Show the state of something; replaces what was shown of it before."""
        if self._live:
            self._erase()
            self._lines[name] = text
            self._draw()
            return
        kind = "  ".join(text.split("  ")[:2])
        known, at = self._said.get(name, ("", 0.0))
        now = time.monotonic()
        if kind != known or now - at >= (_EVERY_BYTES if "MiB" in text else _EVERY):
            self._said[name] = (kind, now)
            self.say(f"{name}: {text}")

    def forget(self) -> None:
        """Leave what is shown as it is; what comes next goes below."""
        self._drawn = 0
        self._lines.clear()
        self._said.clear()

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _draw(self) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns
            for name, text in self._lines.items():
                self._out.write(f"        {name}: {text}"[: width - 1] + "\n")
            self._drawn = len(self._lines)
        self._out.flush()
