"""Random bytes from a stock: each is given out once."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import uuid

import pytest

from metald.entropy import new_uuid, random_bytes


def test_uuids_are_of_version_4_and_differ() -> None:
    found = [new_uuid() for _ in range(2000)]
    assert len(set(found)) == 2000
    for text in found:
        assert str(uuid.UUID(text)) == text
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", text)
    assert {text[19] for text in found} == set("89ab")


@pytest.mark.parametrize("size", [1, 16, 4096])
def test_as_many_bytes_as_wanted(size: int) -> None:
    for _ in range(5):
        assert len(random_bytes(size)) == size


def test_threads_do_not_share_a_stock() -> None:
    found: list[list[bytes]] = []
    threads = [threading.Thread(target=lambda: found.append([random_bytes(16) for _ in range(3000)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [chunk for chunks in found for chunk in chunks]
    assert len(set(everything)) == len(everything) == 12_000


_FORKING = """
import os
from metald.entropy import random_bytes
random_bytes(16)
child = os.fork()
os.write(1, random_bytes(32).hex().encode() + b"\\n")
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_has_another_stock() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKING], capture_output=True, text=True, check=True)
    one, other = done.stdout.split()
    assert one != other
