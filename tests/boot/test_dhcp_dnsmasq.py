"""The DHCP provider `dnsmasq`: its files, and a real dnsmasq on a private wire that honours them without a restart."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from metald.boot import credentials, dhcp
from metald.boot.dhcp import DnsmasqDhcp, NoDhcp, lease_file
from metald.config import Boot, ConfigError, Dhcp, Settings
from metald.errors import WorldError
from metald.model import Node, Port
from tests.support.boot_fleet import MAC

IPXE = {"175": "010101"}
EFI = {"93": "0007"}
EFI_BC = {"93": "0009"}
EFI_HTTP = {"93": "0010", "60": b"HTTPClient:Arch:00016:UNDI:003001".hex()}


def settings(folder: Path, *, script: str = "http", **boot: str) -> Settings:
    for name in ("hosts", "opts"):
        (folder / name).mkdir(exist_ok=True)
    given = {"tftp_listen": "10.9.0.1:69", "http_listen": "10.9.0.1:6386"} | boot
    return Settings(
        boot=Boot(**given),
        dhcp=Dhcp(
            provider="dnsmasq",
            dnsmasq_hostsdir=str(folder / "hosts"),
            dnsmasq_optsdir=str(folder / "opts"),
            dnsmasq_leases=str(folder / "leases"),
            ipxe_script=script,  # type: ignore[arg-type]
        ),
    )


def machine(mac: str = MAC) -> tuple[Node, list[Port]]:
    node = Node(driver="ipmi")
    off = Port(node_uuid=node.uuid, address="52:54:00:00:00:ff", pxe_enabled=False)
    return node, [Port(node_uuid=node.uuid, address=mac), off]


async def test_the_files(tmp_path: Path) -> None:
    provider = dhcp.provider(settings(tmp_path))
    node, ports = machine()
    await provider.release(node, ports)
    assert list((tmp_path / "hosts").iterdir()) == []
    await provider.bind(node, ports)
    host = tmp_path / f"hosts/ironic-{MAC}.conf"
    options = tmp_path / f"opts/ironic-{node.uuid}.conf"
    mac, tag, common = host.read_text().strip().split(",")
    assert (mac, common) == (MAC, "set:ironic")
    tag = tag.removeprefix("set:")
    assert tag.startswith(node.uuid)
    assert options.read_text().splitlines() == [
        f"tag:{tag},tag:ipxe,67,http://10.9.0.1:6386/boot.ipxe",
        f"tag:{tag},tag:ipxe,encap:175,176,1b",
        f"tag:{tag},tag:!ipxe,tag:!efi,tag:!efi-arm64,tag:!efi-http,tag:!efi-arm64-http,67,undionly.kpxe",
        f"tag:{tag},tag:!ipxe,tag:efi,67,ipxe.efi",
        f"tag:{tag},tag:!ipxe,tag:efi-arm64,67,arm64-efi/ipxe.efi",
        f"tag:{tag},tag:!ipxe,tag:efi-http,67,http://10.9.0.1:6386/ipxe.efi",
        f"tag:{tag},tag:!ipxe,tag:efi-http,60,HTTPClient",
        f"tag:{tag},tag:!ipxe,tag:efi-arm64-http,67,http://10.9.0.1:6386/arm64-efi/ipxe.efi",
        f"tag:{tag},tag:!ipxe,tag:efi-arm64-http,60,HTTPClient",
        f"tag:{tag},66,10.9.0.1",
        f"tag:{tag},150,10.9.0.1",
        f"tag:{tag},255,10.9.0.1",
    ]
    before = (host.stat().st_ino, options.stat().st_ino)
    await provider.bind(node, ports)
    assert (host.stat().st_ino, options.stat().st_ino) == before
    await provider.release(node, ports)
    assert host.read_text() == f"{MAC},ignore\n"
    assert {path.name for path in (tmp_path / "hosts").iterdir()} == {host.name}
    changed = DnsmasqDhcp(settings(tmp_path, script="tftp"))
    await changed.bind(node, ports)
    assert tag not in options.read_text()
    assert ",67,boot.ipxe\n" in options.read_text()


def test_settings_that_are_wrong(tmp_path: Path) -> None:
    assert isinstance(dhcp.provider(Settings()), NoDhcp)
    for wrong, cause in (
        (Settings(dhcp=Dhcp(provider="dnsmasq")), "dnsmasq_hostsdir"),
        (settings(tmp_path, tftp_listen="0.0.0.0:69"), "tftp_address"),
        (settings(tmp_path, tftp_listen="", script="tftp"), "no TFTP server"),
        (settings(tmp_path, tftp_listen="", http_listen="*:80"), "http_url"),
        (settings(tmp_path, http_url="http://" + "x" * 120), "longer than 127"),
    ):
        with pytest.raises(ConfigError, match=cause):
            dhcp.provider(wrong)


async def test_addresses_that_are_given(tmp_path: Path) -> None:
    provider = DnsmasqDhcp(settings(tmp_path, tftp_listen="*:69", tftp_address="10.9.0.2", http_listen="*:80"))
    node, ports = machine()
    await provider.bind(node, ports)
    text = (tmp_path / f"opts/ironic-{node.uuid}.conf").read_text()
    assert ",67,http://10.9.0.2:80/boot.ipxe\n" in text
    assert ",66,10.9.0.2\n" in text
    assert ",66," not in "".join(DnsmasqDhcp(settings(tmp_path, tftp_listen=""))._options(node, [MAC]))


async def test_options_for_ipv6(tmp_path: Path) -> None:
    both = {"tftp_listen": "10.9.0.1:69,[fd00:9::1]:69", "http_listen": "10.9.0.1:6386,[fd00:9::1]:6386"}
    node, _ = machine()

    def options(interface: str, **boot: str) -> list[str]:
        given = settings(tmp_path, **{**both, **boot})
        return [line for line in DnsmasqDhcp(given)._options(node.changed(boot_interface=interface), [MAC]) if "option6:" in line]

    client = "option6:16,00:00:01:57:00:0a:48:54:54:50:43:6c:69:65:6e:74"
    assert options("ipxe") == [
        "tag:ipxe6,option6:59,http://[fd00:9::1]:6386/boot.ipxe",
        "tag:!ipxe6,tag:efi6,option6:59,tftp://[fd00:9::1]/ipxe.efi",
        "tag:!ipxe6,tag:efi6-arm64,option6:59,tftp://[fd00:9::1]/arm64-efi/ipxe.efi",
        "tag:!ipxe6,tag:efi6-http,option6:59,http://[fd00:9::1]:6386/ipxe.efi",
        f"tag:!ipxe6,tag:efi6-http,{client}",
        "tag:!ipxe6,tag:efi6-arm64-http,option6:59,http://[fd00:9::1]:6386/arm64-efi/ipxe.efi",
        f"tag:!ipxe6,tag:efi6-arm64-http,{client}",
    ]
    assert options("pxe") == [
        "tag:ipxe6,tag:!efi6,tag:!efi6-arm64,option6:59,tftp://[fd00:9::1]/pxelinux.0",
        "tag:ipxe6,tag:efi6,option6:59,tftp://[fd00:9::1]/bootx64.efi",
        "tag:ipxe6,tag:efi6-arm64,option6:59,tftp://[fd00:9::1]/bootaa64.efi",
        "tag:!ipxe6,tag:efi6,option6:59,tftp://[fd00:9::1]/bootx64.efi",
        "tag:!ipxe6,tag:efi6-arm64,option6:59,tftp://[fd00:9::1]/bootaa64.efi",
    ]
    anywhere = {"tftp_listen": "*:69", "http_listen": "*:80", "tftp_address": "10.9.0.1"}
    assert options("pxe", **anywhere) == []
    assert "tftp://[fd00:9::9]/bootx64.efi" in options("pxe", **anywhere, address6="fd00:9::9")[1]
    assert options("pxe", tftp_listen="10.9.0.1:69", http_listen="10.9.0.1:80") == []


async def test_directories_that_are_gone(tmp_path: Path) -> None:
    provider = DnsmasqDhcp(settings(tmp_path))
    (tmp_path / "opts").rmdir()
    node, ports = machine()
    with pytest.raises(WorldError, match=r"dnsmasq's files cannot be used.*dnsmasq_optsdir"):
        await provider.bind(node, ports)


async def test_leases(tmp_path: Path) -> None:
    provider = DnsmasqDhcp(settings(tmp_path))
    _, ports = machine()
    assert await provider.addresses(ports) == {}
    (tmp_path / "leases").write_text(
        f"1795377992 {MAC.upper()} 10.9.0.85 * 01:52:54:00\nduid 00:01:00\n1795377992 123 fd00::5 * 00:01\n\n99 x\n"
    )
    assert await provider.addresses(ports) == {MAC: "10.9.0.85"}
    assert {mac: lease.address for mac, lease in lease_file.read(tmp_path / "leases").items()} == {MAC: "10.9.0.85"}
    none = Settings(boot=Boot(http_listen="10.9.0.1:6386"), dhcp=Dhcp(provider="dnsmasq", dnsmasq_hostsdir="/x", dnsmasq_optsdir="/y"))
    assert await DnsmasqDhcp(none).addresses(ports) == {}
    assert await NoDhcp().addresses(ports) == {}


class Lab:
    """A dnsmasq in a network namespace, and questions for it."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._log = folder / "log"
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    async def offer(self, mac: str = MAC, options: Mapping[str, str] | None = None, *, request: bool = False) -> dict[str, Any] | None:
        self._in.write(json.dumps({"mac": mac, "options": dict(options or {}), "request": request}).encode() + b"\n")
        async with asyncio.timeout(20):
            answer: dict[str, Any] | None = json.loads(await self._out.readline())
        return answer

    async def taken(self, count: int) -> None:
        """Until dnsmasq has said `count` times in all that it read a file."""
        async with asyncio.timeout(20):
            while sum("read " in line and "ironic-" in line for line in self._log.read_text().splitlines()) < count:
                await asyncio.sleep(0.01)


def boot_file(answer: dict[str, Any] | None) -> str:
    assert answer is not None
    return bytes.fromhex(answer["options"]["67"]).rstrip(b"\0").decode()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    if not shutil.which("dnsmasq") or not shutil.which("unshare"):
        pytest.skip("needs dnsmasq and unshare")
    settings(tmp_path)
    script = Path(__file__).parent.parent / "support/dhcp_lab.py"
    private = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    process = await asyncio.create_subprocess_exec(
        *private, sys.executable, str(script), str(tmp_path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        if await process.stdout.readline() != b"ready\n":
            await process.wait()
            pytest.skip("no network namespace can be made here")
    made = Lab(process, tmp_path)
    yield made
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(20):
        await process.wait()


async def test_a_real_dnsmasq_honours_changes_without_a_restart(lab: Lab, tmp_path: Path) -> None:
    node, ports = machine()
    before = await lab.offer()
    assert before is not None
    assert "67" not in before["options"]

    provider = DnsmasqDhcp(settings(tmp_path))
    await provider.bind(node, ports)
    await lab.taken(2)
    bios = await lab.offer()
    assert bios is not None
    assert boot_file(bios) == "undionly.kpxe"
    assert bios["siaddr"] == "10.9.0.1"
    assert bytes.fromhex(bios["options"]["66"]) == b"10.9.0.1\0"
    assert bios["options"]["150"] == "0a090001"
    assert boot_file(await lab.offer(options=EFI)) == "ipxe.efi"
    assert boot_file(await lab.offer(options=EFI_BC)) == "ipxe.efi"
    ipxe = await lab.offer(options=IPXE | EFI)
    assert boot_file(ipxe) == "http://10.9.0.1:6386/boot.ipxe"
    assert ipxe is not None
    assert ipxe["options"]["175"] == "b00101ff"

    changed = DnsmasqDhcp(settings(tmp_path, script="tftp"))
    await changed.bind(node, ports)
    await lab.taken(4)
    ipxe = await lab.offer(options=IPXE)
    assert boot_file(ipxe) == "boot.ipxe"
    assert ipxe is not None
    assert ipxe["options"]["175"] == "b00101ff"

    await changed.release(node, ports)
    await lab.taken(5)
    assert await lab.offer() is None

    await provider.bind(node, ports)
    await lab.taken(7)
    leased = await lab.offer(options=IPXE, request=True)
    assert boot_file(leased) == "http://10.9.0.1:6386/boot.ipxe"
    assert leased is not None
    assert await provider.addresses(ports) == {MAC: leased["address"]}


async def test_a_real_dnsmasq_tells_what_the_boot_interface_loads(lab: Lab, tmp_path: Path) -> None:
    long = "http://a-rather-long-name-of-a-host-in-a-domain.example.org:6386"
    provider = DnsmasqDhcp(settings(tmp_path, http_url=long))
    node, ports = machine()
    read = 0

    async def told(interface: str, *, booting: bool = True) -> list[str | None]:
        nonlocal read
        info = credentials.new_credentials("deploy") if booting else {}
        await provider.bind(node.changed(boot_interface=interface, driver_internal_info=info), ports)
        read += 1 if read else 2
        await lab.taken(read)
        found: list[str | None] = []
        for options in ({}, EFI, EFI_HTTP, IPXE, IPXE | EFI):
            answer = await lab.offer(options=options)
            assert answer is not None
            found.append(boot_file(answer) if "67" in answer["options"] else None)
            if options is EFI_HTTP and found[-1]:
                assert bytes.fromhex(answer["options"]["60"]) == b"HTTPClient"
        return found

    script = f"{long}/boot.ipxe"
    assert await told("ipxe") == ["undionly.kpxe", "ipxe.efi", f"{long}/ipxe.efi", script, script]
    read += 1  # the host's file has the tag of the options, which changed
    assert await told("pxe") == ["pxelinux.0", "bootx64.efi", None, "pxelinux.0", "bootx64.efi"]
    read += 1
    assert await told("http-ipxe") == [None, None, f"{long}/ipxe.efi", script, script]
    read += 1
    assert await told("http") == [None, None, f"{long}/uefi/{MAC.replace(':', '-')}/boot.img", None, None]
    read += 1
    assert await told("http", booting=False) == [None] * 5
