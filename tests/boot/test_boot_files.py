"""The virtual tree of boot files: which names there are, who may have what is behind them, and where clients are led."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.boot.clients import Clients
from metald.boot.files import BootFiles, shown
from metald.boot.fills import Remote
from metald.boot.listen import parse_listen, plain, url_host
from metald.boot.render import Asker
from metald.config import Boot, ConfigError, Settings
from metald.errors import Invalid, NotAllowed, NotFound
from metald.model import Node
from tests.support.boot_fleet import MAC, Fleet, boot_settings

ASKER = Asker("http://10.0.0.1:6386", (MAC,))


def place(made: Node) -> str:
    return f"boot/{made.uuid}/{made.driver_internal_info['boot_token']}"


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def files(fleet: Fleet, tmp_path: Path) -> BootFiles:
    return BootFiles(fleet, boot_settings(tmp_path, http_listen="0.0.0.0:6386"))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/../x", "ipxe/../../x", "..\\..\\x", "a/b/..", "..", "ramdisk/../ramdisk/kernel"])
def test_climbing_is_refused(files: BootFiles, name: str) -> None:
    with pytest.raises(NotAllowed):
        files.find(name, ASKER)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "etc/passwd",
        "passwd",
        ".",
        "ipxe",
        "ramdisk",
        "ramdisk/x",
        "a.efi\0b",
        "a b.efi",
        ".a.efi",
        "pxelinux.cfg/default",
        "x" * 400,
    ],
)
def test_other_names_are_not_there(files: BootFiles, name: str) -> None:
    with pytest.raises(NotFound):
        files.find(name, ASKER)


@given(name=st.text(st.sampled_from("./\\aipxe.cfgkn%\0 "), max_size=30))
def test_any_name_stays_inside(name: str) -> None:
    files = BootFiles(Fleet(), boot_settings_without_files())
    try:
        found = files.find(name, ASKER)
    except (NotFound, NotAllowed):
        return
    if isinstance(found.content, Path):
        assert found.content.is_relative_to("/srv/ipxe") or found.content.is_relative_to("/srv/ramdisk")
        assert ".." not in found.content.parts


def boot_settings_without_files() -> object:
    return Settings(state_dir="/srv", boot=Boot(ipxe_dir="/srv/ipxe"))


@pytest.mark.parametrize(
    "name", ["undionly.kpxe", "/undionly.kpxe", "//ipxe/undionly.kpxe", "\\undionly.kpxe", "./undionly.kpxe", "arm64-efi/snponly.efi"]
)
def test_loaders(files: BootFiles, name: str) -> None:
    found = files.find(name, ASKER)
    assert isinstance(found.content, Path)
    assert found.content.is_relative_to(files.ipxe_dir)


def test_loaders_of_the_distribution(files: BootFiles) -> None:
    assert files.find("bootx64.efi", ASKER).content == Path("/usr/lib/shim/shimx64.efi.signed")
    assert files.find("/pxelinux.0", ASKER).content == Path("/usr/lib/PXELINUX/pxelinux.0")
    with pytest.raises(ConfigError, match="loader_file_paths"):
        BootFiles(Fleet(), Settings(boot=Boot(loader_file_paths=["bootx64.efi=/x"])))


def test_ipxe_scripts_by_address(files: BootFiles, fleet: Fleet) -> None:
    made = fleet.boot(fleet.add(MAC))
    dashed = MAC.replace(":", "-")
    found = files.find(f"pxelinux.cfg/{dashed}", ASKER)
    assert "metald.token" in str(found.content)
    assert found.node_uuid == made.uuid


def test_what_belongs_to_a_boot_needs_its_token(files: BootFiles, fleet: Fleet) -> None:
    made = fleet.boot(fleet.add(MAC))
    found = files.find(f"{place(made)}/kernel", ASKER)
    assert found.content == files.ramdisk_dir / "kernel"
    assert (found.name, found.node_uuid) == (f"boot/{made.uuid}/kernel", made.uuid)
    other = fleet.boot(fleet.add("52:54:00:00:00:02"))
    for wrong in (f"boot/{made.uuid}/{other.driver_internal_info['boot_token']}/kernel", f"boot/{made.uuid}//kernel", "boot/x/y/kernel"):
        with pytest.raises((NotAllowed, NotFound)):
            files.find(wrong, ASKER)
    for absent in ("deploy_kernel", "image", "passwd", "boot_iso"):
        with pytest.raises((NotAllowed, NotFound)):
            files.find(f"{place(made)}/{absent}", ASKER)
    fleet.change(made, driver_internal_info={**made.driver_internal_info, "boot_agent": {"kernel": "http://h/k", "ramdisk": "file:///r"}})
    assert files.find(f"{place(made)}/deploy_kernel", ASKER).content == Remote("http://h/k")


def test_the_ramdisk_is_for_nodes_that_are_to_boot_it(tmp_path: Path, fleet: Fleet) -> None:
    files = BootFiles(fleet, boot_settings(tmp_path))
    asker = Asker(ASKER.base_url, client="192.0.2.77")
    made = fleet.add(MAC)
    with pytest.raises(NotAllowed, match=r"boot\.open_ramdisk"):
        files.find("ramdisk/kernel", asker)
    files.clients.learn("192.0.2.77", made.uuid)
    with pytest.raises(NotAllowed):
        files.find("ramdisk/kernel", asker)
    fleet.boot(made)
    assert files.find("ramdisk/kernel", asker).content == files.ramdisk_dir / "kernel"
    assert BootFiles(fleet, boot_settings(tmp_path, open_ramdisk=True)).find("ramdisk/kernel", ASKER).node_uuid is None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/boot/uuid/secret/kernel", "boot/uuid/kernel"),
        ("boot//uuid/./secret/kernel", "boot/uuid/kernel"),
        ("\\boot\\uuid\\secret\\kernel", "boot/uuid/kernel"),
        ("/boot/uuid/secret", "boot/uuid"),
        ("ipxe.efi", "ipxe.efi"),
        ("\xe4" * 300, ("\\xe4" * 300)[:200]),
    ],
)
def test_names_are_told_without_tokens(name: str, told: str) -> None:
    assert shown(name) == told


def test_base_urls(fleet: Fleet, tmp_path: Path) -> None:
    def url(local: str, **boot: str) -> str:
        return BootFiles(fleet, boot_settings(tmp_path, **boot)).urls.base(local)

    assert url("10.0.0.9", http_listen="0.0.0.0:80") == "http://10.0.0.9:80"
    assert url("fe80::1%eth0", http_listen="[::]:80") == "http://[fe80::1]:80"
    assert url("10.0.0.9", http_listen="10.0.0.1:80") == "http://10.0.0.1:80"
    assert url("10.0.0.9", http_url="http://boot/") == "http://boot"
    both = "10.0.0.1:80,[2001:db8::1]:81,[::]:82"
    assert url("10.0.0.1", http_listen=both) == "http://10.0.0.1:80"
    assert url("2001:db8::1", http_listen=both) == "http://[2001:db8::1]:81"
    assert url("2001:db8::2", http_listen=both) == "http://[2001:db8::2]:82"
    with pytest.raises(NotFound, match=r"boot\.http_listen"):
        url("10.0.0.9", http_listen="")
    with pytest.raises(Invalid):
        url("10.0.0.9", http_url="http://boot/ x")


def test_listen_texts() -> None:
    assert parse_listen("", "s") == []
    assert parse_listen("127.0.0.1:69, [::1]:70,*:71", "s") == [("127.0.0.1", 69), ("::1", 70), ("0.0.0.0", 71), ("::", 71)]
    assert parse_listen("localhost:1", "s") == [("127.0.0.1", 1)]
    for wrong in ("127.0.0.1", "x:", "example.org:69", "1.2.3.4:99999", "1.2.3.4:-1"):
        with pytest.raises(ConfigError, match=r"^s: "):
            parse_listen(wrong, "s")
    assert plain("::ffff:10.0.0.1") == "10.0.0.1"
    assert plain("fe80::1%eth0") == "fe80::1"
    assert plain("nonsense") == "nonsense"
    assert url_host("::1") == "[::1]"


def test_clients_are_remembered_and_bounded(fleet: Fleet) -> None:
    made = fleet.add(MAC)
    clients = Clients(fleet, limit=2)
    for number in range(3):
        clients.learn(f"192.0.2.{number}", made.uuid)
    assert clients.known("192.0.2.0") is None
    assert clients.known("192.0.2.2") == made.uuid
    assert clients.node_of("192.0.2.2") == made.uuid
    clients.forget("192.0.2.2")
    assert clients.node_of("192.0.2.2") is None


def test_the_neighbour_table_is_asked_for_addresses_on_a_wire(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fleet.add(MAC)
    monkeypatch.setattr("metald.boot.clients.neighbour", lambda address: MAC if address == "10.0.0.5" else "52:54:00:00:00:0f")
    clients = Clients(fleet)
    assert clients.node_of("10.0.0.5") == made.uuid
    assert clients.known("10.0.0.5") == made.uuid
    assert clients.node_of("10.0.0.6") is None
    assert clients.mac_of("127.0.0.1") is None
    assert clients.mac_of("nonsense") is None


def test_nobody_gets_what_another_machine_is_to_boot(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, other = fleet.boot(fleet.add(MAC)), fleet.add("52:54:00:00:00:02")
    wires = {"10.0.0.5": MAC, "10.0.0.6": "52:54:00:00:00:02", "10.0.0.7": "52:54:00:00:00:07"}
    monkeypatch.setattr("metald.boot.clients.neighbour", wires.get)
    files = BootFiles(fleet, boot_settings(tmp_path))
    own = place(made)

    def asker(client: str) -> Asker:
        return Asker(ASKER.base_url, (MAC,), client=client)

    for client in ("10.0.0.5", "10.0.0.99"):  # its own card; somebody behind a router, of whom nothing is known
        assert "metald.token" in str(files.script(asker(client)).content)
    for client, cause in (("10.0.0.6", "a port of another node"), ("10.0.0.7", "no port of that node")):
        for found in (files.script(asker(client)), files.find(f"grub.cfg-01-{MAC}", asker(client))):
            assert cause in found.error
            assert "metald.token" not in str(found.content)
            assert found.node_uuid == made.uuid
    # The token proves the boot, so a second card of the machine may fetch; another node's may not.
    files.find(f"{own}/kernel", asker("10.0.0.7"))
    with pytest.raises(NotAllowed, match="another node"):
        files.find(f"{own}/kernel", asker("10.0.0.6"))
    trusting = BootFiles(fleet, boot_settings(tmp_path, check_clients=False))
    assert "metald.token" in str(trusting.script(asker("10.0.0.6")).content)
    assert other.uuid != made.uuid
