"""What the kernel counts for a server: CPU and memory of its process and of those that it started."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_MS = 1000.0 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PARENT, _UTIME, _STIME = 1, 11, 12


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[_PARENT]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, ())
    return found


def running(pid: int) -> bool:
    """Whether it is there and has not ended."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def cpu_ms(pid: int) -> float:
    """Milliseconds of CPU that a server has used so far, all its threads and processes together."""
    return _TICK_MS * sum(int(fields[_UTIME]) + int(fields[_STIME]) for one in family(pid) if (fields := _stat(one)))


def rss_mib(pid: int) -> float:
    """Resident memory of a server in MiB; what its processes share counts for each."""
    pages = 0
    for one in family(pid):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * _PAGE / (1 << 20)
