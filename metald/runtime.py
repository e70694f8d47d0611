"""What the process asks of the kernel and of the interpreter, so that one loop can serve many.

A full garbage collection looks at every object there is and holds the loop meanwhile, for tens of milliseconds with
thousands of nodes. What is long-lived here is the state, which has no cycles, so full collections are left to `tidy`,
seldom, and what survives one is not looked at again. Young objects are collected as ever.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys

_YOUNG = 10_000
"""Objects made and kept between two collections of the youngest."""
_OLDER = 20
_FULL = 1_000_000
"""So many collections of the older ones never come between two calls of `tidy`."""
_SWITCH_S = 0.001
"""The longest that a thread, such as the database's, keeps the loop from running Python."""
_TIDY_S = 1800.0


def prepare() -> None:
    """Take as many open files as allowed, and set the interpreter's collections and threads up for a loop."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.set_threshold(_YOUNG, _OLDER, _FULL)
    sys.setswitchinterval(_SWITCH_S)


async def tidy() -> None:
    """Collect what has become garbage in a cycle, twice an hour; runs until it is cancelled."""
    while True:
        await asyncio.sleep(_TIDY_S)
        gc.collect()
        gc.freeze()
