"""Tells systemd that the daemon is ready, alive and stopping (sd_notify(3)): one datagram each, nothing without systemd."""

from __future__ import annotations

import asyncio
import os
import socket


def notify(message: str) -> None:
    """Send `READY=1`, `WATCHDOG=1`, `STOPPING=1` or `STATUS=...`; does nothing when systemd did not ask for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(message.encode())


async def watchdog() -> None:
    """Reassure systemd's watchdog twice per period, for ever. A loop that hangs does not, and is restarted."""
    period = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    while period > 0:
        notify("WATCHDOG=1")
        await asyncio.sleep(period / 2)
