"""The boot HTTP server over real sockets: scripts, files, what belongs to one boot, and who asks wrongly."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from pathlib import Path

import aiohttp
import asyncssh
import pytest

from metald.boot.files import BootFiles
from metald.boot.http import MAX_BODY
from metald.config import ConfigError
from tests.support.boot_fleet import MAC, boot_settings
from tests.support.boot_site import Site, raw
from tests.support.tls import authority


async def text(web: aiohttp.ClientSession, url: str, status: int = 200, **kw: object) -> str:
    async with web.get(url, **kw) as answer:  # type: ignore[arg-type]
        assert answer.status == status
        return await answer.text()


async def test_the_first_script_leads_to_the_address_the_client_used(site: Site, web: aiohttp.ClientSession) -> None:
    assert f"{site.base}/boot/ipxe?mac=${{netX/mac:hexhyp}}&" in await text(web, f"{site.base}/boot.ipxe")
    script = await text(web, f"{site.base}/boot.ipxe", headers={"Host": "boot.example.org:8080"})
    assert "http://boot.example.org:8080/boot/ipxe?" in script
    assert await site.fleet.event("node.http", "boot.ipxe")


async def test_a_client_on_the_wire_is_known_by_its_mac(site: Site, web: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its first file already, which says nothing of who asks."""
    node = site.fleet.add(MAC)
    monkeypatch.setattr(site.files.clients, "mac_of", lambda _: MAC)
    await text(web, f"{site.base}/boot.ipxe")
    assert (await site.fleet.event("node.http", "boot.ipxe"))[0] == node.uuid


@pytest.mark.parametrize("agent", ["UefiHttpBoot/1.0", "GRUB 2.06-13+deb12u2"])
async def test_who_leaves_the_port_out_is_led_to_the_port_it_used(site: Site, web: aiohttp.ClientSession, agent: str) -> None:
    headers = {"Host": "127.0.0.1", "User-Agent": agent}
    site.fleet.boot(site.fleet.add(MAC))
    assert f"{site.base}/boot/ipxe?" in await text(web, f"{site.base}/boot.ipxe", headers=headers)
    assert f"metald.url={site.base} " in (await text(web, f"{site.base}/grub/grub.cfg-01-{MAC}", headers=headers)).replace("'", " ")


@pytest.mark.parametrize("host", ["a b", "x;reboot", "${net0/mac}", "a||b", '"x"', "a/../b$"])
async def test_a_host_header_does_not_get_into_a_script(site: Site, web: aiohttp.ClientSession, host: str) -> None:
    async with web.get(f"{site.base}/boot.ipxe", headers={"Host": host}) as answer:
        body = await answer.text()
    assert answer.status == 400 or f"{site.base}/boot/ipxe?" in body


async def test_a_fixed_url_wins(tmp_path: Path, web: aiohttp.ClientSession) -> None:
    site = Site(tmp_path, http_url="https://boot.example.org/metald/")
    await site.server.start()
    try:
        assert "https://boot.example.org/metald/boot/ipxe?" in await text(web, f"{site.base}/boot.ipxe")
    finally:
        await site.server.close()


async def test_a_node_that_wants_a_ramdisk_gets_it(site: Site, web: aiohttp.ClientSession) -> None:
    node = site.fleet.boot(site.fleet.add("52:54:00:00:00:99", MAC))
    script = await text(web, f"{site.base}/boot/ipxe?mac=52-54-00-12-34-56&mac=&mac=nonsense&mac=aa-bb-cc-dd-ee-ff")
    token = node.driver_internal_info["boot_token"]
    assert (
        f"kernel --name kernel {site.own(node, 'kernel')} initrd=initramfs nofb vga=normal console=ttyS0 "
        f"BOOTIF=01-52-54-00-12-34-56 metald.url={site.base} metald.node={node.uuid} metald.token={token} ||"
    ) in script
    told, data = await site.fleet.event("node.http", "boot/ipxe")
    assert told == node.uuid
    assert data["status"] == 200
    assert data["bytes"] == len(script)
    # What the same address asks for afterwards is the node's too.
    await text(web, f"{site.base}/ramdisk/kernel")
    assert (await site.fleet.event("node.http", "ramdisk/kernel"))[0] == node.uuid
    assert await text(web, site.own(node, "kernel")) == "K" * 10000
    assert (await site.fleet.event("node.http", f"boot/{node.uuid}/kernel"))[0] == node.uuid
    assert await text(web, f"{site.base}/pxelinux.cfg/52-54-00-12-34-56") == script


async def test_a_node_without_credentials_boots_its_disk(site: Site, web: aiohttp.ClientSession) -> None:
    site.fleet.add(MAC)
    assert "sanboot --no-describe --drive 0x80" in await text(web, f"{site.base}/boot/ipxe?mac={MAC}")


async def test_a_port_that_may_not_network_boot_leads_to_the_disk(site: Site, web: aiohttp.ClientSession) -> None:
    site.fleet.boot(site.fleet.add(MAC, pxe_enabled=False))
    assert "metald.token" not in await text(web, f"{site.base}/boot/ipxe?mac={MAC}")


async def test_an_unknown_machine_gets_a_clear_script_and_an_event(site: Site, web: aiohttp.ClientSession) -> None:
    script = await text(web, f"{site.base}/boot/ipxe?mac=aa-bb-cc-dd-ee-ff&mac=AABBCCDDEE00")
    assert "does not know this machine" in script
    assert "echo     aa:bb:cc:dd:ee:ff\necho     aa:bb:cc:dd:ee:00\n" in script
    assert "baremetal port create aa:bb:cc:dd:ee:ff" in script
    node, data = await site.fleet.event("boot.unknown")
    assert node is None
    assert data["mac"] == ["aa:bb:cc:dd:ee:ff", "aa:bb:cc:dd:ee:00"]


async def test_files_by_range_head_and_validators(site: Site, web: aiohttp.ClientSession) -> None:
    whole = (site.folder / "ramdisk/initramfs").read_bytes()
    url = f"{site.base}/ramdisk/initramfs"
    async with web.get(url) as answer:
        assert await answer.read() == whole
        etag, modified = answer.headers["ETag"], answer.headers["Last-Modified"]
    for given, expected in {
        "bytes=10-19": whole[10:20],
        "bytes=255990-": whole[255990:],
        "bytes=-5": whole[-5:],
        "bytes=0-9999999": whole,
    }.items():
        async with web.get(url, headers={"Range": given}) as answer:
            assert answer.status == 206
            assert await answer.read() == expected
            start = len(whole) - len(expected) if given != "bytes=10-19" else 10
            assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/{len(whole)}"
    for given in ("bytes=256000-", "bytes=x-y", "bytes=20-10"):
        async with web.get(url, headers={"Range": given}) as answer:
            assert answer.status == 416
            assert answer.headers["Content-Range"] == f"bytes */{len(whole)}"
    async with web.head(url) as answer:
        assert (answer.status, answer.headers["Content-Length"], await answer.read()) == (200, str(len(whole)), b"")
    for headers in ({"If-None-Match": etag}, {"If-None-Match": "*"}, {"If-Modified-Since": modified}):
        async with web.get(url, headers=headers) as answer:
            assert answer.status == 304
    for condition, status in ((etag, 206), (modified, 206), ('"other"', 200)):
        async with web.get(url, headers={"Range": "bytes=0-3", "If-Range": condition}) as answer:
            assert answer.status == status
            assert await answer.read() == (whole[:4] if status == 206 else whole)
    _, data = await site.fleet.event("node.http", "ramdisk/initramfs")
    assert data["bytes"] == len(whole)


@pytest.mark.parametrize(
    "path",
    [
        "/ipxe/nothing.efi",
        "/ipxe/../ramdisk/kernel",
        "/ipxe/%2e%2e/%2e%2e/etc/passwd",
        "/ramdisk/secret",
        "/etc/passwd",
        "/ipxe/a/b/c.efi",
        "/ipxe/.x.efi",
    ],
)
async def test_nothing_else_is_served(site: Site, path: str) -> None:
    (site.folder / "ipxe" / ".x.efi").write_text("hidden")
    answer = await raw(site, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 403"))
    assert b"root:" not in answer


async def test_a_fifo_or_directory_is_not_a_file(site: Site, web: aiohttp.ClientSession) -> None:
    os.mkfifo(site.folder / "ipxe/pipe.efi")
    (site.folder / "ipxe/dir.efi").mkdir()
    await text(web, f"{site.base}/ipxe/pipe.efi", 404)
    await text(web, f"{site.base}/ipxe/dir.efi", 404)
    assert await text(web, f"{site.base}/ipxe/undionly.kpxe") == "U" * 3000


async def test_keys_go_to_the_first_client_only(site: Site, web: aiohttp.ClientSession, tmp_path: Path) -> None:
    node = site.fleet.boot(site.fleet.add(MAC))
    keys = json.loads(await text(web, site.own(node, "keys")))
    assert (
        asyncssh.import_private_key(keys["host_private_key"]).export_public_key().split()[:2]
        == keys["host_public_key"].encode().split()[:2]
    )
    assert keys["authorized_key"] == node.driver_internal_info["boot_client_public_key"]
    assert await text(web, site.own(node, "authorized_keys")) == keys["authorized_key"] + "\n"
    assert await text(web, site.own(node, "host_key")) == keys["host_private_key"]

    async with web.get(site.own(node, "dropbear_host_key")) as answer:
        (tmp_path / "dropbear").write_bytes(await answer.read())
    process = await asyncio.create_subprocess_exec("dropbearkey", "-y", "-f", str(tmp_path / "dropbear"), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert keys["host_public_key"].split()[1] in out.decode()

    other = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=other) as second:
        for what in ("keys", "host_key", "dropbear_host_key"):
            assert "Another client" in await text(second, site.own(node, what), 403)
    assert any(data.get("error", "").startswith("Another client") and data["client"] == "127.0.0.2" for _, _, data in site.fleet.events)
    # A new boot has new keys, for whoever comes first.
    newer = site.fleet.boot(node)
    assert json.loads(await text(web, site.own(newer, "keys")))["host_private_key"] != keys["host_private_key"]
    await text(web, site.own(node, "keys"), 403)


@pytest.mark.parametrize("what", ["keys", "host_key", "dropbear_host_key", "authorized_keys", "image", "configdrive"])
async def test_a_wrong_token_opens_nothing(site: Site, web: aiohttp.ClientSession, what: str) -> None:
    node = site.fleet.boot(site.fleet.add(MAC))
    site.images[node.uuid, what] = site.folder / "ramdisk/kernel"
    refused = await text(web, site.own(node, what, "wrong"), 403)
    idle = site.fleet.add("52:54:00:00:00:02")
    assert await text(web, site.own(idle, what, "x" * 43), 403) == refused
    assert await text(web, f"{site.base}/boot/not-a-node/x/{what}", 403) == refused
    told, data = await site.fleet.event("node.http", f"boot/{node.uuid}/{what}")
    assert (told, data["status"]) == (node.uuid, 403)
    assert not site.fleet.taken


async def test_images_of_the_boot(site: Site, web: aiohttp.ClientSession) -> None:
    node = site.fleet.boot(site.fleet.add(MAC))
    await text(web, site.own(node, "image"), 404)
    site.images[node.uuid, "image"] = site.folder / "ramdisk/initramfs"
    async with web.get(site.own(node, "image"), headers={"Range": "bytes=1-3"}) as answer:
        assert (answer.status, await answer.read()) == (206, b"\1\2\3")
    token = node.driver_internal_info["boot_token"]
    assert token not in json.dumps(site.fleet.events)


async def test_an_agents_token_opens_image_and_config_drive_and_no_more(site: Site, web: aiohttp.ClientSession) -> None:
    """Somebody else may have booted the agent: it has no token of a boot then."""
    node = site.fleet.add(MAC, driver_internal_info={"agent_image_token": "t" * 43})
    for what in ("image", "configdrive", "deploy_kernel", "keys", "ready"):
        site.images[node.uuid, what] = site.folder / "ramdisk/kernel"
        status = 200 if what in ("image", "configdrive") else 403
        await text(web, site.own(node, what, "t" * 43), status)
        if status == 200:
            await text(web, site.own(node, what, "u" * 43), 403)


async def test_ready_by_form_and_by_json(site: Site, web: aiohttp.ClientSession) -> None:
    node = site.fleet.boot(site.fleet.add(MAC))
    url = site.own(node, "ready")
    async with web.post(url) as answer:
        assert answer.status == 204
    async with web.post(
        url, data={"port": "2222", "uptime": "12.5", "boot_mode": "uefi", "macs": f"{MAC.upper()},aa-bb-cc-dd-ee-ff"}
    ) as answer:
        assert answer.status == 204
    async with web.post(url, json={"address": "10.0.0.7", "port": 22, "macs": [MAC]}) as answer:
        assert answer.status == 204
    assert site.fleet.calls == [
        (node.uuid, {"address": "127.0.0.1", "port": 22}),
        (node.uuid, {"address": "127.0.0.1", "port": 2222, "uptime": 12.5, "boot_mode": "uefi", "macs": [MAC, "aa:bb:cc:dd:ee:ff"]}),
        (node.uuid, {"address": "10.0.0.7", "port": 22, "macs": [MAC]}),
    ]
    async with web.post(site.own(node, "ready", "wrong")) as answer:
        assert answer.status == 403
    assert len(site.fleet.calls) == 3


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[1]", "application/json"),
        (b"{", "application/json"),
        (b'{"port": 0}', "application/json"),
        (b'{"port": true}', "application/json"),
        (b'{"address": "224.0.0.1"}', "application/json"),
        (b'{"address": ["x"]}', "application/json"),
        (b'{"uptime": "nan"}', "application/json"),
        (b'{"macs": [1]}', "application/json"),
        (b'{"boot_mode": "other"}', "application/json"),
        (b"[" * 50000, "application/json"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"&".join(b"a=1" for _ in range(100)), "application/x-www-form-urlencoded"),
        (b"port=99999", "application/x-www-form-urlencoded"),
    ],
)
async def test_bad_calls_are_refused(site: Site, web: aiohttp.ClientSession, body: bytes, kind: str) -> None:
    node = site.fleet.boot(site.fleet.add(MAC))
    async with web.post(site.own(node, "ready"), data=body, headers={"Content-Type": kind}) as answer:
        assert answer.status == 400
    assert not site.fleet.calls


async def test_a_body_over_the_limit_is_refused(site: Site, web: aiohttp.ClientSession) -> None:
    node = site.fleet.boot(site.fleet.add(MAC))
    async with web.post(site.own(node, "ready"), data=b"a=" + b"x" * MAX_BODY) as answer:
        assert answer.status == 413


async def test_other_methods_are_refused(site: Site, web: aiohttp.ClientSession) -> None:
    async with web.put(f"{site.base}/boot.ipxe", data=b"x") as answer:
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]


async def test_a_directory_that_fails_is_an_internal_error(
    site: Site, web: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    node = site.fleet.boot(site.fleet.add(MAC))

    async def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    site.fleet.ramdisk_called = fail  # type: ignore[method-assign]
    async with web.post(site.own(node, "ready")) as answer:
        assert (answer.status, await answer.text()) == (500, "Internal error.\n")
    assert node.driver_internal_info["boot_token"] not in caplog.text


async def test_an_address_in_use_is_an_error(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path, http_listen=f"127.0.0.1:{site.port}")
    with pytest.raises(OSError, match="in use"):
        await other.server.start()
    assert other.server.addresses == []


async def test_both_families(tmp_path: Path, web: aiohttp.ClientSession) -> None:
    site = Site(tmp_path, http_listen="127.0.0.1:0, [::1]:0")
    await site.server.start()
    try:
        host, port = site.server.addresses[1]
        assert host == "::1"
        assert f"http://[::1]:{port}/boot/ipxe?" in await text(web, f"http://[::1]:{port}/boot.ipxe")
        node = site.fleet.boot(site.fleet.add(MAC))
        async with web.post(f"http://[::1]:{port}/boot/{node.uuid}/{node.driver_internal_info['boot_token']}/ready") as answer:
            assert answer.status == 204
        assert site.fleet.calls[0][1]["address"] == "::1"
    finally:
        await site.server.close()


async def test_over_tls(tmp_path: Path) -> None:
    """Encrypted, the same files come by ranges too, and scripts lead to https."""
    ca, certificate, key = authority(tmp_path, "boot.example.org")
    site = Site(tmp_path, http_tls_certificate=str(certificate), http_tls_key=str(key))
    big = os.urandom((9 << 20) + 5)
    (tmp_path / "ipxe/big.efi").write_bytes(big)
    await site.server.start()
    base = f"https://127.0.0.1:{site.port}"
    try:
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(ca)))
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as web:
            async with web.get(f"{base}/ipxe/big.efi") as answer:
                assert await answer.read() == big
            async with web.get(f"{base}/ipxe/big.efi", headers={"Range": "bytes=1000000-7000000"}) as answer:
                assert (answer.status, await answer.read()) == (206, big[1000000:7000001])
            async with web.head(f"{base}/ipxe/big.efi") as answer:
                assert answer.headers["Content-Length"] == str(len(big))
            assert f"chain --replace --autofree {base}/boot/ipxe?" in await text(web, f"{base}/boot.ipxe")
        assert (await site.fleet.event("node.http", "ipxe/big.efi"))[1]["bytes"] == len(big)
    finally:
        await site.server.close()
    files = BootFiles(site.fleet, boot_settings(tmp_path, http_listen="0.0.0.0:443", http_tls_certificate="x", http_tls_key="y"))
    assert files.urls.base("10.0.0.1") == "https://10.0.0.1:443"
    with pytest.raises(ConfigError, match="http_tls_certificate"):
        await Site(tmp_path, http_tls_certificate=str(key), http_tls_key=str(key)).server.start()


async def test_a_machine_has_its_share_of_the_bandwidth(tmp_path: Path, web: aiohttp.ClientSession) -> None:
    site = Site(tmp_path, http_bandwidth_per_client=1 << 20)
    (tmp_path / "ipxe/big.efi").write_bytes(bytes(1 << 20))
    await site.server.start()
    loop = asyncio.get_running_loop()
    try:
        begun = loop.time()
        sizes = await asyncio.gather(*(_size(web, f"{site.base}/ipxe/big.efi") for _ in range(2)))
        # One machine's two downloads share what it has.
        assert loop.time() - begun > 1.5
        assert sizes == [1 << 20] * 2
        await site.fleet.event("node.http")
    finally:
        await site.server.close()


async def _size(web: aiohttp.ClientSession, url: str) -> int:
    async with web.get(url) as answer:
        return len(await answer.read())
