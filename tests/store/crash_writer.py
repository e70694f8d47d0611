"""A process for the crash test: moves nodes on as fast as it can and prints what was acknowledged, until it is killed.

Usage: python crash_writer.py STATE_DIR URL
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from metald.config import StoreSettings
from metald.model import Event, Node, StepRecord, Workflow, WorkflowKind, now
from metald.store.changes import Change
from metald.store.store import Store


async def main() -> None:
    store = await Store.open(StoreSettings(url=sys.argv[2]), Path(sys.argv[1]))

    async def drive(i: int) -> None:
        node, workflow = Node(driver="x", name=f"n{i}"), None
        workflow = Workflow(node_uuid=node.uuid, kind=WorkflowKind.DEPLOY)
        node, workflow = (await store.commit(Change(save=[node, workflow]))).saved
        for cursor in range(1, 100_000):
            line = StepRecord(
                workflow_uuid=workflow.uuid, node_uuid=node.uuid, cursor=cursor, attempt=1, interface="deploy", step="s", outcome="done",
                started_at=now(), ended_at=now(),
            )  # fmt: skip
            change = Change(
                save=[node.changed(extra={"cursor": cursor}), workflow.changed(cursor=cursor)],
                journal=[line],
                events=[Event(type="node.step", node_uuid=node.uuid, data={"cursor": cursor})],
            )
            node, workflow = (await store.commit(change)).saved
            os.write(1, f"{i} {cursor}\n".encode())

    await asyncio.gather(*map(drive, range(20)))


asyncio.run(main())
