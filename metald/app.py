"""The composition root: builds every part once, starts and stops them in order, owns every background task.

Start: state, drivers, boot servers, the API's address, engine, API; only then is the daemon ready. Stop: the API takes no
more requests, running steps come to their journal boundary (or are left to the next start), then the boot servers, drivers
and state go. Low ports are bound before root is given up, and nothing is driven or answered until it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from metald import account, boot_servers, log, outfit, runtime, sdnotify, telemetry
from metald.boot import dhcp
from metald.boot.files import BootFiles
from metald.boot.fills import fills_of
from metald.boot.fronts import Fronts
from metald.boot.loaders import read_paths
from metald.config import ConfigError, Settings
from metald.console.consoles import Consoles, port_range
from metald.drivers import ssh_library
from metald.drivers.agent.callback import networks as agent_networks
from metald.drivers.agent.deploy import AgentDeploy
from metald.drivers.agent.steps import priorities as agent_priorities
from metald.drivers.ipmi import hub as ipmi
from metald.drivers.registry import Registry
from metald.drivers.ssh.deploy import SshDeploy
from metald.drivers.ssh_host import hosts as hypervisors
from metald.errors import MetaldError
from metald.http import app as api
from metald.http.auth import build as authenticator
from metald.http.dispatcher import DISPATCHER
from metald.http.server import serving
from metald.images.cache import ImageCache
from metald.limits import Limits
from metald.listeners import bound
from metald.metrics import LoopLag, Metrics
from metald.model import Conductor as ConductorRecord
from metald.model import now
from metald.model.caller import SYSTEM
from metald.statemachine.agents import Agents
from metald.statemachine.conductor import Conductor
from metald.statemachine.engine import Engine
from metald.statemachine.fleet import Fleet
from metald.statemachine.hardware import Hardware
from metald.statemachine.inspection.more_hooks import wrong as inspection_mistake
from metald.statemachine.power_sync import PowerSync
from metald.statemachine.sensor_sweep import SensorSweep
from metald.statemachine.sightings import Sightings
from metald.statemachine.workflows import DEFINITIONS
from metald.store.changes import Change
from metald.store.database import Database, locate
from metald.store.pace import Pace
from metald.store.retention import forget_readers
from metald.store.store import Store

if TYPE_CHECKING:
    from metald.amqp.service import Broker

_log = logging.getLogger(__name__)

_PURGES = 1000
"""Most calls of `Store.purge`, each of which does bounded work, in an hour."""


async def serve(settings: Settings) -> int:
    """Run the daemon until SIGTERM or SIGINT.

    Returns:
        The process's exit status: 0 after a clean stop.
    """
    log.configure(settings.log)
    runtime.prepare()
    stop = asyncio.Event()
    starting = asyncio.current_task()
    assert starting is not None

    def asked() -> None:
        stop.set()
        if starting is not None:
            starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked)
    try:
        async with running(settings) as daemon:
            starting = None
            _log.info("ready: API on %s", daemon.url)
            sdnotify.notify("READY=1")
            await daemon.until(stop)
            sdnotify.notify("STOPPING=1")
            _log.info("stopping")
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        _log.info("told to stop before it was ready")
    except (ConfigError, MetaldError, OSError) as error:
        _log.error("cannot run: %s", error)
        return 1
    _log.info("stopped")
    return 0


def check(settings: Settings) -> None:
    """Try every setting that only the part which uses it can judge; nothing is started, bound or written.

    Raises:
        ConfigError: names the setting, what is wrong, and the remedy.
    """
    account.find(settings.user)
    Database(locate(settings.store, Path(settings.state_dir)), settings.store.timeout)
    authenticator(settings)
    api.ssl_context(settings.api)
    dhcp.provider(settings)
    Fronts(settings)
    read_paths(settings.boot.loader_file_paths)
    agent_networks(settings.agent.callback_networks)
    agent_priorities(settings.agent.clean_step_priorities)
    if settings.amqp.url:
        from metald.amqp.commands.callers import Callers
        from metald.amqp.link import Link

        Link(settings.amqp, "check")
        Callers(settings.amqp.commands)
    port_range(settings.console.port_range)
    if mistake := inspection_mistake(settings.inspection):
        raise ConfigError(mistake)
    outfit.enabled_types(settings)


class Daemon:
    """A running daemon.

    Args:
        url: where its API is.
        background: the task that owns every other one; it ends only by a defect or at the stop.
    """

    def __init__(self, url: str, background: asyncio.Task[None]) -> None:
        self.url = url
        self._background = background

    async def until(self, stop: asyncio.Event) -> None:
        """Return once `stop` is set.

        Raises:
            Exception: a background task died; the daemon must not go on without it.
        """
        waiting = asyncio.ensure_future(stop.wait())
        await asyncio.wait([waiting, self._background], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._background.done():
            self._background.result()


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Daemon]:
    """Build and start everything; stop it in the opposite order.

    Raises:
        ConfigError: a setting cannot work, an address cannot be bound, or the account of `user` could not work.
        Unavailable: the state cannot be opened.
    """
    state_dir = Path(settings.state_dir)
    account.find(settings.user)
    async with contextlib.AsyncExitStack() as stack:
        store = await Store.open(settings.store, state_dir)
        stack.push_async_callback(store.close)
        hub = ipmi.IpmiHub(settings.drivers.ipmi)
        await hub.start()
        stack.push_async_callback(hub.close)
        images = ImageCache(settings.images, state_dir)
        ssh = SshDeploy(settings, images)
        stack.push_async_callback(ssh.close)
        direct = AgentDeploy(settings, images)
        stack.push_async_callback(direct.close)
        hosts = hypervisors.Hosts(settings.drivers.ssh_host)
        stack.push_async_callback(hosts.close)
        consoles = await stack.enter_async_context(Consoles(settings.console, state_dir))
        fills = fills_of(settings)
        stack.push_async_callback(fills.close)
        registry = outfit.registry(settings, hub, ssh, direct, hosts, consoles, fills)
        hostname = settings.conductor.name or socket.gethostname()
        engine = Engine(store, registry, DEFINITIONS, settings.conductor, hostname)
        sightings = Sightings(store, engine)
        lag = LoopLag()
        metrics = _metrics(store, hub, lag)
        broker = await _broker(settings, store, hostname, metrics)
        await _register(store, registry, hostname)
        files = BootFiles(sightings, settings, images.image_for, fills)
        boots = await boot_servers.serve(stack, settings, store, sightings, files, metrics)
        logins = [hub.window.queue, ssh.handshakes.queue, hosts.handshakes.queue]
        limits = Limits([*logins, images.downloads.queue, images.conversions.queue, *boots.queues])
        metrics.add(telemetry.queues(limits))
        conductor = Conductor(store, registry, engine, settings)
        ready = asyncio.Event()
        fleet = Fleet(store, registry, settings)
        await fleet.allocations.resume()
        hardware = Hardware(store, registry, engine, settings)
        sensors = SensorSweep(store, registry, settings.conductor.sensor_interval, _in_background)
        application = api.build(
            settings=settings,
            store=store,
            registry=registry,
            conductor=conductor,
            hardware=hardware,
            agents=Agents(store, engine, settings, direct.alive),
            fleet=fleet,
            consoles=consoles,
            doctor=boots.doctor,
            ready=ready.is_set,
            metrics=metrics,
            limits=limits,
            readings=sensors.readings,
        )
        if broker is not None:
            broker.take_commands(application[DISPATCHER])
        tls = api.ssl_context(settings.api)  # its key may be root's alone
        listeners = await bound(settings.api.listen)
        for listener in listeners:
            stack.callback(listener.close)
        await asyncio.to_thread(account.drop_root, settings, store.file, images.directory)
        correct = (lambda uuid, target: conductor.set_power(uuid, target, SYSTEM)) if settings.conductor.force_power_state else None
        power_sync = PowerSync(store, registry, settings.conductor.power_sync_interval, _in_background, correct)
        if settings.console.ssh_listen:
            from metald.console.ssh import SshConsoles

            await stack.enter_async_context(SshConsoles(consoles, lambda name: fleet.nodes.find(name).uuid))
        stack.callback(store.subscribe(consoles.follow))
        forever: dict[str, Callable[[], Awaitable[None]]] = {
            "sightings": sightings.run,
            "power sync": power_sync.run,
            "sensors": sensors.run,
            "consoles": hardware.resume_consoles,
            "watchdog": sdnotify.watchdog,
            "retention": partial(_purge, store, settings),
            "tidy": runtime.tidy,
            "images": images.run,
            "hypervisor hosts": hosts.run,
            "loop lag": lag.run,
            "SSH library": partial(_after, ready, ssh_library.load),
            **boots.later,
        }
        if broker is not None:
            forever["broker"] = broker.run
        background = asyncio.create_task(_background(engine, forever), name="background")
        stack.push_async_callback(_end, background, engine, sightings)
        url = await _serve_api(stack, settings, application, listeners, tls)
        ready.set()
        yield Daemon(url, background)
        ready.clear()


@contextlib.contextmanager
def _in_background() -> Iterator[None]:
    """Have drivers give others precedence."""
    with ipmi.background(), hypervisors.background():
        yield


def _metrics(store: Store, hub: ipmi.IpmiHub, lag: LoopLag) -> Metrics:
    """What is told of the parts that always run."""
    metrics = Metrics()
    for source in (lag.families, telemetry.fleet(store), telemetry.events(store), telemetry.bmcs(hub)):
        metrics.add(source)
    return metrics


async def _serve_api(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    application: web.Application,
    listeners: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
) -> str:
    """Answer on sockets that are bound already, until the stack ends. Returns the API's address."""
    url = _url(settings, listeners[0])
    await stack.enter_async_context(serving(application, listeners, tls))
    return url


async def _broker(settings: Settings, store: Store, hostname: str, metrics: Metrics) -> Broker | None:
    """The broker's part, if there is one; nothing of it is loaded otherwise."""
    amqp = settings.amqp
    if not (amqp.url and (amqp.publish or amqp.notifications)):
        await forget_readers(store, hostname)
    if not amqp.url:
        return None
    from metald.amqp.metrics import source
    from metald.amqp.service import Broker

    broker = Broker(settings, store, hostname)
    await broker.prepare()
    metrics.add(partial(source, broker))
    return broker


async def _background(engine: Engine, forever: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
    """Run the engine until it is told to stop, and the others meanwhile."""
    async with asyncio.TaskGroup() as group:
        others = [group.create_task(_run(work), name=name) for name, work in forever.items()]
        await engine.run()
        for task in others:
            task.cancel()


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def _after(ready: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    """What nobody who waits for the daemon to come up should wait for."""
    await ready.wait()
    await work()


async def _purge(store: Store, settings: Settings) -> None:
    """Let go of old events and journals, a little at a time, every hour."""
    pace = Pace()
    while True:
        await asyncio.sleep(3600)
        if not pace.believed():
            continue
        try:
            for _ in range(_PURGES):
                if not await store.purge(unread_before=now() - timedelta(days=settings.amqp.unpublished_retention_days)):
                    break
        except MetaldError as error:
            _log.warning("old events could not be removed: %s", error)


async def _end(background: asyncio.Task[None], engine: Engine, sightings: Sightings) -> None:
    await engine.stop()
    try:
        await background
    finally:
        await sightings.flush()


async def _register(store: Store, registry: Registry, hostname: str) -> None:
    """Make this daemon known as a conductor."""
    drivers = [t.name for t in registry.hardware_types()]
    known = store.table(ConductorRecord).by("hostname", hostname)
    record = ConductorRecord(hostname=hostname, drivers=drivers) if known is None else known.changed(drivers=drivers, heartbeat_at=now())
    await store.commit(Change(save=[record]))


def _url(settings: Settings, listener: socket.socket) -> str:
    scheme = "https" if settings.api.tls_certificate else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
