"""Sealing and opening of RMCP+ messages within a session: AES-CBC-128 and a truncated HMAC (IPMI 2.0 sections 13.28, 13.29).

pyghmi makes a cipher and an HMAC object for each message, which is half of what a power query costs. Here the AES context is
made once per session; CBC is done on top of it, which for messages of one or two blocks is a handful of XORs.
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from metald.entropy import random_bytes

_BLOCK = 16
_HEAD = 16  # RMCP header, authentication type, payload type, session, sequence, length
_PADS = tuple(bytes(range(1, size + 1)) + bytes((size,)) for size in range(_BLOCK))


class Sealing:
    """The keys of one session at work.

    Args:
        k1: key of the HMAC.
        aes: key of the cipher, 16 bytes.
        digest: the hash's name.
        icv: bytes of the HMAC that are sent.
    """

    __slots__ = ("_decrypt", "_digest", "_encrypt", "_icv", "_k1")

    def __init__(self, k1: bytes, aes: bytes, digest: str, icv: int) -> None:
        self._k1, self._digest, self._icv = k1, digest, icv
        # Single blocks, chained by hand below: this is CBC.
        cipher = Cipher(algorithms.AES(aes), modes.ECB())  # noqa: S305
        self._encrypt = cipher.encryptor().update
        self._decrypt = cipher.decryptor().update

    def seal(self, kind: int, session: int, sequence: int, payload: bytes | bytearray) -> bytes:
        """The datagram that carries a payload of type `kind`."""
        clear = bytes(payload) + _PADS[-(len(payload) + 1) % _BLOCK]
        last = random_bytes(_BLOCK)
        pieces = [last]
        for at in range(0, len(clear), _BLOCK):
            last = self._encrypt(_xor(clear[at : at + _BLOCK], last))
            pieces.append(last)
        sealed = b"".join(pieces)
        length = len(sealed)
        # 4 bytes of RMCP header before what the HMAC covers; its trailer is two bytes behind the padding
        fill = -(_HEAD - 4 + length + 2) % 4
        signed = (
            bytes((6, kind | 0xC0))
            + session.to_bytes(4, "little")
            + sequence.to_bytes(4, "little")
            + length.to_bytes(2, "little")
            + sealed
            + b"\xff" * fill
            + bytes((fill, 7))
        )
        return b"\x06\x00\xff\x07" + signed + hmac.digest(self._k1, signed, self._digest)[: self._icv]

    def open(self, datagram: bytes | bytearray) -> bytearray | None:
        """The payload of a datagram; None when it is not the other side's, or is malformed."""
        data = bytes(datagram)
        proof = hmac.digest(self._k1, data[4 : -self._icv], self._digest)[: self._icv]
        if not hmac.compare_digest(proof, data[-self._icv :]):
            return None
        length = data[14] | data[15] << 8
        sealed = data[_HEAD : _HEAD + length]
        if length < 2 * _BLOCK or length % _BLOCK or len(sealed) != length:
            return None
        clear = _xor(self._decrypt(sealed[_BLOCK:]), sealed[:-_BLOCK])
        pad = clear[-1] + 1
        return bytearray(clear[:-pad]) if pad <= _BLOCK else None


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).to_bytes(len(one), "little")
