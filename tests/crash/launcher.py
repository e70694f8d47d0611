"""Starts daemons that kill themselves at a chosen journal boundary. Run as a program by `tests/crash/forge.py`.

It imports metald once and forks for each daemon, which saves the second that an import takes. The fork runs the same
`app.serve` as `metald serve`. What it adds lies around `Store.commit`: it counts the changes that save a node or a workflow
from the deployment's first on, and sends itself SIGKILL just before or just after one of them.

One JSON object per line comes in: `environment`, `log`, `tally` (file that gets one line per boundary), `at` (0: never),
`when` (`before` or `after`), `kind` (of the workflow whose first change is number 1). One goes out for each start
(`pid`) and each end (`pid`, `status`).
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
from typing import Any

from metald import app, configfile
from metald.model import Node, Workflow, WorkflowKind
from metald.store.changes import Change, Committed
from metald.store.store import Store


class Boundaries:
    """Counts journal boundaries, and dies at one."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._at = int(order["at"])
        self._when = order["when"]
        self._kind = WorkflowKind(order["kind"])
        self._tally = os.open(order["tally"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._count = 0

    def arm(self) -> None:
        """Stand around every commit from now on."""
        real = Store.commit

        async def commit(store: Store, change: Change) -> Committed:
            number = self._number(change)
            if number and number == self._at and self._when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            committed = await real(store, change)
            if number and number == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
            return committed

        Store.commit = commit  # type: ignore[method-assign]

    def _number(self, change: Change) -> int:
        """The boundary's number; 0 when the change is none, or comes before the first of the watched workflow."""
        workflow = next((r for r in change.save if isinstance(r, Workflow)), None)
        if workflow is None and not any(isinstance(r, Node) for r in change.save):
            return 0
        if self._count == 0 and (workflow is None or workflow.kind is not self._kind):
            return 0
        self._count += 1
        os.write(self._tally, f"{self._count} {_name(workflow, change)}\n".encode())
        return self._count


def _name(workflow: Workflow | None, change: Change) -> str:
    if workflow is None:
        return "node: " + ", ".join(event.type for event in change.events)
    step = workflow.steps[workflow.cursor] if workflow.cursor < len(workflow.steps) else None
    at = f"{step.interface}.{step.step}" if step else "end"
    return f"{workflow.kind.value} {workflow.state.value} at {at}"


def _child(order: dict[str, Any]) -> None:
    """The daemon; never returns."""
    status = 70
    try:
        null = os.open(os.devnull, os.O_RDWR)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for descriptor, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.update(order["environment"])
        Boundaries(order).arm()
        status = asyncio.run(app.serve(configfile.load()))
    finally:
        sys.stderr.flush()
        os._exit(status)


def _say(what: dict[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _collect(own: set[int]) -> None:
    while own:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        own.discard(pid)
        _say({"pid": pid, "status": os.waitstatus_to_exitcode(status)})


def main() -> None:
    """Serve orders until the input ends; daemons that still run then are killed."""
    bell, clapper = os.pipe()
    os.set_blocking(clapper, False)
    signal.set_wakeup_fd(clapper)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    own: set[int] = set()
    rest = b""
    while True:
        readable, _, _ = select.select([0, bell], [], [])
        if bell in readable:
            os.read(bell, 4096)
            _collect(own)
        if 0 not in readable:
            continue
        data = os.read(0, 65536)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                os.close(bell)
                os.close(clapper)
                _child(json.loads(line))
            own.add(pid)
            _say({"pid": pid})
    for pid in own:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
