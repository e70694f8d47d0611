"""Link: a connection to the broker, kept up for as long as the daemon runs.

There are two: one publishes, the other consumes. A broker with an alarm (memory, disk) reads nothing more from a connection that
publishes, and could not hear from a consumer there what is done.

Rules: the daemon never waits for the broker. Users are coroutines: each is run with every connection that comes up, and
is cancelled when that connection is lost; a user that fails for a reason of its own (its channel was closed, its
exchange is gone) is run again after a pause, on the same connection. Pauses double, with jitter, up to a bound. What went
wrong is logged once for each cause, without the password, and is counted. Every request of a user needs a deadline of its
own: `Link.timeout`. A user with a defect disturbs no other; it is logged with its trace, and run again too. aiormq answers
the cancellation of a request by one more, which on a dead connection waits for ever, so users are cancelled until they
have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import AbstractChannel as RawChannel
from aiormq.exceptions import AMQPConnectionError, AMQPError, AuthenticationError, ChannelInvalidStateError, ProbableAuthenticationError
from pamqp.common import FieldTable
from yarl import URL

from metald.amqp.decoding import be_lenient
from metald.config import Amqp, ConfigError

_log = logging.getLogger(__name__)

_LONGEST_PAUSE = 5.0
_STEADY = 10.0
"""Seconds after which what has worked counts as healthy: the next pause is a short one again."""
_CLOSING = 5.0

User = Callable[[AbstractConnection], Awaitable[None]]

TROUBLE = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError, EOFError)
"""What connections and channels raise when the broker refuses or goes away."""


class Link:
    """One connection, its users, and what became of both.

    Args:
        settings: where the broker is.
        name: shown by the broker's tools as the connection's name.
        carries: what waits while it is down, for logs.

    Raises:
        ConfigError: the address or a TLS file cannot be used.
    """

    def __init__(self, settings: Amqp, name: str, carries: str) -> None:
        try:
            self._url = URL(settings.url).update_query(heartbeat=str(settings.heartbeat))
            port = self._url.port
        except ValueError:
            raise ConfigError("amqp.url is no address of a broker. Write amqp://user:password@host/vhost.") from None
        be_lenient()
        self._settings = settings
        self._tls = tls(settings) if self._url.scheme == "amqps" else None
        self._name = name
        self._carries = carries
        self._users: list[tuple[str, User]] = []
        self._connection: AbstractConnection | None = None
        self.address = f"{self._url.host}:{port or (5671 if self._tls else 5672)}"
        """`host:port` of the broker, as logs show it."""
        self.timeout = settings.timeout
        """Seconds that one request may take."""
        self.connects = 0
        """How often a connection came up."""
        self.losses = 0
        """How often one that was up was lost."""
        self.failures = 0
        """How often connecting failed."""
        self.refusals = 0
        """How often a user of the connection failed for a reason of its own."""
        self.up = asyncio.Event()
        """Set while there is a connection."""
        self.down = asyncio.Event()
        """Set while there is none."""
        self.down.set()

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self.up.is_set()

    @property
    def blocked(self) -> bool:
        """Whether the broker has an alarm (memory, disk) and takes nothing from us until it is over."""
        transport = getattr(self._connection, "transport", None)
        return transport is not None and _waits(transport.connection.ready())

    async def unblocked(self) -> None:
        """Wait until the broker takes messages again; returns at once when it does, or when there is no connection."""
        transport = getattr(self._connection, "transport", None)
        if transport is not None:
            await transport.connection.ready()

    def attach(self, name: str, user: User) -> None:
        """Have `user` run with each connection. Before `run`; `name` is for logs."""
        self._users.append((name, user))

    @contextlib.asynccontextmanager
    async def channel(self, connection: AbstractConnection) -> AsyncIterator[AbstractChannel]:
        """A new channel, with confirms, and with the link's deadline. It is closed afterwards: one that a user left open would keep
        messages that were handed over to nobody.

        Raises:
            TimeoutError: the broker does not answer.
        """
        async with asyncio.timeout(self.timeout):
            channel = await connection.channel(on_return_raises=False)
        try:
            yield channel
        finally:
            if connection.connected.is_set() and not channel.is_closed:
                await self._leave(channel)

    async def _leave(self, channel: AbstractChannel) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                await channel.close()
        except Exception as error:
            _log.debug("a channel was not closed: %r", error)

    async def run(self) -> None:
        """Keep the connection and its users running, for ever."""
        pauses = _Pauses(self._settings.retry_delay)
        said = ""
        while True:
            try:
                connection = await self._connect()
            except TROUBLE as error:
                self.failures += 1
                text = self._explain(error)
                _log.log(logging.DEBUG if text == said else logging.WARNING, "%s", text)
                said = text
            else:
                said = ""
                _log.info("connected to the broker at %s, for %s", self.address, self._carries)
                with pauses.measured():
                    await self._serve(connection)
                self.losses += 1
                _log.warning("the connection to the broker at %s for %s is lost; connecting again", self.address, self._carries)
            await pauses.pause()

    async def _connect(self) -> AbstractConnection:
        properties: FieldTable = {"connection_name": self._name, "product": "metald"}
        connection = aio_pika.Connection(self._url, ssl_context=self._tls, client_properties=properties)
        connecting = asyncio.create_task(connection.connect(), name="amqp connect")
        try:
            await asyncio.wait([connecting], timeout=self.timeout)
            await _ended([connecting])
            if connecting.cancelled():
                raise TimeoutError
            connecting.result()
        except BaseException:
            await _ended([connecting])
            # one that was never open has to be closed too: else it does so itself when it is collected, in whichever thread
            await _closed(connection)
            raise
        return connection

    async def _serve(self, connection: AbstractConnection) -> None:
        """Run the users until the connection is lost."""
        lost = asyncio.Event()
        connection.close_callbacks.add(lambda *_: lost.set())
        if not connection.connected.is_set():
            lost.set()
        self._connection = connection
        self.connects += 1
        self.down.clear()
        self.up.set()
        tasks = [asyncio.create_task(self._use(name, user, connection, lost), name=f"amqp {name}") for name, user in self._users]
        try:
            await lost.wait()
        finally:
            self.up.clear()
            self.down.set()
            self._connection = None
            await _ended(tasks)
            await _closed(connection)

    async def _use(self, name: str, user: User, connection: AbstractConnection, lost: asyncio.Event) -> None:
        """Run one user, again and again while the connection holds."""
        pauses = _Pauses(self._settings.retry_delay)
        said = ""
        while not lost.is_set():
            error: BaseException
            try:
                with pauses.measured():
                    await user(connection)
                return
            except asyncio.CancelledError as raised:
                task = asyncio.current_task()
                # aiormq also cancels what waits for an answer on a channel that was closed
                if task is None or task.cancelling():
                    raise
                error = raised
            except Exception as raised:
                error = raised
            if not (connection.is_closed or isinstance(error, AMQPConnectionError)):
                said = self._complain(name, error, said)
            await pauses.pause(lost)

    def _complain(self, name: str, error: BaseException, said: str) -> str:
        """Say why a user failed, if that was not said last; what is said last now."""
        self.refusals += 1
        if not isinstance(error, (*TROUBLE, asyncio.CancelledError)):
            _log.error("%s: this use of the broker has a defect; trying again", name, exc_info=error)
            return ""
        text = f"{name}: the broker at {self.address} refused: {str(error) or type(error).__name__}; trying again"
        _log.log(logging.DEBUG if text == said else logging.WARNING, "%s", text)
        return text

    def _explain(self, error: BaseException) -> str:
        if isinstance(error, AuthenticationError | ProbableAuthenticationError):
            user = self._url.user or "guest"
            return (
                f"the broker at {self.address} refuses user {user!r} on virtual host {self._url.path.removeprefix('/') or '/'!r}: "
                f"correct amqp.url, or the user's password or permissions there; {self._carries} wait, trying again"
            )
        reason = "it does not answer" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return f"the broker at {self.address} cannot be reached: {reason}; {self._carries} wait, trying again"


class _Pauses:
    """Pauses between tries: they double, with jitter, until something has worked for a while."""

    def __init__(self, first: float) -> None:
        self._first = first
        self._next = first

    @contextlib.contextmanager
    def measured(self) -> Any:
        """Around what is tried: when it lasts, the next pause is the first one again."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            yield
        finally:
            if clock() - began > _STEADY:
                self._next = self._first

    async def pause(self, over: asyncio.Event | None = None) -> None:
        """Wait; not for longer than until `over` is set."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._next * random.uniform(0.5, 1.0)):  # noqa: S311
                await (over or asyncio.Event()).wait()
        self._next = min(_LONGEST_PAUSE, 2 * self._next)


async def _closed(connection: AbstractConnection) -> None:
    """Close a connection, or give it up in time."""
    closing = asyncio.create_task(connection.close(), name="amqp close")
    await asyncio.wait([closing], timeout=_CLOSING)
    await _ended([closing])


async def closed(channel: RawChannel) -> None:
    """Wait until a channel is closed, and fail then.

    Raises:
        AMQPError: the broker has closed it; its reason.
        ChannelInvalidStateError: it was closed otherwise.
    """
    closing = channel.closing
    try:
        await asyncio.wait([closing])
        error = None if closing.cancelled() else closing.exception()
        # one that was cancelled would end this task and nothing else
        raise error if isinstance(error, Exception) else ChannelInvalidStateError("the channel was closed")
    finally:
        closing.cancel()


async def _ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended; what they end with was said before, or says nothing."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        left = (await asyncio.wait(left, timeout=_CLOSING))[1]
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("%s ended with %r", task.get_name(), error)


def _waits(waiting: Any) -> bool:
    """Whether awaiting the coroutine would have to wait."""
    try:
        waiting.send(None)
    except StopIteration:
        return False
    waiting.close()
    return True


def tls(settings: Amqp) -> ssl.SSLContext:
    """How the broker's certificate is checked, and what is shown to it.

    Raises:
        ConfigError: a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"amqp.tls_ca: {settings.tls_ca} cannot be used: {error}. Name a PEM file of certificates.") from None
    if settings.tls_certificate:
        try:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"amqp.tls_certificate, amqp.tls_key: cannot be used: {error}. Name a PEM certificate and its key.") from None
    return context
