"""Headers of gzip and zstd files, as far as they tell how much would come out of them (RFC 1952, RFC 8878)."""

from __future__ import annotations

from metald.images.formats.reader import Reader, UnsafeError

LARGEST_WINDOW = 128 << 20
"""Bytes that unpacking zstd may have to keep: the most that `zstd` itself takes by default."""


def check(reader: Reader, kind: str, largest: int) -> None:
    """Check the header of a packed file.

    Raises:
        UnsafeError: it is damaged, or says by itself that it holds more than `largest` bytes.
    """
    if kind == "gzip":
        _check_gzip(reader)
    else:
        _check_zstd(reader, largest)


def _check_gzip(reader: Reader) -> None:
    head = reader.read(0, 10)
    if len(head) < 10 or reader.size < 18:
        raise UnsafeError("it is cut off")
    if head[2] != 8 or head[3] & 0xE0:
        raise UnsafeError("its header holds impossible numbers")


def _check_zstd(reader: Reader, largest: int) -> None:
    head = reader.read(0, 18)
    if len(head) < 6:
        raise UnsafeError("it is cut off")
    descriptor = head[4]
    single, dictionary, size_flag = descriptor >> 5 & 1, (0, 1, 2, 4)[descriptor & 3], descriptor >> 6
    if descriptor & 8 or dictionary:
        raise UnsafeError("it needs a dictionary or unknown features")
    at, window = 5, 0
    if not single:
        exponent, mantissa = head[at] >> 3, head[at] & 7
        window = (1 << (10 + exponent)) // 8 * (8 + mantissa)
        at += 1
    length = (1 if single else 0, 2, 4, 8)[size_flag]
    if len(head) < at + length:
        raise UnsafeError("it is cut off")
    size = int.from_bytes(head[at : at + length], "little") + (256 if length == 2 else 0) if length else 0
    if size > largest:
        raise UnsafeError(f"it holds {size} bytes, more than the {largest} that are allowed")
    if window > LARGEST_WINDOW:
        raise UnsafeError(f"unpacking it would take {window} bytes of memory", "Pack it without --long.")
