"""Composes the HTTP API: what its handlers work with, who authenticates, what documents it publishes, and how it stops."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping

import orjson
from aiohttp import web

from metald import __version__
from metald.boot.doctor import Doctor
from metald.config import Api, Settings
from metald.console.consoles import Consoles
from metald.drivers.registry import Registry
from metald.http import auth, openapi, tls
from metald.http.call import Services
from metald.http.console_socket import ConsoleSockets
from metald.http.dispatcher import DISPATCHER, Dispatcher
from metald.http.gate import Gate
from metald.http.longpoll import LongPolls
from metald.http.published import Site
from metald.http.routes import ROUTES
from metald.http.screen_socket import ScreenSockets
from metald.http.views import Views
from metald.http.watch.hub import Hub
from metald.limits import Limits
from metald.metrics import Metrics
from metald.model import INTERFACES, asyncapi
from metald.statemachine.adviser import Adviser
from metald.statemachine.agents import Agents
from metald.statemachine.conductor import Conductor
from metald.statemachine.fleet import Fleet
from metald.statemachine.hardware import Hardware
from metald.statemachine.sensor_sweep import Reading
from metald.store.store import Store

GATE = web.AppKey("gate", Gate)
"""The application's gate, which `server` puts before it."""


def ssl_context(settings: Api) -> ssl.SSLContext | None:
    """The TLS context of the listener; see `tls.context`."""
    return tls.context(settings)


def build(
    *,
    settings: Settings,
    store: Store,
    registry: Registry,
    conductor: Conductor,
    hardware: Hardware,
    agents: Agents,
    fleet: Fleet,
    consoles: Consoles,
    doctor: Doctor,
    ready: Callable[[], bool],
    metrics: Metrics | None = None,
    limits: Limits | None = None,
    readings: Mapping[str, Reading] | None = None,
) -> web.Application:
    """The application that serves the whole API.

    Raises:
        ConfigError: the settings of authentication cannot work.
    """
    views = Views(lambda _node: conductor.hostname)
    polls = LongPolls(store.watches)
    limits = limits or Limits()
    hub = Hub(store, settings.api.watch)
    metrics = metrics or Metrics()
    services = Services(
        settings=settings,
        store=store,
        registry=registry,
        conductor=conductor,
        hardware=hardware,
        agents=agents,
        fleet=fleet,
        ready=ready,
        views=views,
        openapi=orjson.dumps(openapi.document(ROUTES, views, _site(settings, registry))),
        asyncapi=orjson.dumps(asyncapi.document(__version__, settings.amqp.exchange, settings.amqp.commands.exchange)),
        watch=hub,
        polls=polls,
        adviser=Adviser(store, registry, conductor, limits),
        metrics=metrics,
        limits=limits,
        readings=readings if readings is not None else {},
        doctor=doctor,
    )
    authenticator = auth.build(settings)
    application = web.Application(client_max_size=0)
    application[GATE] = gate = Gate(settings.api)
    dispatcher = Dispatcher(services, authenticator, gate)
    metrics.add(dispatcher.traffic.families)
    metrics.add(hub.families)
    application.on_shutdown.append(services.watch.shutdown)
    application[DISPATCHER] = dispatcher
    _serve_consoles(application, consoles)
    application.router.add_route("*", r"/{path:[\s\S]*}", dispatcher.handle)  # line ends too: no path is answered elsewhere
    _end_with(application, polls, authenticator)
    return application


def _end_with(application: web.Application, polls: LongPolls, authenticator: auth.Authenticator) -> None:
    """Have who waits answered when the daemon stops, and what was opened closed."""

    async def stopping(_application: web.Application) -> None:
        polls.close()

    async def close(_application: web.Application) -> None:
        await authenticator.close()

    application.on_shutdown.append(stopping)
    application.on_cleanup.append(close)


def _serve_consoles(application: web.Application, consoles: Consoles) -> None:
    sockets, screens = ConsoleSockets(consoles), ScreenSockets(consoles)
    for doors in (sockets, screens):
        application.on_shutdown.append(doors.shutdown)
    application.router.add_get("/v1/console/{node}", sockets.handle)
    application.router.add_get("/v1/screen/{node}", screens.handle)


def _site(settings: Settings, registry: Registry) -> Site:
    """What the OpenAPI document says of this daemon."""
    drivers = sorted(hardware_type.name for hardware_type in registry.hardware_types())
    interfaces = {kind: sorted({name for driver in drivers for name in registry.supported(driver, kind)}) for kind in INTERFACES}
    return Site(settings.api.auth, drivers, interfaces)
