"""pyghmi's session without its sockets, threads, clocks and tables: the fields that its protocol code works with, and no more."""

from __future__ import annotations

import collections
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

from pyghmi.ipmi.private.session import Session

from metald.drivers.ipmi.info import BmcInfo


class PlainSession(Session):  # type: ignore[misc]
    """The base of `session.BmcSession`.

    Args:
        info: which BMC, and as whom.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Plainly: pyghmi resolves names, shares sessions and opens sockets here."""
        return object.__new__(cls)

    def __init__(self, info: BmcInfo) -> None:
        self.info = info
        self.bmc, self.port = info.address, info.port
        self.userid = info.username.encode()
        self.password = info.password.encode()
        self.kgo = info.kg
        self.kg = info.kg if info.kg is not None else self.password
        self.privlevel, self.autopriv = info.privilege, False
        self.nameonly = 16
        self.servermode = self.broken = self.logging = False
        self.logged = 0
        self.sol_handler: Callable[[bytearray], None] | None = None
        self.onlogpayload = self.onlogpayloadtype = self.lastpayload = None
        self.last_payload_type: Any = None
        self.remseqnumber: Any = None
        self._customkeepalives = None
        self.pendingpayloads: collections.deque[Any] = collections.deque()
        self.request_entry: list[tuple[int, int, int]] = []
        self.maxtimeout = self.logontries = 0
        self.hasretried = 0
        self.seqlun = 0
        self.sessioncontext: str | None = None

    @abstractmethod
    def login(self) -> None:
        """Begin, or begin again from the first message."""

    def _mark_broken(self, error: Any = None) -> None:  # noqa: ARG002
        self.broken = True

    def _relog(self) -> None:
        self.login()
