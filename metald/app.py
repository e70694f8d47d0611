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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from metald import account, boot_servers, log, runtime, sdnotify, telemetry
from metald.boot import dhcp
from metald.boot.doctor import Doctor
from metald.boot.files import BootFiles
from metald.boot.fronts import Fronts
from metald.boot.loaders import read_paths
from metald.config import ConfigError, Settings
from metald.console.consoles import port_range
from metald.drivers import ssh_library
from metald.drivers.agent.callback import networks as agent_networks
from metald.drivers.agent.steps import priorities as agent_priorities
from metald.drivers.ipmi import hub as ipmi
from metald.drivers.ssh_host import hosts as hypervisors
from metald.errors import MetaldError
from metald.http import app as api
from metald.http.auth import build as authenticator
from metald.http.dispatcher import DISPATCHER
from metald.http.server import serving
from metald.limits import Limits
from metald.listeners import bound
from metald.metrics import LoopLag, Metrics
from metald.model import Conductor as ConductorRecord
from metald.model import now
from metald.model.caller import SYSTEM
from metald.outfit import Outfit, enabled_types, fit_out
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

        Link(settings.amqp, "check", "events")
        Callers(settings.amqp.commands)
    port_range(settings.console.port_range)
    if mistake := inspection_mistake(settings.inspection):
        raise ConfigError(mistake)
    enabled_types(settings)


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
    account.find(settings.user)
    async with contextlib.AsyncExitStack() as stack:
        core = await _core(stack, settings)
        broker = await _broker(settings, core)
        await _register(core)
        files = BootFiles(core.sightings, settings, core.outfit.images.image_for, core.outfit.fills)
        boots = await boot_servers.serve(stack, settings, core.store, core.sightings, files, core.metrics)
        limits = Limits([*core.outfit.queues, *boots.queues])
        core.metrics.add(telemetry.queues(limits))
        await core.fleet.allocations.resume()
        ready = asyncio.Event()
        application = _application(settings, core, boots.doctor, limits, ready)
        if broker is not None:
            broker.take_commands(application[DISPATCHER])
        tls = api.ssl_context(settings.api)  # its key may be root's alone
        listeners = await bound(settings.api.listen)
        for listener in listeners:
            stack.callback(listener.close)
        await asyncio.to_thread(account.drop_root, settings, core.store.file, core.outfit.images.directory)
        await _let_in_by_ssh(stack, settings, core)
        stack.callback(core.store.subscribe(core.outfit.consoles.follow))
        forever = _forever(settings, core, ready) | boots.later
        if broker is not None:
            forever["broker"] = broker.run
        background = asyncio.create_task(_background(core.engine, forever), name="background")
        stack.push_async_callback(_end, background, core.engine, core.sightings)
        url = _url(settings, listeners[0])
        await stack.enter_async_context(serving(application, listeners, tls))
        ready.set()
        yield Daemon(url, background)
        ready.clear()


class _Core(NamedTuple):
    """What every way in leads to."""

    hostname: str
    store: Store
    outfit: Outfit
    engine: Engine
    sightings: Sightings
    conductor: Conductor
    hardware: Hardware
    fleet: Fleet
    sensors: SensorSweep
    lag: LoopLag
    metrics: Metrics


async def _core(stack: contextlib.AsyncExitStack, settings: Settings) -> _Core:
    """Open the state, and make what works on it; the stack closes it."""
    store = await Store.open(settings.store, Path(settings.state_dir))
    stack.push_async_callback(store.close)
    outfit = await fit_out(stack, settings)
    hostname = settings.conductor.name or socket.gethostname()
    engine = Engine(store, outfit.registry, DEFINITIONS, settings.conductor, hostname)
    lag = LoopLag()
    metrics = Metrics()
    for source in (lag.families, telemetry.fleet(store), telemetry.events(store), telemetry.bmcs(outfit.hub)):
        metrics.add(source)
    return _Core(
        hostname=hostname,
        store=store,
        outfit=outfit,
        engine=engine,
        sightings=Sightings(store, engine),
        conductor=Conductor(store, outfit.registry, engine, settings),
        hardware=Hardware(store, outfit.registry, engine, settings),
        fleet=Fleet(store, outfit.registry, settings),
        sensors=SensorSweep(store, outfit.registry, settings.conductor.sensor_interval, _in_background),
        lag=lag,
        metrics=metrics,
    )


def _application(settings: Settings, core: _Core, doctor: Doctor, limits: Limits, ready: asyncio.Event) -> web.Application:
    return api.build(
        settings=settings,
        store=core.store,
        registry=core.outfit.registry,
        conductor=core.conductor,
        hardware=core.hardware,
        agents=Agents(core.store, core.engine, settings, core.outfit.direct.alive),
        fleet=core.fleet,
        consoles=core.outfit.consoles,
        doctor=doctor,
        ready=ready.is_set,
        metrics=core.metrics,
        limits=limits,
        readings=core.sensors.readings,
    )


async def _let_in_by_ssh(stack: contextlib.AsyncExitStack, settings: Settings, core: _Core) -> None:
    """Serve consoles by SSH, where the settings say so; the library is not loaded otherwise."""
    if settings.console.ssh_listen:
        from metald.console.ssh import SshConsoles

        await stack.enter_async_context(SshConsoles(core.outfit.consoles, lambda name: core.fleet.nodes.find(name).uuid))


def _forever(settings: Settings, core: _Core, ready: asyncio.Event) -> dict[str, Callable[[], Awaitable[None]]]:
    """What runs in the background."""
    conductor = core.conductor
    correct = (lambda uuid, target: conductor.set_power(uuid, target, SYSTEM)) if settings.conductor.force_power_state else None
    power_sync = PowerSync(core.store, core.outfit.registry, settings.conductor.power_sync_interval, _in_background, correct)
    return {
        "sightings": core.sightings.run,
        "power sync": power_sync.run,
        "sensors": core.sensors.run,
        "consoles": core.hardware.resume_consoles,
        "watchdog": sdnotify.watchdog,
        "retention": partial(_purge, core.store, settings),
        "tidy": runtime.tidy,
        "images": core.outfit.images.run,
        "hypervisor hosts": core.outfit.hosts.run,
        "loop lag": core.lag.run,
        "SSH library": partial(_after, ready, ssh_library.load),
    }


@contextlib.contextmanager
def _in_background() -> Iterator[None]:
    """Have drivers give others precedence."""
    with ipmi.background(), hypervisors.background():
        yield


async def _broker(settings: Settings, core: _Core) -> Broker | None:
    """The broker's part, if there is one; nothing of it is loaded otherwise."""
    amqp = settings.amqp
    if not (amqp.url and (amqp.publish or amqp.notifications)):
        await forget_readers(core.store, core.hostname)
    if not amqp.url:
        return None
    from metald.amqp.metrics import source
    from metald.amqp.service import Broker

    broker = Broker(settings, core.store, core.hostname)
    await broker.prepare()
    core.metrics.add(partial(source, broker))
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


async def _register(core: _Core) -> None:
    """Make this daemon known as a conductor."""
    drivers = [kind.name for kind in core.outfit.registry.hardware_types()]
    known = core.store.table(ConductorRecord).by("hostname", core.hostname)
    record = (
        ConductorRecord(hostname=core.hostname, drivers=drivers) if known is None else known.changed(drivers=drivers, heartbeat_at=now())
    )
    await core.store.commit(Change(save=[record]))


def _url(settings: Settings, listener: socket.socket) -> str:
    scheme = "https" if settings.api.tls_certificate else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
