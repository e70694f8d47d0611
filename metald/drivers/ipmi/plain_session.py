"""pyghmi's session without its sockets, threads, clocks and tables: the fields that its protocol code works with, and no more.

What every message passes through is here as well, as it costs a third of pyghmi's own: messages before the session stands,
IPMI requests and answers (section 13.8), and the check of RAKP 2 that makes the keys (sections 13.21 to 13.32). Rules: pyghmi's
fields are set as pyghmi sets them, so that the rest of its code finds what it expects; codes are compared in constant time.
"""

from __future__ import annotations

import collections
import hmac
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Final, Self

from pyghmi.ipmi.private.session import Session

from metald.drivers.ipmi.info import BmcInfo

_OPEN_HEAD: Final = b"\x06\x00\xff\x07\x06"  # RMCP header, then the authentication type of RMCP+ (table 13-8)
_NO_SESSION: Final = bytes(8)  # session and sequence of what precedes a session
_BMC, _CONSOLE = 0x20, 0x81
_IPMI, _RAKP3 = 0x00, 0x14
_SHA1 = 1  # pyghmi's `attemptedhash`
_LEAST_ANSWER = 8


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

    def _initsession(self) -> None:
        # pyghmi reads the clock twice here, by a call to the kernel
        self.rmcptag, self.remseqnumber = 1, None
        self.confalgo = self.integrityalgo = self.currhashlen = 0
        self.aeskey: Any = None
        self.k1: Any = None
        self.currhashlib: Any = None
        self.ipmicallback: Any = None
        self.lastpayload = self.sessioncontext = None
        self.sequencenumber = self.sessionid = self.authtype = 0
        self.ipmiversion = 1.5
        self.rqlun, self.rqaddr = 0, _CONSOLE
        self.logging, self.logged = True, 0
        self.sockaddr = self.sol_handler = None
        self.tabooseq: dict[Any, int] = {}

    # -- messages

    def _handle_ipmi_packet(self, data: bytearray, sockaddr: Any = None, qent: Any = None) -> Any:
        if data[4] == _OPEN_HEAD[4]:
            return self._handle_ipmi2_packet(data)
        return super()._handle_ipmi_packet(data, sockaddr, qent)

    def send_payload(self, payload: Any = (), payload_type: int | None = None, retry: bool = True, **more: Any) -> None:
        """What precedes a session in RMCP+; all else is pyghmi's."""
        if self.ipmiversion != 2.0 or self.integrityalgo or (payload and self.lastpayload):
            super().send_payload(payload, payload_type, retry, **more)
            return
        payload = payload or self.lastpayload
        kind = self.last_payload_type if payload_type is None else payload_type
        if retry:
            self.lastpayload, self.last_payload_type = payload, kind
        self.netpacket = _OPEN_HEAD + bytes((kind,)) + _NO_SESSION + len(payload).to_bytes(2, "little") + payload
        self._xmit_packet(retry)

    def _send_ipmi_net_payload(
        self,
        netfn: int,
        command: int,
        data: Any = b"",
        code: int = 0,  # noqa: ARG002
        bridge_request: None = None,  # noqa: ARG002 - see bridge.py
        retry: bool = True,
        delay_xmit: None = None,  # noqa: ARG002
        timeout: None = None,  # noqa: ARG002
        rslun: int = 0,
    ) -> None:
        head = netfn << 2 | rslun
        body = bytes((_CONSOLE, self.seqlun << 2, command)) + bytes(data)
        message = bytes((_BMC, head, -(_BMC + head) & 0xFF)) + body + bytes((-sum(body) & 0xFF,))
        entry = (netfn + 1, self.seqlun, command)
        if entry not in self.request_entry:
            self.request_entry.append(entry)
        self.send_payload(message, _IPMI, retry)

    def _parse_ipmi_payload(self, payload: bytearray) -> None:
        if len(payload) < _LEAST_ANSWER:
            return
        entry = (payload[1] >> 2, payload[4] >> 2, payload[5])
        if entry not in self.request_entry:
            return
        self.request_entry.remove(entry)
        self.seqlun = (self.seqlun + 1) & 0x3F
        self.lastpayload = self.last_payload_type = None
        self.hasretried = 0
        if self.pendingpayloads:
            self.send_payload(*self.pendingpayloads.popleft())
        # a session that held on to its own method would be left to the garbage collector
        callback, self.ipmicallback = self.ipmicallback, None
        callback({"netfn": entry[0], "command": entry[2], "code": payload[6], "data": payload[7:-1]})

    # -- keys

    def _got_rakp2(self, data: bytearray) -> None:
        if int.from_bytes(data[4:8], "little") != self.localsid:
            return
        digest = "sha1" if self.attemptedhash == _SHA1 else "sha256"
        own, theirs = self.localsid.to_bytes(4, "little"), self.pendingsessionid.to_bytes(4, "little")
        names = bytes((self.nameonly | self.privlevel, len(self.userid))) + self.userid
        self.remoterandombytes, self.remoteguid = bytes(data[8:24]), bytes(data[24:40])
        proof = hmac.digest(self.password, own + theirs + self.randombytes + self.remoterandombytes + self.remoteguid + names, digest)
        if not hmac.compare_digest(proof, bytes(data[40 : 40 + len(proof)])):
            self.sessioncontext = "FAILED"
            self.onlogon({"error": "Incorrect password provided"})
            return
        self.sik = hmac.digest(self.kg, self.randombytes + self.remoterandombytes + names, digest)
        self.k1 = hmac.digest(self.sik, b"\x01" * 20, digest)
        self.aeskey = hmac.digest(self.sik, b"\x02" * 20, digest)[:16]
        self.sessioncontext = "EXPECTINGRAKP4"
        self.lastpayload = None
        self.rmcptag += 1
        code = hmac.digest(self.password, self.remoterandombytes + own + names, digest)
        self.send_payload(bytes((self.rmcptag, 0, 0, 0)) + theirs + code, _RAKP3)
