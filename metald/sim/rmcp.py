"""The server half of RMCP+ (IPMI 2.0 section 13): sessions, RAKP 1-4, encryption. Bytes and `now` in, bytes out.

Rules:

- No input or output, no clock, no asyncio. Random numbers come from the caller, so that a run can be replayed.
- What cannot be parsed, or does not prove itself, is dropped without an answer and counted; nothing here raises on
  what came from the network.
- Checks are real: user, password, role, Kg key, integrity and session id. Cipher suites 3 and 17.
- A request that is repeated within its session gets the answer that it had, and no second effect.
"""

from __future__ import annotations

import hmac
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_RMCP: Final = b"\x06\x00\xff\x07"
_IPMI, _SOL, _OPEN, _OPENED, _RAKP1, _RAKP2, _RAKP3, _RAKP4 = 0x00, 0x01, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15

# RMCP+ status codes, table 13-15.
_NO_RESOURCES, _BAD_SESSION, _BAD_AUTH, _BAD_ROLE, _BAD_NAME, _BAD_INTEGRITY, _NO_SUITE = 0x01, 0x02, 0x04, 0x0A, 0x0D, 0x0F, 0x11

SESSION_IDLE: Final = 60.0
"""Seconds after which an unused session is gone (section 6.12.15)."""

_HALF_OPEN = 8
_NAME_ONLY = 0x10


@dataclass(frozen=True, slots=True)
class _Algorithms:
    digest: str
    icv: int
    integrity: int


_SUITES: Final = {3: (1, _Algorithms("sha1", 12, 1)), 17: (3, _Algorithms("sha256", 16, 4))}


@dataclass(frozen=True, slots=True)
class User:
    """An account: name, password, and the highest privilege level it may have (4 is administrator)."""

    name: str
    password: str = field(repr=False)
    privilege: int = 4


@dataclass(slots=True)
class Session:
    """One session, from the open request on."""

    sid: int
    console_sid: int
    algorithms: _Algorithms
    seen: float
    user: User | None = None
    role: int = 0
    names: bytes = b""
    console_random: bytes = b""
    own_random: bytes = b""
    k1: bytes = b""
    aes: bytes = b""
    sequence: int = 0
    privilege: int = 2
    last: tuple[bytes, bytes] = (b"", b"")
    established: bool = False


Command = Callable[[Session | None, int, int, bytes, float], bytes]
"""(session or None, netfn, command, data, now) -> completion code and data."""

Console = Callable[[Session, bytes], None]
"""Told of a Serial-over-LAN payload that came in."""


class RmcpServer:
    """The sessions of one BMC and the way of each datagram through them."""

    def __init__(
        self,
        command: Command,
        users: tuple[User, ...],
        *,
        guid: bytes,
        rng: random.Random,
        suites: tuple[int, ...] = (3, 17),
        kg: bytes | None = None,
        slots: int = 5,
        console: Console | None = None,
    ) -> None:
        self.users = users
        self.guid = guid
        self.suites = suites
        self.kg = kg
        self.slots = slots
        self.sessions: dict[int, Session] = {}
        self.logins = self.failed_logins = self.dropped = self.replayed = 0
        self.spoke: Session | None = None
        """The session that the last datagram proved to be of."""
        self._command = command
        self._console = console
        self._rng = rng
        self._handlers = {_OPEN: self._open, _RAKP1: self._rakp1, _RAKP3: self._rakp3}

    @property
    def established(self) -> int:
        """How many sessions stand."""
        return sum(session.established for session in self.sessions.values())

    def handle(self, data: bytes, now: float) -> bytes | None:
        """Answer a datagram, or None."""
        self.spoke = None
        answer = self._answer(data, now) if len(data) >= 14 and data[:4] == _RMCP else None
        if answer is None and self.spoke is None:
            self.dropped += 1
        return answer

    def send_console(self, session: Session, payload: bytes) -> bytes:
        """The datagram that carries a Serial-over-LAN payload to the session's console."""
        return self._seal(session, payload, _SOL)

    def _answer(self, data: bytes, now: float) -> bytes | None:
        if data[4] == 0:  # IPMI 1.5 format without authentication: what precedes a session (section 13.6)
            body = self._ipmi(None, data[14 : 14 + data[13]], now)
            return None if body is None else _RMCP + bytes(9) + bytes((len(body),)) + body
        if data[4] != 6 or len(data) < 16:
            return None
        kind = data[5]
        sid, _, length = struct.unpack_from("<IIH", data, 6)
        payload = data[16 : 16 + length]
        if len(payload) != length:
            return None
        if sid == 0 and not kind & 0xC0:
            if kind == _IPMI:
                body = self._ipmi(None, payload, now)
                return None if body is None else _plain(_IPMI, body)
            handler = self._handlers.get(kind)
            return handler(payload, now) if handler else None
        session = self.sessions.get(sid)
        if session is None or not session.established or kind & 0xC0 != 0xC0 or kind & 0x3F not in (_IPMI, _SOL):
            return None
        return self._sealed(session, data, payload, now)

    # -- the session

    def _sealed(self, session: Session, data: bytes, payload: bytes, now: float) -> bytes | None:
        algorithms_ = session.algorithms
        code = hmac.digest(session.k1, data[4 : -algorithms_.icv], algorithms_.digest)[: algorithms_.icv]
        if not hmac.compare_digest(code, data[-algorithms_.icv :]) or len(payload) < 32 or len(payload) % 16:
            return None
        clear = Cipher(algorithms.AES(session.aes), modes.CBC(payload[:16])).decryptor().update(payload[16:])
        if clear[-1] >= len(clear):
            return None
        session.seen = now
        self.spoke = session
        if data[5] & 0x3F == _SOL:
            if self._console is not None:
                self._console(session, clear[: -1 - clear[-1]])
            return None
        body = self._ipmi(session, clear[: -1 - clear[-1]], now)
        if body is None:
            self.dropped += 1
        return None if body is None else self._seal(session, body)

    def _seal(self, session: Session, message: bytes, kind: int = _IPMI) -> bytes:
        pad = -(len(message) + 1) % 16
        iv = self._rng.randbytes(16)
        encryptor = Cipher(algorithms.AES(session.aes), modes.CBC(iv)).encryptor()
        sealed = iv + encryptor.update(message + bytes(range(1, pad + 1)) + bytes((pad,)))
        session.sequence = (session.sequence + 1) & 0xFFFFFFFF
        packet = struct.pack("<BBIIH", 6, kind | 0xC0, session.console_sid, session.sequence, len(sealed)) + sealed
        fill = -(len(packet) + 2) % 4
        packet += b"\xff" * fill + bytes((fill, 7))
        return _RMCP + packet + hmac.digest(session.k1, packet, session.algorithms.digest)[: session.algorithms.icv]

    def _ipmi(self, session: Session | None, message: bytes, now: float) -> bytes | None:
        """One IPMI message (section 13.8): rsAddr, netFn, checksum, rqAddr, rqSeq, command, data, checksum."""
        if len(message) < 7 or sum(message[:3]) & 0xFF or sum(message[3:]) & 0xFF:
            return None
        netfn, command = message[1] >> 2, message[5]
        if netfn & 1:
            return None
        if session is not None and session.last[0] == message:
            self.replayed += 1
            return session.last[1]
        body = self._command(session, netfn, command, message[6:-1], now)
        head = bytes((message[3], (netfn | 1) << 2 | (message[4] & 3)))
        tail = bytes((message[0], (message[4] & 0xFC) | (message[1] & 3), command)) + body
        answer = head + _checksum(head) + tail + _checksum(tail)
        if session is not None:
            session.last = (message, answer)
        return answer

    # -- opening one

    def _open(self, p: bytes, now: float) -> bytes | None:
        if len(p) < 32:
            return None
        self._expire(now)
        console_sid: bytes = p[4:8]
        chosen = next((alg for number, (auth, alg) in _SUITES.items() if number in self.suites and auth == p[12] & 0x3F), None)
        if chosen is None or p[20] & 0x3F != chosen.integrity or p[28] & 0x3F != 1:
            return _plain(_OPENED, bytes((p[0], _NO_SUITE if chosen else _BAD_AUTH, 0, 0)) + console_sid)
        if self.established >= self.slots:
            return _plain(_OPENED, bytes((p[0], _NO_RESOURCES, 0, 0)) + console_sid)
        sid = self._rng.randrange(1, 1 << 32)
        self.sessions[sid] = Session(sid, int.from_bytes(console_sid, "little"), chosen, now)
        proposal = bytes((0, 0, 0, 8, p[12] & 0x3F, 0, 0, 0, 1, 0, 0, 8, chosen.integrity, 0, 0, 0, 2, 0, 0, 8, 1, 0, 0, 0))
        return _plain(_OPENED, bytes((p[0], 0, 4, 0)) + console_sid + sid.to_bytes(4, "little") + proposal)

    def _rakp1(self, p: bytes, now: float) -> bytes | None:
        if len(p) < 28 or len(p) < 28 + p[27]:
            return None
        session = self.sessions.get(int.from_bytes(p[4:8], "little"))
        if session is None or session.established:
            return _plain(_RAKP2, bytes((p[0], _BAD_SESSION, 0, 0, 0, 0, 0, 0)))
        name: bytes = p[28 : 28 + p[27]]
        role = p[24] & 0x0F
        console = session.console_sid.to_bytes(4, "little")
        user = next((user for user in self.users if user.name.encode() == name), None)
        status = _BAD_NAME if user is None else _BAD_ROLE if role > user.privilege or role == 0 else 0
        if user is None or status:
            del self.sessions[session.sid]
            self.failed_logins += 1
            return _plain(_RAKP2, bytes((p[0], status, 0, 0)) + console)
        session.user, session.role, session.seen = user, role, now
        session.names = bytes((p[24], len(name))) + name
        session.console_random, session.own_random = p[8:24], self._rng.randbytes(16)
        proof = console + p[4:8] + session.console_random + session.own_random + self.guid + session.names
        code = hmac.digest(user.password.encode(), proof, session.algorithms.digest)
        return _plain(_RAKP2, bytes((p[0], 0, 0, 0)) + console + session.own_random + self.guid + code)

    def _rakp3(self, p: bytes, now: float) -> bytes | None:
        if len(p) < 8:
            return None
        session = self.sessions.get(int.from_bytes(p[4:8], "little"))
        if session is None or session.established or session.user is None:
            return _plain(_RAKP4, bytes((p[0], _BAD_SESSION, 0, 0, 0, 0, 0, 0)))
        console = session.console_sid.to_bytes(4, "little")
        password, digest = session.user.password.encode(), session.algorithms.digest
        expected = hmac.digest(password, session.own_random + console + session.names, digest)
        if p[1] or not hmac.compare_digest(expected, p[8:]):
            del self.sessions[session.sid]
            self.failed_logins += 1
            return None if p[1] else _plain(_RAKP4, bytes((p[0], _BAD_INTEGRITY, 0, 0)) + console)
        sik = hmac.digest(self.kg or password, session.console_random + session.own_random + session.names, digest)
        session.k1 = hmac.digest(sik, b"\x01" * 20, digest)
        session.aes = hmac.digest(sik, b"\x02" * 20, digest)[:16]
        session.established, session.seen = True, now
        self.logins += 1
        code = hmac.digest(sik, session.console_random + p[4:8] + self.guid, digest)[: session.algorithms.icv]
        return _plain(_RAKP4, bytes((p[0], 0, 0, 0)) + console + code)

    def _expire(self, now: float) -> None:
        gone = [sid for sid, session in self.sessions.items() if now - session.seen > SESSION_IDLE]
        half = [sid for sid, session in self.sessions.items() if not session.established and sid not in gone]
        for sid in gone + half[: max(0, len(half) - _HALF_OPEN + 1)]:
            del self.sessions[sid]


def _checksum(data: bytes) -> bytes:
    return bytes((-sum(data) & 0xFF,))


def _plain(kind: int, payload: bytes) -> bytes:
    return _RMCP + bytes((6, kind)) + bytes(8) + struct.pack("<H", len(payload)) + payload
