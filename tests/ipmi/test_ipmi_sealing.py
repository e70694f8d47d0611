"""Our sealing of messages against the cryptography library's CBC, and against what is not whole."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from metald.drivers.ipmi.sealing import Sealing

K1, AES = bytes(range(20)), bytes(range(16))
SEALS = {"sha1": Sealing(K1, AES, "sha1", 12), "sha256": Sealing(K1, AES, "sha256", 16)}
ICV = {"sha1": 12, "sha256": 16}


@given(
    st.sampled_from(sorted(SEALS)), st.sampled_from([0, 1]), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=300)
)
def test_a_sealed_message_is_what_the_specification_says(digest: str, kind: int, session: int, sequence: int, payload: bytes) -> None:
    datagram = SEALS[digest].seal(kind, session, sequence, payload)
    icv = ICV[digest]
    assert datagram[:6] == bytes((6, 0, 0xFF, 7, 6, 0xC0 | kind))
    assert datagram[6:14] == session.to_bytes(4, "little") + sequence.to_bytes(4, "little")
    length = int.from_bytes(datagram[14:16], "little")
    sealed, trailer = datagram[16 : 16 + length], datagram[16 + length : -icv]
    assert (len(datagram) - icv - 4) % 4 == 0
    assert trailer == b"\xff" * (len(trailer) - 2) + bytes((len(trailer) - 2, 7))
    assert datagram[-icv:] == hmac.digest(K1, datagram[4:-icv], digest)[:icv]
    clear = Cipher(algorithms.AES(AES), modes.CBC(sealed[:16])).decryptor().update(sealed[16:])
    assert clear == payload + bytes(range(1, clear[-1] + 1)) + clear[-1:]
    assert SEALS[digest].open(datagram) == payload


@given(st.binary(max_size=80), st.integers(0, 10_000), st.integers(1, 255))
def test_a_message_that_was_touched_is_not_opened(payload: bytes, place: int, change: int) -> None:
    datagram = bytearray(SEALS["sha1"].seal(0, 1, 2, payload))
    datagram[4 + place % (len(datagram) - 4)] ^= change
    assert SEALS["sha1"].open(datagram) is None


@given(st.binary(min_size=16, max_size=120), st.booleans())
def test_whatever_comes_is_opened_or_not_and_does_no_harm(data: bytes, signed: bool) -> None:
    if signed:  # by the BMC itself, with a length or padding that is wrong
        data += hmac.digest(K1, data[4:], "sha1")[:12]
    SEALS["sha1"].open(data)
