"""Bridging: commands for a controller behind the BMC, wrapped in Send Message (IPMI 2.0 sections 6.13 and 22.7).

Bytes in, bytes out. A request is wrapped once (single bridging) or twice (dual); each controller on the way confirms its
Send Message with an answer of its own, and the target's answer comes either by itself or inside of such a confirmation.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from metald.drivers.ipmi.info import Bridge

SEND_MESSAGE: Final = (0x06, 0x34)
_BMC = 0x20
_TRACK = 0x40  # the BMC keeps in mind whose request it is and sends the answer to us


class Answer(NamedTuple):
    """An IPMI message that answers a request: section 13.8."""

    netfn: int
    sequence: int
    command: int
    code: int
    data: bytes

    @classmethod
    def unpack(cls, message: bytes) -> Answer | None:
        """From rqAddr, netFn, checksum, rsAddr, rqSeq, command, code, data, checksum; None when that is wrong."""
        if len(message) < 8 or sum(message[:3]) & 0xFF or sum(message[3:]) & 0xFF:
            return None
        return cls(message[1] >> 2, message[4] >> 2, message[5], message[6], bytes(message[7:-1]))


class Passage:
    """One bridged request on its way.

    Args:
        sequence: the request's sequence number, the same on all of the way.
    """

    __slots__ = ("_command", "_netfn", "_sequence", "data")

    def __init__(self, bridge: Bridge, sequence: int, netfn: int, command: int, data: bytes) -> None:
        self._sequence, self._netfn, self._command = sequence, netfn, command
        local = _number(bridge.local_address, _BMC)
        target = _number(bridge.target_address, _BMC)
        transit = _number(bridge.transit_address, None)
        message = _message(target, transit if transit is not None else local, sequence, netfn, command, data)
        inner = bytes((_number(bridge.target_channel, 0) | _TRACK,)) + message
        if transit is not None:
            message = _message(transit, local, sequence, *SEND_MESSAGE, inner)
            inner = bytes((_number(bridge.transit_channel, 0) | _TRACK,)) + message
        self.data = inner
        """The data of the Send Message for the BMC itself."""

    def answer(self, message: bytes) -> Answer | None:
        """What a message from the BMC means: the target's answer, a refusal on the way, or nothing yet."""
        found = Answer.unpack(message)
        if found is None or found.sequence != self._sequence:
            return None
        if (found.netfn, found.command) == (self._netfn | 1, self._command):
            return found
        if (found.netfn, found.command) != (SEND_MESSAGE[0] | 1, SEND_MESSAGE[1]):
            return None
        if found.code:
            return found
        return self.answer(found.data) if len(found.data) >= 8 else None


def _number(text: str | None, default: int | None) -> int:
    return int(text, 0) if text is not None else default  # type: ignore[return-value]


def _message(responder: int, requester: int, sequence: int, netfn: int, command: int, data: bytes) -> bytes:
    head = bytes((responder, netfn << 2))
    body = bytes((requester, sequence << 2, command)) + data
    return head + _checksum(head) + body + _checksum(body)


def _checksum(data: bytes) -> bytes:
    return bytes((-sum(data) & 0xFF,))
