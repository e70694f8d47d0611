"""Deployments by commands of a foreign program, while metald is killed and the broker restarted. Needs Debian's rabbitmq-server.

    python benchmarks/survival.py [--nodes 1000] [--kills 5] [--restarts 2] [--seconds 30] [--graceful]

Nodes of fake-hardware are made by commands of many, then a program written with kombu publishes a `node.deploy` for each, spread
over `--seconds`, while metald gets SIGKILL and is started again `--kills` times, and the broker gets SIGKILL (or, with `--graceful`,
a stop) and is started again `--restarts` times, at random moments of the storm (`--seed`). Another such program reads every event.

Bars: every node becomes active; each was deployed once (one start and one end of a deployment among its events, one workflow); the consumer
gets every event of the sequence, those of each node in order, and what comes twice is the same to the byte; nothing is put aside, nothing
waits, and no daemon met a defect. Exits with 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts.broker import broker
from tests.support.daemon import Daemon, api
from tests.support.rabbit import PrivateRabbit

ROOT = Path(__file__).resolve().parent.parent
_PATIENCE = 900.0


async def foreign(*words: str) -> asyncio.subprocess.Process:
    """Start one of the foreign programs."""
    command = (sys.executable, "-W", "ignore", "-m", "benchmarks.parts.foreign", *words)
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)


async def fleet(url: str, nodes: int) -> None:
    """Make the nodes, and make them available, by commands of many."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        replies = await channel.declare_queue(exclusive=True)
        exchange = await channel.get_exchange("metald.commands")
        names = [f"bench-{number}" for number in range(nodes)]
        items = [{"driver": "fake-hardware", "name": name} for name in names]
        bodies: list[tuple[str, dict[str, Any]]] = [("node.create", {"items": items})]
        bodies += [(verb, {"nodes": names}) for verb in ("node.manage", "node.provide")]
        async with replies.iterator(no_ack=True) as answers:
            for verb, body in bodies:
                message = aio_pika.Message(orjson.dumps(body), content_type="application/json", message_id=verb, reply_to=replies.name)
                await exchange.publish(message, verb)
                answer = orjson.loads((await anext(answers)).body)
                if answer["status"] != "accepted":
                    raise RuntimeError(f"{verb}: {answer}")


async def counted(client: Any, state: str) -> int:
    """How many nodes are in a state; 0 while the daemon is away."""
    found, path = 0, f"/v1/nodes?provision_state={state}&fields=uuid&limit=1000"
    try:
        while path:
            page = await client.ask("GET", path)
            found += len(page["nodes"])
            following = page.get("next") or ""
            path = following[following.find("/v1/") :] if following else ""
    except aiohttp.ClientError:
        return 0
    return found


async def trouble(daemon: Daemon, rabbit: PrivateRabbit, arguments: argparse.Namespace) -> None:
    """Kill and restart, at random moments."""
    chance = random.Random(arguments.seed)
    blows = [*["metald"] * arguments.kills, *["broker"] * arguments.restarts]
    chance.shuffle(blows)
    moments = sorted(chance.uniform(0.05, 1.0) * arguments.seconds for _ in blows)
    begun = time.perf_counter()
    for moment, blow in zip(moments, blows, strict=True):
        await asyncio.sleep(max(0.0, moment - (time.perf_counter() - begun)))
        print(f"  {time.perf_counter() - begun:6.1f} s: {blow}", flush=True)
        if blow == "metald":
            await daemon.kill()
            await daemon.start()
        elif arguments.graceful:
            await asyncio.to_thread(rabbit.pause)
            await asyncio.to_thread(rabbit.resume)
        else:
            await asyncio.to_thread(rabbit.kill)
            await asyncio.to_thread(rabbit.start)


async def history(client: Any) -> list[dict[str, Any]]:
    """Every event there was."""
    found: list[dict[str, Any]] = []
    since = 0
    while (page := await client.ask("GET", f"/v1/events?since={since}"))["next"] > since:
        found += page["events"]
        since = page["next"]
    return found


def deployed_once(events: list[dict[str, Any]], nodes: int) -> list[str]:
    """What is wrong with the deployments, by the events."""
    begun: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for event in events:
        if event["type"] == "node.provision" and event["data"]["event"] == "deploy":
            begun[event["node_uuid"]] += 1
        if event["type"] == "node.workflow" and event["data"]["kind"] == "deploy":
            ended[event["node_uuid"]] += 1
    faults = []
    for word, counts in (("began", begun), ("ended", ended)):
        if len(counts) != nodes:
            faults.append(f"deployments {word} of {len(counts)} nodes, not of {nodes}")
        faults += [f"the deployment of {uuid} {word} {count} times" for uuid, count in counts.items() if count != 1]
    return faults


def consumed(lines: list[str], events: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What is wrong with what the consumer got; and how much came twice."""
    bodies: dict[int, str] = {}
    order: list[int] = []
    keys: dict[str, int] = {}
    faults, doubles = [], 0
    for line in lines:
        word, key, digest = line.split()
        number, node = int(word), key.split(".")[1]
        if number in bodies:
            doubles += 1
            if bodies[number] != digest:
                faults.append(f"event {number} came with two bodies")
            continue
        bodies[number] = digest
        order.append(number)
        if keys.get(node, 0) > number:
            faults.append(f"event {number} of {node} came after {keys[node]}")
        keys[node] = number
    missing = {event["seq"] for event in events} - bodies.keys()
    if missing:
        faults.append(f"{len(missing)} events never came, such as {sorted(missing)[:5]}")
    if order != sorted(order):
        faults.append("first sights are not in sequence")
    return faults, doubles


async def left(url: str) -> dict[str, int]:
    """How many messages lie in the queues of commands."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        names = ("metald.commands", "metald.commands.urgent", "metald.commands.dead")
        found = {name: await channel.declare_queue(name, passive=True) for name in names}
        return {name: queue.declaration_result.message_count or 0 for name, queue in found.items()}


async def measure(rabbit: PrivateRabbit, folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Do it all; what is wrong."""
    url, nodes, told = rabbit.url(rabbit.fresh_host()), arguments.nodes, folder / "events"
    settings = {"amqp.url": url, "conductor.automated_clean": "false", "drivers.fake.deploy_delay": 0.2, "log.level": "warning"}
    consumer = await foreign("consume", url, str(told))
    try:
        assert consumer.stdout is not None
        await consumer.stdout.readline()
        async with Daemon(folder, settings) as daemon, api(daemon) as client:
            await daemon.start()
            await ready(url)
            await fleet(url, nodes)
            while await counted(client, "available") < nodes:
                await asyncio.sleep(0.2)
            begun = time.perf_counter()
            producer = await foreign("produce", url, "0", str(nodes - 1), str(arguments.seconds))
            await trouble(daemon, rabbit, arguments)
            async with asyncio.timeout(_PATIENCE):
                if await producer.wait():
                    raise RuntimeError("the producer failed")
                while await counted(client, "active") < nodes:
                    await asyncio.sleep(0.2)
                wall = time.perf_counter() - begun
                last = (await client.ask("GET", "/v1/events?limit=1"))["last_seq"]
                while not any(line.startswith(f"{last} ") for line in told.read_text().splitlines()):
                    await asyncio.sleep(0.2)
            events, lines = await history(client), told.read_text().splitlines()
            waiting = await left(url)
            await daemon.stop()
            defects = [sign for sign in ("Traceback", "has a defect", "never awaited") if sign in daemon.output()]
    finally:
        if consumer.returncode is None:
            consumer.send_signal(signal.SIGTERM)
            await consumer.wait()
    faults, doubles = consumed(lines, events)
    faults += deployed_once(events, nodes)
    faults += [f"{count} messages are left in {name}" for name, count in waiting.items() if count]
    faults += [f"the log has {sign!r}" for sign in defects]
    print(f"{nodes} active in {wall:.1f} s; {len(events)} events, each of which the consumer got, {doubles} of them twice")
    return faults


async def ready(url: str) -> None:
    """Wait until metald has made its queue."""
    connection = await aio_pika.connect(url)
    async with connection, asyncio.timeout(60):
        while True:
            channel = await connection.channel()
            try:
                await channel.get_queue("metald.commands.urgent")
                return
            except aio_pika.exceptions.AMQPError:
                await asyncio.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000, help="how many are deployed, at most 1000")
    parser.add_argument("--kills", type=int, default=5, help="how often metald is killed")
    parser.add_argument("--restarts", type=int, default=2, help="how often the broker is restarted")
    parser.add_argument("--seconds", type=float, default=30.0, help="over how many seconds the commands are spread")
    parser.add_argument("--seed", type=int, default=1, help="what chance is made of")
    parser.add_argument("--graceful", action="store_true", help="stop the broker instead of killing it")
    arguments = parser.parse_args()
    with broker() as rabbit, tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        faults = asyncio.run(measure(rabbit, Path(folder), arguments))
    for fault in faults[:20]:
        print(f"MISSED: {fault}")
    print(f"{'A BAR WAS MISSED' if faults else 'all bars held'}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
