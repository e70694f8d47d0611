"""How much group commit gains: 1,000 deployments of 20 transitions each, through the writer and one transaction each.

    python benchmarks/commit.py [--url postgresql://...] [--deployments 1000] [--transitions 20]

A transition is what the engine writes at each boundary: node, journal line, event. Two things are measured beside it in
the same run, on fewer transitions: one SQLAlchemy transaction for each transition, 16 at a time, which is what a daemon
without a writer does; and the writer with batches of one, which shows what the batches alone gain. Then 10,000 nodes
are loaded. Exits with 1 when the writer is less than 20 times as fast as one transaction each, or a load takes more
than 1.5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from metald.config import StoreSettings
from metald.model import Event, Node, ProvisionState, StepRecord, Workflow, WorkflowKind, now
from metald.store import batch
from metald.store.changes import Change
from metald.store.database import locate
from metald.store.store import Store
from metald.store.tables import metadata

BAR = 20.0
LOAD_BAR = 1.5


async def pairs(store: Store, number: int) -> list[tuple[Node, Workflow]]:
    """Nodes with a workflow each, as an operator's fleet has them."""
    info = {"ipmi_address": "10.0.0.1", "ipmi_username": "admin", "ipmi_password": "********"}
    found: list[tuple[Node, Workflow]] = []
    for start in range(0, number, 1000):
        nodes = [
            Node(driver="ipmi", driver_info=info, properties={"cpus": 64, "memory_mb": 1 << 18})
            for _ in range(start, min(start + 1000, number))
        ]
        workflows = [Workflow(node_uuid=node.uuid, kind=WorkflowKind.DEPLOY) for node in nodes]
        saved = (await store.commit(Change(save=[*nodes, *workflows]))).saved
        found += list(zip(saved[: len(nodes)], saved[len(nodes) :], strict=True))  # type: ignore[arg-type]
    return found


def step_line(node: Node, workflow: Workflow, cursor: int) -> StepRecord:
    """What a step leaves in the journal."""
    return StepRecord(
        workflow_uuid=workflow.uuid, node_uuid=node.uuid, cursor=cursor, attempt=1, interface="deploy", step="write_image",
        outcome="done", started_at=now(), ended_at=now(),
    )  # fmt: skip


def step_event(node: Node) -> Event:
    """What watchers hear of a step."""
    return Event(type="node.step", node_uuid=node.uuid, data={"step": "deploy.write_image", "outcome": "done"})


async def deploy(store: Store, node: Node, workflow: Workflow, transitions: int, latencies: list[float]) -> None:
    """One deployment's writes, each after the last is durable."""
    for cursor in range(transitions):
        begun = time.perf_counter()
        state = ProvisionState.DEPLOYING if cursor % 2 else ProvisionState.WAIT_CALL_BACK
        change = Change(save=[node.changed(provision_state=state)], journal=[step_line(node, workflow, cursor)], events=[step_event(node)])
        (node,) = (await store.commit(change)).saved  # type: ignore[assignment]
        latencies.append(time.perf_counter() - begun)


async def measure(store: Store, deployments: int, transitions: int, label: str) -> float:
    """Transitions a second."""
    rows = await pairs(store, deployments)
    latencies: list[float] = []
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(deploy(store, node, workflow, transitions, latencies) for node, workflow in rows))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    count = deployments * transitions
    latencies.sort()
    print(
        f"{label:24} {count:6} transitions in {wall:6.2f} s = {count / wall:7.0f}/s, CPU {cpu / count * 1e6:4.0f} us each, "
        f"p50 {statistics.median(latencies) * 1e3:5.1f} ms, p99 {latencies[int(count * 0.99)] * 1e3:5.1f} ms"
    )
    return count / wall


async def one_transaction_each(store: Store, url: URL, transitions: int) -> float:
    """Transitions a second of SQLAlchemy Core, 16 at a time; on SQLite one connection, as it takes one writer."""
    rows = await pairs(store, 16)
    await store.close()
    sqlite = url.get_backend_name() == "sqlite"
    engine = create_async_engine(url, pool_size=1 if sqlite else 16, max_overflow=0)
    tables = metadata().tables
    nodes, journal, events, counters = (tables[name] for name in ("nodes", "journal", "events", "counters"))

    async def deploy_one(node: Node, workflow: Workflow) -> None:
        for cursor in range(transitions):
            begun = now()
            new = msgspec.structs.replace(node.changed(provision_state=ProvisionState.DEPLOYING), version=node.version + 1)
            line, event = step_line(node, workflow, cursor), step_event(node)
            async with engine.begin() as connection:
                count = sa.update(counters).values(events=counters.c.events + 1, batches=counters.c.batches + 1)
                seq = (await connection.execute(count.returning(counters.c.events))).scalar_one()
                same = sa.and_(nodes.c.id == node.id, nodes.c.version == node.version)
                values = {"version": new.version, "doc": msgspec.json.encode(new).decode()}
                assert (await connection.execute(sa.update(nodes).where(same).values(values))).rowcount == 1
                place = {"node_uuid": node.uuid, "time": begun.timestamp()}
                doc = msgspec.json.encode(line).decode()
                await connection.execute(sa.insert(journal).values(workflow_uuid=workflow.uuid, doc=doc, **place))
                await connection.execute(sa.insert(events).values(seq=seq, doc=msgspec.json.encode(event).decode(), **place))
            node = new

    if sqlite:
        async with engine.connect() as connection:
            await connection.exec_driver_sql("PRAGMA synchronous=FULL")
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(deploy_one(node, workflow) for node, workflow in rows))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    await engine.dispose()
    count = 16 * transitions
    print(
        f"{'one transaction each':24} {count:6} transitions in {wall:6.2f} s = {count / wall:7.0f}/s, CPU {cpu / count * 1e6:4.0f} us each"
    )
    return count / wall


async def load(settings: StoreSettings, state_dir: Path) -> float:
    """Seconds until a store with 10,000 more nodes is open."""
    store = await Store.open(settings, state_dir)
    await pairs(store, 10_000 - len(store.table(Node)))
    await store.close()
    begun = time.perf_counter()
    store = await Store.open(settings, state_dir)
    seconds = time.perf_counter() - begun
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    print(f"{'open with all nodes':24} {len(store.table(Node)):6} nodes       in {seconds:6.2f} s; {resident} MiB resident")
    await store.close()
    return seconds


async def main() -> int:
    """Run all, print the figures, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="")
    parser.add_argument("--deployments", type=int, default=1000)
    parser.add_argument("--transitions", type=int, default=20)
    arguments = parser.parse_args()
    settings = StoreSettings(url=arguments.url)
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as directory:
        state_dir = Path(directory)
        store = await Store.open(settings, state_dir)
        grouped = await measure(store, arguments.deployments, arguments.transitions, "group commit")
        together, batch.MAX_CHANGES = batch.MAX_CHANGES, 1
        await measure(store, min(50, arguments.deployments), arguments.transitions, "writer, batches of one")
        batch.MAX_CHANGES = together
        single = await one_transaction_each(store, locate(settings, state_dir), arguments.transitions)
        seconds = await load(settings, state_dir)
    factor = grouped / single
    print(f"group commit is {factor:.0f} times as fast (bar: {BAR:.0f}); the load takes {seconds:.2f} s (bar: {LOAD_BAR} s)")
    return 0 if factor >= BAR and seconds <= LOAD_BAR else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
