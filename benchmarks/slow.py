"""10,000 slow clients at once: what they cost, and whether healthy clients are served beside them.

    python benchmarks/slow.py                 10,000 clients
    python benchmarks/slow.py --clients 2000

Starts a real daemon, measures healthy clients alone, then opens connections of four kinds (silent, slow heads, slow bodies,
readers that take nothing) and measures healthy clients again while all of them hang. Bars, in this file: no healthy request
fails, the daemon grows by at most 40 KiB a connection, p99 stays below 250 ms, and descriptors are given back in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.daemon import Daemon

MOST_PER_CLIENT = 40 << 10
MOST_P99 = 0.25
REQUESTS = 600
KINDS = (
    b"",
    b"GET /v1/nodes HTTP/1.1\r\nHost: metald\r\nX-A: ",
    b"POST /v1/chassis HTTP/1.1\r\nHost: metald\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
    b"GET /openapi.json HTTP/1.1\r\nHost: metald\r\n\r\n",
)


def rss(pid: int) -> int:
    """Resident memory in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def files(pid: int) -> int:
    """Open descriptors."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def cpu(pid: int) -> float:
    """Seconds of processor time that it has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def settled(pid: int) -> float:
    """Wait until it is nearly idle, at most a minute; how long that took."""
    begun, used = time.perf_counter(), cpu(pid)
    while time.perf_counter() - begun < 60:
        await asyncio.sleep(0.25)
        used, before = cpu(pid), used
        if used - before < 0.03:
            break
    return time.perf_counter() - begun


async def healthy(url: str) -> tuple[list[float], int]:
    """Latencies of new and kept connections that ask at once, and how many failed."""
    took: list[float] = []
    failed = 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal failed
        for n in range(REQUESTS // 8):
            begun = time.perf_counter()
            try:
                headers = {"Connection": "close"} if n % 4 == 0 else {}
                async with session.get(f"{url}/v1/nodes", headers=headers) as answer:
                    await answer.read()
                    failed += answer.status != 200
            except (aiohttp.ClientError, OSError):
                failed += 1
            took.append(time.perf_counter() - begun)

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        await asyncio.gather(*(client(session) for _ in range(8)))
    return sorted(took), failed


async def hang(url: str, count: int) -> list[socket.socket]:
    """Connections that hang about, each in one of the four ways."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    loop = asyncio.get_running_loop()
    held: list[socket.socket] = []
    for n in range(count):
        one = socket.socket()
        one.setblocking(False)
        if n % 4 == 3:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        # Addresses of the loopback network, as one has too few ports.
        one.bind((f"127.0.1.{1 + n // 5000}", 0))
        await loop.sock_connect(one, (parts.hostname, parts.port))
        with contextlib.suppress(ConnectionError):
            await loop.sock_sendall(one, KINDS[n % 4])
        held.append(one)
    return held


async def main(clients: int) -> int:
    """Measure; the exit status says whether the bars hold."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < clients + 200:
        print(f"the limit of open files, {hard}, is too low for {clients} clients: fewer are opened")
        clients = hard - 200
    with tempfile.TemporaryDirectory(prefix="metald-slow-") as name:
        async with Daemon(Path(name)) as daemon:
            await daemon.start()
            alone, failed_alone = await healthy(daemon.url)
            before, files_before = rss(daemon.pid), files(daemon.pid)
            begun = time.perf_counter()
            held = await hang(daemon.url, clients)
            opened = time.perf_counter() - begun
            arriving, failed_arriving = await healthy(daemon.url)
            settling = await settled(daemon.pid)
            beside, failed = await healthy(daemon.url)
            grown, files_with = rss(daemon.pid) - before, files(daemon.pid)
            for one in held:
                one.close()
            await settled(daemon.pid)
            after, failed_after = await healthy(daemon.url)
            files_after = files(daemon.pid)
            await daemon.stop()
    print(f"{clients} slow clients connected in {opened:.1f} s, dealt with {settling:.1f} s later")
    print(f"descriptors {files_before} -> {files_with} -> {files_after}")
    each = grown // clients >> 10
    print(f"memory {before >> 20} MiB, with them {grown >> 20} MiB more: {each} KiB each (at most {MOST_PER_CLIENT >> 10})")
    for label, took, lost in (
        ("alone", alone, failed_alone),
        ("while they arrive", arriving, failed_arriving),
        ("beside them", beside, failed),
        ("afterwards", after, failed_after),
    ):
        p99 = took[int(len(took) * 0.99)]
        print(f"healthy clients {label}: p50 {statistics.median(took) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, {lost} of {len(took)} failed")
    good = not (failed_alone or failed_arriving or failed or failed_after) and grown <= clients * MOST_PER_CLIENT
    good = good and beside[int(len(beside) * 0.99)] <= MOST_P99 and files_after < files_before + 100
    print("ok" if good else "a bar is missed")
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10_000)
    sys.exit(asyncio.run(main(parser.parse_args().clients)))
