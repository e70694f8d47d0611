"""The rest of IPMI by pyghmi's `Command` (sensors, FRU, SDR, LAN settings), whose code waits for each answer in place.

It runs unchanged in a greenlet: where it would wait, the greenlet hands the coroutine that carries the command to the
loop's task and sleeps until that has the answer. Rules:

- No thread, no socket of pyghmi's: every byte goes through a `Transport`, with its deadlines, limits and errors.
- Only what IPMI itself carries. pyghmi's vendor handlers fetch some things by HTTPS, which would block; they are left out.
- One call per BMC at a time, each within a deadline of its own: reading a sensor repository takes hundreds of commands.
- What was read of a BMC's repository is kept for a bounded number of BMCs.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import greenlet
from pyghmi.exceptions import PyghmiException

from metald.drivers.ipmi import quirks
from metald.drivers.ipmi.client import Transport
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.refusal import PRIVILEGE_TOO_LOW, CompletionCode
from metald.errors import BmcPrivilegeTooLow, BmcRefused, DeadlineExceeded, DriverError

if TYPE_CHECKING:
    from pyghmi.ipmi.command import Command

T = TypeVar("T")

_DEADLINE: Final = 120.0
_KEPT: Final = 512
_FEWER_BYTES: Final = 0xCA
"""Completion code: so many bytes cannot be returned."""
_STUMBLES: Final = (PyghmiException, NotImplementedError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, struct.error)


async def spawn(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a plain function in a greenlet, where it may use `wait`."""
    runner = greenlet.greenlet(function)
    runner.gr_context = greenlet.getcurrent().gr_context
    result = runner.switch(*args, **kwargs)
    while not runner.dead:
        try:
            value = await result
        except BaseException:  # whatever it is, cancellation too, is for whoever waits in the greenlet
            result = runner.throw(*sys.exc_info())
        else:
            result = runner.switch(value)
    done: T = result
    return done


def wait(awaitable: Awaitable[T]) -> T:
    """Wait for something asynchronous inside of a function that `spawn` runs."""
    parent = greenlet.getcurrent().parent
    assert parent is not None, "there is no loop to wait on"
    value: T = parent.switch(awaitable)
    return value


class _Session:
    """What pyghmi's `Command` takes for its session."""

    def __init__(self, transport: Transport, info: BmcInfo) -> None:
        self._transport, self._info = transport, info
        self.bmc, self.port, self.userid, self.password = info.address, info.port, "", ""
        self.refusal: DriverError | None = None
        """What the BMC refused last; pyghmi goes on, or passes it on as a text."""

    def raw_command(
        self,
        netfn: int,
        command: int,
        bridge_request: object = None,  # noqa: ARG002 - pyghmi's way of bridging; the transport has its own
        data: Any = (),
        retry: bool = True,
        delay_xmit: float | None = None,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002
        callback: object = None,  # noqa: ARG002
        rslun: int = 0,
    ) -> dict[str, Any]:
        """Send a command as pyghmi's session does, and wait for its answer."""
        answer: dict[str, Any] = {"netfn": netfn | 1, "command": command, "code": 0, "data": bytearray()}
        try:
            received = wait(self._transport.raw(self._info, netfn, command, bytes(bytearray(data)), idempotent=retry, lun=rslun))
            answer["data"] = bytearray(received)
        except CompletionCode as error:
            self.refusal = error
            too_much = (netfn, command) == quirks.READ_FRU and error.completion in quirks.TOO_MUCH_AT_ONCE
            answer |= {"code": _FEWER_BYTES if too_much else error.completion, "error": error.message}
        except BmcPrivilegeTooLow as error:
            self.refusal = error
            answer |= {"code": PRIVILEGE_TOO_LOW, "error": error.message}
        return answer


class PyghmiCommands:
    """pyghmi's `Command` for any BMC of a transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._kept: OrderedDict[BmcInfo, tuple[Command, asyncio.Lock]] = OrderedDict()

    async def call(self, info: BmcInfo, work: Callable[[Command], T]) -> T:
        """Run `work` on the `Command` of a BMC; it may use every method there that needs nothing but IPMI.

        Raises:
            DriverError: the BMC does not answer, or refuses.
            DeadlineExceeded: it took too long altogether.
        """
        command, lock = self._command(info)
        try:
            async with asyncio.timeout(_DEADLINE), lock:
                return await spawn(_with_refusals, work, command)
        except TimeoutError:
            raise DeadlineExceeded(f"{info.label} did not get through within {_DEADLINE:.0f} seconds.") from None
        except _STUMBLES as error:
            # pyghmi takes what BMCs send at its word; what it stumbles over is the BMC's doing.
            raise BmcRefused(
                f"{info.label} gave an answer that cannot be used: {type(error).__name__}: {str(error).rstrip('.')}.",
                remedy="Update the BMC's firmware.",
            ) from error

    def _command(self, info: BmcInfo) -> tuple[Command, asyncio.Lock]:
        found = self._kept.get(info)
        if found is None:
            found = self._kept[info] = (_command(self._transport, info), asyncio.Lock())
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(info)
        return found


def _with_refusals(work: Callable[[Command], T], command: Command) -> T:
    """Do the work, whose iterators and errors say of a refusal what the BMC said."""
    try:
        return work(command)
    except PyghmiException as error:
        refusal = command.ipmi_session.refusal
        if refusal is not None and refusal.message in str(error):
            raise refusal from None
        raise


def _command(transport: Transport, info: BmcInfo) -> Command:
    """A `Command` as its constructor makes it, but for the session, which would be opened there and then."""
    # with all of pyghmi's vendors behind it: only who asks for such a thing waits for the import
    from pyghmi.ipmi.command import Command
    from pyghmi.ipmi.oem.generic import OEMHandler

    command = object.__new__(Command)
    command.onlogon = None
    command.bmc = info.address
    command._sdrcachedir = command._sdr = command._netchannel = command._ipv6support = None
    command._oem, command._oemknown = OEMHandler(None, None), True
    command.certverify = None
    command.kwargs = {}
    command.ipmi_session = _Session(transport, info)
    return command
