"""The neighbour table, asked by netlink: of a real neighbour in a network namespace, and with answers that are none."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest

from metald.boot import neighbours
from metald.boot.neighbours import neighbour

_WIRE = """
import json, socket, sys
from metald.boot.neighbours import neighbour
for family, address in ((socket.AF_INET, "10.9.0.2"), (socket.AF_INET6, "fd00:9::2")):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.sendto(b"", (address, 9))
print(json.dumps({a: neighbour(a) for a in ("10.9.0.2", "fd00:9::2", "10.9.0.3", "10.9.0.1", "192.0.2.1", "127.0.0.1")}))
"""
_SETUP = """
set -e
ip link set lo up
ip link add left type veth peer name right
ip link set right address 52:54:00:12:34:56
ip addr add 10.9.0.1/24 dev left
ip addr add fd00:9::1/64 dev left nodad
ip link set left up
ip link set right up
ip route add 192.0.2.0/24 via 10.9.0.2
ip neigh add 10.9.0.2 lladdr 52:54:00:12:34:56 dev left
ip neigh add fd00:9::2 lladdr 52:54:00:12:34:56 dev left
exec "$@"
"""


def test_a_real_neighbour() -> None:
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    private = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    made = subprocess.run(
        [*private, "sh", "-c", _SETUP, "sh", sys.executable, "-c", _WIRE], capture_output=True, text=True, timeout=60, check=False
    )
    if made.returncode and "denied" in made.stderr + made.stdout:
        pytest.skip("no network namespace can be made here")
    assert made.returncode == 0, made.stderr
    mac = '"52:54:00:12:34:56"'
    nobody = ", ".join(f'"{address}": null' for address in ("10.9.0.3", "10.9.0.1", "192.0.2.1", "127.0.0.1"))
    assert made.stdout.strip() == f'{{"10.9.0.2": {mac}, "fd00:9::2": {mac}, {nobody}}}'


@pytest.mark.parametrize("text", ["", "nonsense", "fe80::1%eth0", "999.1.1.1"])
def test_no_address(text: str) -> None:
    assert neighbour(text) is None


def test_a_kernel_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    assert neighbour("10.0.0.1") is None


def test_attributes_of_no_length_end_the_reading() -> None:
    assert list(neighbours._attributes(b"\0\0\1\0")) == []
    assert list(neighbours._attributes(b"\x05\0\1\0x")) == [(1, b"x")]
