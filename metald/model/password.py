"""Hashed passwords as Unix systems keep them: SHA-512 crypt, `$6$salt$digest`.

Python brings no such function any more, and the C library's may know only some methods. What is computed here is the method
that U. Drepper published as "Unix crypt using SHA-256 and SHA-512"; numbers of steps below are those of that paper.
"""

from __future__ import annotations

import hashlib
import secrets

_ROUNDS = 5000
_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SALT = 16


def hashed(password: str, salt: str | None = None) -> str:
    """The password's SHA-512 crypt. Takes about 10 ms of a processor.

    Args:
        password: in clear.
        salt: up to 16 letters of `./0-9A-Za-z`; made by chance when None.

    Raises:
        ValueError: the salt has other letters.
    """
    chosen = "".join(secrets.choice(_ALPHABET) for _ in range(_SALT)) if salt is None else salt[:_SALT]
    if set(chosen) - set(_ALPHABET):
        raise ValueError("a salt has only letters, digits, dots and slashes")
    return f"$6${chosen}${_encoded(_digest(password.encode(), chosen.encode()))}"


def _digest(word: bytes, salt: bytes) -> bytes:
    size = len(word)
    other = hashlib.sha512(word + salt + word).digest()  # steps 4 to 8
    first = hashlib.sha512(word + salt + _repeated(other, size))
    bits = size
    while bits:  # step 11: the length's bits decide
        first.update(other if bits & 1 else word)
        bits >>= 1
    digest = first.digest()
    # steps 13 to 16: the word and the salt, each by a digest of itself
    p = _repeated(hashlib.sha512(word * size).digest(), size)
    s = _repeated(hashlib.sha512(salt * (16 + digest[0])).digest(), len(salt))
    for number in range(_ROUNDS):  # step 21
        odd = number & 1
        mixed = p if odd else digest
        if number % 3:
            mixed += s
        if number % 7:
            mixed += p
        mixed += digest if odd else p
        digest = hashlib.sha512(mixed).digest()
    return digest


def _repeated(block: bytes, size: int) -> bytes:
    return (block * (size // len(block) + 1))[:size]


def _encoded(digest: bytes) -> str:
    """Step 22: three bytes become four letters, in an order of their own; each triple turns on by one place."""
    text = []
    for number in range(21):
        triple = [digest[number], digest[number + 21], digest[number + 42]]
        turned = triple[number % 3 :] + triple[: number % 3]
        text.append(_letters(int.from_bytes(turned, "big"), 4))
    text.append(_letters(digest[63], 2))
    return "".join(text)


def _letters(value: int, count: int) -> str:
    return "".join(_ALPHABET[(value >> 6 * place) & 63] for place in range(count))
