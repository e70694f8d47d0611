"""Scripts from node state, credentials, the virtual tree, and that nothing a user wrote becomes a command."""

from __future__ import annotations

from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.boot import credentials, render
from metald.boot.clients import Clients, neighbour
from metald.boot.files import BootFiles
from metald.boot.listen import parse_listen, plain, url_host
from metald.boot.render import Asker
from metald.config import ConfigError
from metald.errors import Invalid, NotAllowed, NotFound
from metald.model import Node
from tests.support.boot_fleet import MAC, Fleet, boot_settings

ASKER = Asker("http://10.0.0.1:6386", (MAC,))


def node(**fields: object) -> Node:
    return Node(driver="ipmi", driver_internal_info=credentials.new_credentials("deploy"), **fields)  # type: ignore[arg-type]


def parameters(script: str) -> str:
    line = next(line for line in script.splitlines() if line.startswith("kernel "))
    return line.partition("initrd=initramfs ")[2].rpartition(" || goto again")[0]


def test_kernel_parameters_come_from_instance_then_driver_then_setting() -> None:
    assert render.kernel_parameters(node(), "a b") == "a b"
    assert render.kernel_parameters(node(driver_info={"kernel_append_params": "c  %default%"}), "a b") == "c a b"
    both = node(driver_info={"kernel_append_params": "c"}, instance_info={"kernel_append_params": "d"})
    assert render.kernel_parameters(both, "a b") == "d"
    assert render.kernel_parameters(node(driver_info={"kernel_append_params": ""}), "a b") == ""


def test_metald_adds_exactly_its_own_parameters() -> None:
    made = node(driver_info={"kernel_append_params": "quiet"})
    token = made.driver_internal_info["boot_token"]
    own = f"metald.url=http://10.0.0.1:6386 metald.node={made.uuid} metald.token={token}"
    assert parameters(render.node_ipxe(made, ASKER, "x")) == f"quiet BOOTIF=01-{MAC.replace(':', '-')} {own}"
    assert parameters(render.node_ipxe(made, Asker(ASKER.base_url), "x")) == f"quiet {own}"


@pytest.mark.parametrize(
    "text",
    ["a\nreboot", "a || shell", "a && shell", "a ; shell", "${net0/mac}", "a #b", "a\tb", "a\rb", "ä", "a\x00b", "a\x85b", "a\u2028b"],
)
def test_parameters_that_would_be_commands_are_refused(text: str) -> None:
    made = node(instance_info={"kernel_append_params": text})
    with pytest.raises(Invalid, match="kernel parameter"):
        render.kernel_parameters(made, "")
    script = render.node_ipxe(made, ASKER, "")
    assert "metald.token" not in script
    assert "cannot stand in a boot script" in script
    assert len(script.splitlines()) == 4
    with pytest.raises(Invalid):
        render.pxelinux(made, ASKER, "")


@given(st.one_of(st.text(max_size=60), st.from_regex(r"[ -~]{0,60}", fullmatch=True)))
def test_no_text_adds_a_command(text: str) -> None:
    made = node(driver_info={"kernel_append_params": text})
    plain_lines = len(render.node_ipxe(node(), ASKER, "quiet").split("\n"))
    script = render.node_ipxe(made, ASKER, "quiet")
    if "metald.token" in script:
        assert len(script.split("\n")) == plain_lines
        words = parameters(script).split()
        assert not {"||", "&&", ";"} & set(words)
        assert not any(word.startswith("#") or "${" in word for word in words)
    else:
        assert script.startswith("#!ipxe\necho metald: ")
        assert script.count("\n") == 4
        assert "${" not in script


def test_a_type_that_is_no_text_is_invalid() -> None:
    with pytest.raises(Invalid, match="must be a text"):
        render.kernel_parameters(node(driver_info={"kernel_append_params": ["a"]}), "")


def test_grub() -> None:
    assert "exit" in render.grub(Node(driver="ipmi"), ASKER, "")
    text = render.grub(node(), ASKER, "quiet a$b")
    assert "linux /ramdisk/kernel 'quiet' 'a$b' 'BOOTIF=01-" in text
    assert "initrd /ramdisk/initramfs" in text
    with pytest.raises(Invalid, match="single quote"):
        render.grub(node(), ASKER, "a'b")


def test_the_configuration_of_grub_is_found_where_grub_looks(tmp_path: Path) -> None:
    fleet = Fleet()
    files = BootFiles(fleet, boot_settings(tmp_path))
    made = fleet.boot(fleet.add(MAC))
    dashed = MAC.replace(":", "-")
    for folder in ("", "grub/", "/boot/grub/", "EFI/debian/"):
        found = files.find(f"{folder}grub.cfg-01-{dashed.upper()}", ASKER)
        assert "metald.token" in str(found.content)
        assert found.node_uuid == made.uuid
    for missing in ("grub.cfg-01-52-54-00-00-00-99", "grub.cfg-01-", "etc/grub.cfg-01-" + dashed, "grub.cfg"):
        with pytest.raises(NotFound):
            files.find(missing, ASKER)


def test_pxelinux() -> None:
    assert "LOCALBOOT" in render.pxelinux(Node(driver="ipmi"), ASKER, "")
    text = render.pxelinux(node(), ASKER, "quiet")
    assert "  KERNEL ramdisk/kernel\n  INITRD ramdisk/initramfs\n  APPEND quiet BOOTIF=01-" in text


@given(st.text(max_size=30))
def test_mac_parser_takes_macs_only(text: str) -> None:
    mac = render.parse_mac(text)
    assert mac is None or (len(mac) == 17 and mac == mac.lower())


@pytest.mark.parametrize("text", ["525400123456", "52-54-00-12-34-56", "52:54:00:12:34:56", "52:54:00:12:34:56".upper()])
def test_mac_forms(text: str) -> None:
    assert render.parse_mac(text) == MAC
    assert render.parse_mac(text + "0") is None
    assert render.parse_mac("52:54-00:12:34:56") is None


def test_credentials_pair_and_clear() -> None:
    made = credentials.new_credentials("clean")
    assert {*made, "boot_agent"} == set(credentials.KEYS)
    for side in ("host", "client"):
        key = asyncssh.import_private_key(made[f"boot_{side}_private_key"])
        assert key.export_public_key().split()[1].decode() == made[f"boot_{side}_public_key"].split()[1]
    assert credentials.clear({"x": 1, **made}) == {"x": 1}
    assert len(made["boot_token"]) >= 43


def test_token_check() -> None:
    made = node()
    token = made.driver_internal_info["boot_token"]
    assert credentials.check_token(made, token)
    assert not credentials.check_token(made, token + "x")
    assert not credentials.check_token(made, "")
    assert not credentials.check_token(made, "ümlaut")
    for other in (None, Node(driver="ipmi"), Node(driver="ipmi", driver_internal_info={"boot_token": ""})):
        assert not credentials.check_token(other, "")
        assert not credentials.check_token(other, "x" * 43)


def test_dropbear_takes_ed25519_only() -> None:
    with pytest.raises(ValueError, match="ed25519"):
        credentials.dropbear_private_key(asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_private_key().decode())


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
    from metald.config import Boot, Settings

    return Settings(state_dir="/srv", boot=Boot(ipxe_dir="/srv/ipxe"))


@pytest.mark.parametrize(
    "name", ["undionly.kpxe", "/undionly.kpxe", "//ipxe/undionly.kpxe", "\\undionly.kpxe", "./undionly.kpxe", "arm64-efi/snponly.efi"]
)
def test_loaders(files: BootFiles, name: str) -> None:
    found = files.find(name, ASKER)
    assert isinstance(found.content, Path)
    assert found.content.is_relative_to(files.ipxe_dir)


def test_configurations_per_machine(files: BootFiles, fleet: Fleet) -> None:
    made = fleet.boot(fleet.add(MAC))
    dashed = MAC.replace(":", "-")
    assert "KERNEL" in str(files.find(f"pxelinux.cfg/01-{dashed}", ASKER).content)
    assert "metald.token" in str(files.find(f"pxelinux.cfg/{dashed}", ASKER).content)
    assert files.find(f"pxelinux.cfg/{dashed}", ASKER).node_uuid == made.uuid
    fleet.change(made, driver_info={"kernel_append_params": "a\nb"})
    with pytest.raises(NotFound, match="kernel parameter"):
        files.find(f"pxelinux.cfg/01-{dashed}", ASKER)


def test_base_urls(fleet: Fleet, tmp_path: Path) -> None:
    def url(local: str, **boot: str) -> str:
        return BootFiles(fleet, boot_settings(tmp_path, **boot)).base_url(local)

    assert url("10.0.0.9", http_listen="0.0.0.0:80") == "http://10.0.0.9:80"
    assert url("fe80::1%eth0", http_listen="[::]:80") == "http://[fe80::1]:80"
    assert url("10.0.0.9", http_listen="10.0.0.1:80") == "http://10.0.0.1:80"
    assert url("10.0.0.9", http_url="http://boot/") == "http://boot"
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


async def test_clients_are_remembered_and_bounded(fleet: Fleet) -> None:
    made = fleet.add(MAC)
    clients = Clients(fleet, limit=2)
    for number in range(3):
        clients.learn(f"10.0.0.{number}", made.uuid)
    assert clients.known("10.0.0.0") is None
    assert clients.known("10.0.0.2") == made.uuid
    assert await clients.node_of("10.0.0.2") == made.uuid
    clients.forget("10.0.0.2")
    assert await clients.node_of("10.0.0.2") is None


async def test_the_neighbour_table_is_asked_for_addresses_on_a_wire(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fleet.add(MAC)
    monkeypatch.setattr("metald.boot.clients.neighbour", lambda address: MAC if address == "10.0.0.5" else "52:54:00:00:00:0f")
    clients = Clients(fleet)
    assert await clients.node_of("10.0.0.5") == made.uuid
    assert clients.known("10.0.0.5") == made.uuid
    assert await clients.node_of("10.0.0.6") is None
    assert not clients.on_a_wire("127.0.0.1")
    assert not clients.on_a_wire("fe80::1")


def test_neighbour_table(tmp_path: Path) -> None:
    table = tmp_path / "arp"
    table.write_text(
        "IP address       HW type     Flags       HW address            Mask     Device\n"
        "10.0.0.5         0x1         0x2         52:54:00:AA:00:05     *        br0\n"
        "10.0.0.6         0x1         0x0         00:00:00:00:00:00     *        br0\n"
    )
    assert neighbour("10.0.0.5", table) == "52:54:00:aa:00:05"
    assert neighbour("10.0.0.6", table) is None
    assert neighbour("10.0.0.7", tmp_path / "none") is None
