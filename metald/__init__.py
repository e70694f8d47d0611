"""metald takes powered-off machines to running operating systems and keeps every promise across a crash."""

from __future__ import annotations

__version__ = "0.1.0"
