"""Starts the boot servers that the settings ask for, and the doctor that follows what they see; low ports are bound here."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from metald import telemetry
from metald.boot import dhcp
from metald.boot.dhcp.lease_file import LeaseWatch
from metald.boot.dhcp.overhear import Overhearing
from metald.boot.dhcp.own import DhcpServer
from metald.boot.doctor import Doctor
from metald.boot.files import BootFiles
from metald.boot.http import BootHttp
from metald.boot.tftp.server import TftpServer
from metald.config import Settings
from metald.errors import MetaldError
from metald.images import kickstart
from metald.limits import Queue
from metald.listeners import naming
from metald.metrics import Metrics
from metald.statemachine.sightings import Sightings
from metald.store.store import Store

_REMEMBERED = 5000
"""Events of before the start that the doctor reads."""


class Serving(NamedTuple):
    """What runs."""

    doctor: Doctor
    queues: list[Queue]
    """Who waits for the servers."""
    later: dict[str, Callable[[], Awaitable[None]]]
    """What is to run in the background."""


async def serve(
    stack: contextlib.AsyncExitStack, settings: Settings, store: Store, sightings: Sightings, files: BootFiles, metrics: Metrics
) -> Serving:
    """Start them, and have the stack end them.

    Raises:
        ConfigError: an address cannot be bound, or a setting cannot work.
    """
    queues: list[Queue] = []
    later: dict[str, Callable[[], Awaitable[None]]] = {}
    doctor = Doctor(sightings, settings)
    stack.callback(doctor.close)
    metrics.add(telemetry.boots(doctor))
    with contextlib.suppress(MetaldError):  # it then knows nothing of before
        doctor.remember(await store.events(limit=_REMEMBERED, newest=True))
    stack.callback(store.subscribe(doctor.follow))
    if settings.dhcp.provider == "dnsmasq" and settings.dhcp.dnsmasq_leases:
        later["leases"] = LeaseWatch(Path(settings.dhcp.dnsmasq_leases), sightings).run
    if settings.dhcp.watch or dhcp.answers(settings):
        overhearing = Overhearing(sightings, files, settings)
        with naming("dhcp.watch", ", ".join(settings.dhcp.watch)):
            await overhearing.start()
        stack.callback(overhearing.close)
    if dhcp.answers(settings):
        dhcp_server = DhcpServer(sightings, files, settings)
        with naming("dhcp.interfaces", ", ".join(settings.dhcp.interfaces)):
            await dhcp_server.start()
        metrics.add(telemetry.dhcp(dhcp_server))
        stack.push_async_callback(dhcp_server.close)
    if settings.boot.tftp_listen:
        tftp = TftpServer(sightings, files, settings)
        with naming("boot.tftp_listen", settings.boot.tftp_listen):
            await tftp.start()
        metrics.add(telemetry.tftp(tftp))
        stack.push_async_callback(tftp.close)
    if settings.boot.http_listen:
        boot_http = BootHttp(sightings, files, settings, kickstart.render)
        with naming("boot.http_listen", settings.boot.http_listen):
            await boot_http.start()
        metrics.add(telemetry.boot_http(boot_http))
        queues += boot_http.queues
        if settings.boot.http_workers:
            later["boot HTTP workers"] = boot_http.work
        stack.push_async_callback(boot_http.close)
    return Serving(doctor, queues, later)
