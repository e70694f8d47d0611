"""metald beside a DHCP server of somebody else's that only hands out addresses and the boot file: a real dnsmasq."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import pytest


async def test_a_machine_boots_beside_a_foreign_dhcp_server(tmp_path: Path) -> None:
    if not shutil.which("dnsmasq") or not shutil.which("unshare"):
        pytest.skip("needs dnsmasq and unshare")
    private = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    process = await asyncio.create_subprocess_exec(
        *private,
        sys.executable,
        "-m",
        "tests.support.foreign_wire",
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    if process.returncode and b"denied" in err:
        pytest.skip("no network namespace can be made here")
    assert process.returncode == 0, err.decode()
    got = json.loads(out)
    assert (got["file"], got["loader"]) == ("undionly.kpxe", 1800)
    assert got["script"] == "http://10.9.0.1:6386/boot.ipxe"
    assert "metald.url=http://10.9.0.1:6386 " in got["line"]
    asked = ["discover", "", "", ""], ["", "offer", "10.9.0.1"], ["request", "", "10.9.0.1", ""], ["", "ack", "10.9.0.1"]
    for firmware, file in (("pxe", "undionly.kpxe"), ("ipxe", got["script"])):
        for each in asked:
            assert [firmware, *each, *([file] if len(each) == 3 else [])] in got["dhcp"]
    # It is known by its MAC address, by its first file already.
    assert [(by, name.rpartition("/")[2], error) for by, name, error in got["files"]] == [
        ("tftp", "undionly.kpxe", ""),
        ("http", "boot.ipxe", ""),
        ("http", "ipxe", ""),
        ("http", "kernel", ""),
        ("http", "initramfs", ""),
    ]
