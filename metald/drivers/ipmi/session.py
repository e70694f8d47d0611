"""One RMCP+ session as a protocol without input or output: pyghmi's codec and state machine, our timers and errors.

pyghmi builds and checks the messages (RMCP+ open session, RAKP 1-4, AES, HMAC; IPMI 2.0 section 13). Everything of
pyghmi that touches sockets, threads, clocks or global tables is overridden here. Rules:

- Bytes come in by `datagram`, time by `expired`; bytes and requests for a timer go out by the `Wire` it was given.
- A datagram never raises and never wedges the session: what cannot be parsed is counted and dropped, and each
  `expired` finds a way on from any state.
- One request is in flight at a time. A request is sent again in the same session (same sequence number, so that the
  BMC sees a duplicate), at most `len(PATIENCE) - 1` times; then the session counts as lost.
- The private names of pyghmi that this file uses are listed in tests/ipmi/test_ipmi_pyghmi_contract.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from metald.drivers.ipmi import refusal
from metald.drivers.ipmi.bridge import SEND_MESSAGE, Passage
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.pace import LOGIN_PATIENCE, PATIENCE, SLOT_PAUSE, Pace, Patience
from metald.drivers.ipmi.plain_session import PlainSession
from metald.drivers.ipmi.sealing import Sealing
from metald.drivers.ipmi.wire import Wire
from metald.errors import BmcRefused, DriverError

# Cipher suite number (IPMI 2.0 table 22-20) -> pyghmi's `attemptedhash`, and the authentication algorithm on the wire.
_HASHES: Final[Mapping[int, int]] = {17: 256, 3: 1}
_ALGORITHMS: Final[Mapping[int, int]] = {17: 3, 3: 1}
_DIGESTS: Final[Mapping[int, str]] = {17: "sha256", 3: "sha1"}

_SUITE_SILENCE = 2  # unanswered open requests after which the next suite is tried
_NO_QUEUE_ENTRY = (None, None, None)
_CLOSE_SESSION = (0x06, 0x3C)
_SET_PRIVILEGE = (0x06, 0x3B)
_INVALID_FIELD = 0xCC
_RMCP = b"\xff\x07"
_IPMI = 0
_SOL = 1  # payload type, IPMI 2.0 table 13-16


class BmcSession(PlainSession):
    """A session with one BMC; made anew for each login that follows a loss or a refusal.

    Args:
        info: which BMC, and as whom.
        wire: the world.
        suite: the cipher suite that worked last time; it goes first.
        seen: seconds that the BMC took for an answer last time.
        hasty: whether a login may leave out the question for what the BMC can, where `suite` tells.
    """

    def __init__(self, info: BmcInfo, wire: Wire, *, suite: int | None = None, seen: float = 0.0, hasty: bool = True) -> None:
        super().__init__(info)
        self._wire = wire
        self._patience = PATIENCE
        self._suites = tuple(s for s in info.suites if s in _HASHES)
        if suite in self._suites:
            self._suites = (suite, *(s for s in self._suites if s != suite))
        self._known = hasty and suite in self._suites
        self._hasty = False
        self.shy = not hasty
        """Whether the BMC wants every question at each login."""
        self._suite = 0
        self.pace = Pace(seen)
        self._then: Callable[[], None] | None = None  # what a pause is for
        self.established = False
        self.in_flight = False
        self.heard = False
        self.heard_at = float("-inf")
        self.hindrance = ""
        """Why the BMC does not let us in at present, in its words."""
        self.malformed = 0
        self.sent = self.received = self.repeats = 0
        self._reserved_bit = False
        self._passage: Passage | None = None
        self._sealing: Sealing | None = None

    def __repr__(self) -> str:
        return f"<BmcSession {self.info.label} {'established' if self.established else 'not established'}>"

    @property
    def suite(self) -> int:
        """The cipher suite in use."""
        return self._suites[self._suite]

    # -- what the shell calls

    def login(self) -> None:
        """Begin, or begin again from the first message."""
        self._then = None
        self.request_entry.clear()
        self.pendingpayloads.clear()
        self._initsession()
        self._hasty, self._known = self._known, False
        if self._hasty:  # it let us in before: what it can is known, and a round trip saved
            self.ipmiversion = 2.0
            self._open_rmcpplus_request()
        else:
            self._get_channel_auth_cap()

    @property
    def crowded(self) -> bool:
        """Whether this login was repeated although the BMC answered: what was repeated came back as well."""
        return self.repeats > 0 and self.received > self.sent - self.repeats

    def request(
        self,
        netfn: int,
        command: int,
        data: bytes,
        *,
        repeat: bool = True,
        patience: Patience = PATIENCE,
        lun: int = 0,
        bridged: bool = True,
    ) -> None:
        """Send a command: once only where not to `repeat`; to the BMC itself where not `bridged`; to a unit of it (`lun`)."""
        self.in_flight = True
        self._patience = patience
        self.pace.tries = 0 if repeat else len(self._patience) - 1
        self.ipmicallback = self._got_answer
        if self.info.bridge is not None and bridged:
            self._passage = Passage(self.info.bridge, self.seqlun, netfn, command, data)
            netfn, command, data = *SEND_MESSAGE, self._passage.data
        self._send_ipmi_net_payload(netfn, command, data, retry=repeat, rslun=lun)
        if not repeat:
            self._wire.arm(sum(self._patience))

    def send_sol(self, payload: bytes) -> None:
        """Send a Serial over LAN packet (payload type 1) beside whatever command is in flight; repeating it is the caller's."""
        last, kind, self.lastpayload = self.lastpayload, self.last_payload_type, None
        try:
            self.send_payload(bytearray(payload), payload_type=_SOL, retry=False)
        finally:
            self.lastpayload, self.last_payload_type = last, kind

    def cancel(self) -> None:
        """Forget the request in flight; a late answer to it will not be taken for the next one's."""
        self.in_flight = False
        self._passage = None
        self.lastpayload = None
        self.pendingpayloads.clear()
        self.request_entry.clear()
        self.seqlun = (self.seqlun + 1) & 0x3F

    def close(self) -> None:
        """Give the BMC its session slot back: one datagram, whose answer is not awaited (IPMI 2.0 section 22.19)."""
        if self.sessioncontext == "ESTABLISHED":
            self.cancel()
            self._send_ipmi_net_payload(*_CLOSE_SESSION, self.sessionid.to_bytes(4, "little"), retry=False)
        self.sessioncontext = self.ipmicallback = self._then = None
        self.established = self.logging = False
        self.k1 = None
        self._sealing = None
        self.sol_handler = None

    def datagram(self, data: bytes) -> None:
        """Take what came from the BMC's address. Never raises."""
        if len(data) < 16 or data[0] != 6 or data[2:4] != _RMCP:
            self.malformed += 1
            return
        try:
            self.received += 1
            self._handle_ipmi_packet(bytearray(data), qent=_NO_QUEUE_ENTRY)
        except Exception:  # pyghmi indexes into hostile bytes; whatever it trips over, the datagram was no good
            self.malformed += 1

    def expired(self) -> None:
        """The armed time has passed without what was awaited."""
        if self.in_flight:
            self._request_timed_out()
        elif self.logging:
            self._login_timed_out()

    # -- time

    def _request_timed_out(self) -> None:
        self.pace.tries += 1
        if self.pace.tries >= len(self._patience) or not self.lastpayload:
            self.cancel()
            self._wire.lost()
            return
        self.hasretried = 1
        self.send_payload()

    def _login_timed_out(self) -> None:
        if self._then is not None:
            then, self._then = self._then, None
            then()
            return
        self.pace.tries += 1
        self.repeats += 1
        context = self.sessioncontext
        # What precedes and what ends the login are plain commands, which may be repeated as they are.
        plain = context is None or (context == "ESTABLISHED" and self.pace.tries < len(PATIENCE))
        if context == "OPENSESSION" and not self._hasty:
            if self.pace.tries >= _SUITE_SILENCE and self._suite + 1 < len(self._suites):
                self._next_suite()  # some BMCs say nothing to a suite they do not have
                self._open_rmcpplus_request()
            else:
                self.send_payload()  # the same again, so that a late answer fits
        elif plain and self.lastpayload and self.request_entry:
            self.hasretried = 1
            self.send_payload()
        else:
            # A BMC does not take RAKP 1 or 3 twice; and an answer that was no good ended the exchange: start over.
            self.hindrance = refusal.SILENT.get(context or "", self.hindrance)
            self.shy = self.shy or self._hasty
            self.pace.begin_again()
            self.login()

    # -- pyghmi's hooks

    def _xmit_packet(self, retry: bool = True, delay_xmit: float | None = None, timeout: float | None = None) -> None:  # noqa: ARG002
        if self.sequencenumber:  # 0 stands for "outside of a session" and stays
            self.sequencenumber += 1
        self.sent += 1
        self._wire.transmit(self.netpacket)
        if retry:
            steps = self._patience if self.in_flight else LOGIN_PATIENCE
            self._wire.arm(self.pace.wait(steps, login=not self.in_flight))

    def _initsession(self) -> None:
        super()._initsession()
        self.localsid = secrets.randbits(31)  # pyghmi's is always the same, so that stale answers fit
        self.attemptedhash = _HASHES[self.suite]
        self.ipmi15only = int(self._reserved_bit)
        self.established = False
        self._sealing = None
        self.seqlun = secrets.randbits(6)  # likewise: a late answer to the login before must not fit

    def onlogon(self, parameter: Mapping[str, Any]) -> None:
        """pyghmi's verdict on a login, in words; those that matter are typed before it comes to this."""
        if "error" not in parameter:
            return
        if self.sessioncontext == "FAILED":
            self._fail(refusal.wrong_password(self.info))
        elif self.sessioncontext == "EXPECTINGRAKP4":
            self._fail(refusal.wrong_kg(self.info))
        else:
            self._fail(BmcRefused(f"{self.info.label} refused the login: {parameter['error']}.", remedy="See the BMC's event log."))

    def send_payload(self, payload: Any = (), payload_type: int | None = None, retry: bool = True, **more: Any) -> None:
        """With our own sealing once there are keys."""
        if payload and not self.established:
            self.pace.asked(self._wire.time())
        if self._sealing is None or (payload and self.lastpayload):
            super().send_payload(payload, payload_type, retry, **more)
            return
        if payload and self.pace.slow:  # it may have become quicker, once a crowd is gone
            self.pace.asked(self._wire.time())
        payload = payload or self.lastpayload
        kind = self.last_payload_type if payload_type is None else payload_type
        if retry:
            self.lastpayload, self.last_payload_type = payload, kind
        self.netpacket = self._sealing.seal(kind, self.sessionid, self.sequencenumber, payload)
        self._xmit_packet(retry)

    def _handle_ipmi2_packet(self, data: bytearray) -> Any:
        kind = data[5] ^ 0xC0
        if self._sealing is None or kind not in (_IPMI, _SOL):
            return super()._handle_ipmi2_packet(data)
        payload = self._sealing.open(data)
        sequence = int.from_bytes(data[10:14], "little")
        stale = self.remseqnumber is not None and sequence < self.remseqnumber != 0xFFFFFFFF
        if payload is None:
            self.malformed += 1
            return None
        if stale or int.from_bytes(data[6:10], "little") != self.localsid:
            return None
        self.remseqnumber = sequence
        if kind == _IPMI:
            self._parse_ipmi_payload(payload)
        elif self.sol_handler is not None:
            self.sol_handler(payload)
        return None

    def _parse_ipmi_payload(self, payload: bytearray) -> Any:
        if self._passage is None or not self.in_flight:
            return super()._parse_ipmi_payload(payload)
        answer = self._passage.answer(bytes(payload))
        if answer is not None:
            self.cancel()
            self._wire.answered(answer.code, answer.data)
        return None

    def _got_channel_auth_cap(self, response: dict[str, Any]) -> None:
        if response["code"] == 0 and len(response["data"]) < 4:
            self.malformed += 1
            return
        self._hear()
        if response["code"] in refusal.BUSY:
            self._pause(refusal.IS_BUSY, self.login)
            return
        if response["code"] == _INVALID_FIELD and not self._reserved_bit:
            # Some BMCs take the bit that asks for IPMI 2.0 amiss. pyghmi would ask again from within the answer to its
            # first question, and then not know the second answer.
            self._reserved_bit = True
            self._then = self.login
            self._wire.arm(0.0)
            return
        super()._got_channel_auth_cap(response)

    def _get_session_challenge(self) -> None:
        self._fail(refusal.only_ipmi_15(self.info))

    def _got_rmcp_response(self, data: bytearray) -> None:
        if self.sessioncontext != "OPENSESSION" or len(data) < 2 or data[0] != self.rmcptag:
            return
        self._hear()
        if data[1] in refusal.FULL:
            self._pause(refusal.IS_FULL, self.login)
        elif data[1] and self._hasty:
            self.shy = True
            self.login()
        elif data[1] or (len(data) >= 17 and data[16] & 0x3F != _ALGORITHMS[self.suite]):
            if self._suite + 1 < len(self._suites):
                self._next_suite()
                self._open_rmcpplus_request()
            else:
                self._fail(refusal.no_suite(self.info))
        elif len(data) >= 12:
            super()._got_rmcp_response(data)

    def _got_rakp2(self, data: bytearray) -> None:
        if self.sessioncontext == "EXPECTINGRAKP2" and not self._rakp_refused(data) and len(data) >= 40 + self.currhashlib().digest_size:
            self._hear()
            super()._got_rakp2(data)

    def _got_rakp4(self, data: bytearray) -> None:
        if self.sessioncontext == "EXPECTINGRAKP4" and not self._rakp_refused(data) and len(data) >= 8 + self.currhashlen:
            self._hear()
            super()._got_rakp4(data)

    def _req_priv_level(self) -> None:
        # pyghmi blocks here, in the middle of a packet handler.
        self._sealing = Sealing(self.k1, self.aeskey, _DIGESTS[self.suite], self.currhashlen)
        self.ipmicallback = self._got_privilege
        self._send_ipmi_net_payload(*_SET_PRIVILEGE, bytes((self.privlevel,)))

    # -- our own

    def _rakp_refused(self, data: bytearray) -> bool:
        if len(data) < 2 or data[0] != self.rmcptag:
            return True
        if data[1] == 0:
            return False
        self._hear()
        if data[1] in refusal.FULL:
            self._pause(refusal.IS_FULL, self.login)
        else:
            error = refusal.login_refused(self.info, data[1])
            if error is not None:
                self._fail(error)
        return True

    def _hear(self) -> None:
        self._then = None
        self.heard, self.heard_at = True, self._wire.time()
        self.pace.answered(self.heard_at)

    def _next_suite(self) -> None:
        self._suite += 1
        self.pace.tries = 0
        self.attemptedhash = _HASHES[self.suite]

    def _pause(self, hindrance: str, then: Callable[[], None]) -> None:
        self.hindrance, self._then = hindrance, then
        self.lastpayload = None
        self._wire.arm(SLOT_PAUSE)

    def _got_privilege(self, response: Mapping[str, Any]) -> None:
        code = response["code"]
        self._hear()
        if code in refusal.BUSY:
            self._pause(refusal.IS_BUSY, self._req_priv_level)
        elif code in (0x80, 0x81, 0x82, refusal.PRIVILEGE_TOO_LOW):
            self._fail(refusal.privilege_refused(self.info))
        elif code:
            self._fail(refusal.refused(self.info, *_SET_PRIVILEGE, code))
        else:
            self.logging, self.logged, self.established = False, 1, True
            self._wire.logged_in()

    def _got_answer(self, response: Mapping[str, Any]) -> None:
        self.in_flight = False
        if self.pace.slow:
            self.pace.answered(self._wire.time())
        self._wire.answered(response["code"], bytes(response["data"]))

    def _fail(self, error: DriverError) -> None:
        self.close()
        self.lastpayload = None
        self._wire.login_failed(error)
