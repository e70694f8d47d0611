"""What image files are made of, read without trusting a byte: one module for each format that a disk may come in.

Rules: a reader takes a bounded number of bytes at places that lie inside the file. Every number of a header is checked against
the file and against a limit before it is used. What refers to another file, is encrypted, or needs more than is known is refused,
with the reason.
"""

from __future__ import annotations
