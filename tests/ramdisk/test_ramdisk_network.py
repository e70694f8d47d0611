"""What metald's ramdisk does to a network card when its DHCP client has no lease, on a card in a network namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path("metald/ramdisk/files/dhcp").absolute()
CARD = """set -e
ip link add card type veth peer name other
ip link set other up
ip link set card up
ip addr add 192.0.2.7/24 dev card
ip addr add fd00::7/64 dev card nodad
"""


def test_a_card_without_a_lease_keeps_the_addresses_by_which_it_asks_routers() -> None:
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    private = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    commands = f"{CARD} sh {SCRIPT} deconfig; ip -o addr show dev card"
    environment = {**os.environ, "interface": "card"}
    done = subprocess.run([*private, "sh", "-c", commands], env=environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode and "not permitted" in done.stderr:
        pytest.skip("no network namespace can be made here")
    assert done.returncode == 0, done.stderr
    assert "192.0.2.7" not in done.stdout
    assert "inet6 fd00::7/64" in done.stdout
    assert "inet6 fe80::" in done.stdout
