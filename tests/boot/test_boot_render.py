"""Scripts from node state, credentials, and that nothing a user wrote becomes a command."""

from __future__ import annotations

from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.boot import credentials, grub, ipxe, pxelinux, render
from metald.boot.files import Absent, BootFiles
from metald.boot.load import Load, load_of
from metald.boot.render import Asker
from metald.errors import Invalid, NotFound
from metald.model import Node
from tests.support.boot_fleet import MAC, Fleet, boot_settings

ASKER = Asker("http://10.0.0.1:6386", (MAC,))


def node(**fields: object) -> Node:
    return Node(driver="ipmi", driver_internal_info=credentials.new_credentials("deploy"), **fields)  # type: ignore[arg-type]


def load(made: Node, asker: Asker = ASKER, default: str = "") -> Load:
    wanted = load_of(made, asker, default)
    assert wanted is not None
    return wanted


def script(made: Node, asker: Asker = ASKER, default: str = "") -> str:
    """The iPXE script of a node, or the one that says why there is none."""
    try:
        return ipxe.load(made, load(made, asker, default), asker)
    except Invalid as error:
        return ipxe.refused(str(error))


def place(made: Node) -> str:
    return f"boot/{made.uuid}/{made.driver_internal_info['boot_token']}"


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
    assert parameters(script(made, ASKER, "x")) == f"quiet BOOTIF=01-{MAC.replace(':', '-')} {own}"
    assert parameters(script(made, Asker(ASKER.base_url), "x")) == f"quiet {own}"


@pytest.mark.parametrize(
    "text",
    ["a\nreboot", "a || shell", "a && shell", "a ; shell", "${net0/mac}", "a #b", "a\tb", "a\rb", "ä", "a\x00b", "a\x85b", "a\u2028b"],
)
def test_parameters_that_would_be_commands_are_refused(text: str) -> None:
    made = node(instance_info={"kernel_append_params": text})
    with pytest.raises(Invalid, match="kernel parameter"):
        render.kernel_parameters(made, "")
    text_ = script(made)
    assert "metald.token" not in text_
    assert "cannot stand in a boot script" in text_
    assert len(text_.splitlines()) == 4


@given(st.one_of(st.text(max_size=60), st.from_regex(r"[ -~]{0,60}", fullmatch=True)))
def test_no_text_adds_a_command(text: str) -> None:
    made = node(driver_info={"kernel_append_params": text})
    plain_lines = len(script(node(), ASKER, "quiet").split("\n"))
    written = script(made, ASKER, "quiet")
    if "metald.token" in written:
        assert len(written.split("\n")) == plain_lines
        words = parameters(written).split()
        assert not {"||", "&&", ";"} & set(words)
        assert not any(word.startswith("#") or "${" in word for word in words)
    else:
        assert written.startswith("#!ipxe\necho metald: ")
        assert written.count("\n") == 4
        assert "${" not in written


def test_a_type_that_is_no_text_is_invalid() -> None:
    with pytest.raises(Invalid, match="must be a text"):
        render.kernel_parameters(node(driver_info={"kernel_append_params": ["a"]}), "")


def test_grub() -> None:
    assert "exit" in grub.disk(Node(driver="ipmi"))
    made = node()
    text = grub.load(made, load(made, default="quiet a$b"))
    assert f"linux /{place(made)}/kernel 'quiet' 'a$b' 'BOOTIF=01-" in text
    assert f"initrd /{place(made)}/initramfs;" in text
    with pytest.raises(Invalid, match="single quote"):
        grub.load(made, load(made, default="a'b"))
    assert "'metald: a?b?? c?'" in grub.refused("a$b'\n c`")


def test_pxelinux() -> None:
    assert "LOCALBOOT" in pxelinux.disk()
    made = node()
    text = pxelinux.load(made, load(made, default="quiet"))
    assert f"  KERNEL {place(made)}/kernel\n  INITRD {place(made)}/initramfs\n  APPEND quiet BOOTIF=01-" in text
    with pytest.raises(Invalid, match="2047"):
        pxelinux.load(made, load(made, default="x" * 2000))
    assert pxelinux.refused("a\nKERNEL b").startswith("SAY metald: a?KERNEL b\nDEFAULT disk\n")


def test_an_iso_image_is_for_ipxe_and_for_firmware() -> None:
    made, wanted = node(), Load("instance", "boot/x/y", iso="boot_iso", iso_url="http://h/x.iso")
    assert "sanboot --no-describe http://h/x.iso ||" in ipxe.load(made, wanted, ASKER)
    for other in (grub.load, pxelinux.load):
        with pytest.raises(Invalid, match="no ISO image"):
            other(made, wanted)


@pytest.mark.parametrize("loader", ["grub", "pxelinux"])
def test_the_configuration_of_each_loader_is_found_where_it_looks(tmp_path: Path, loader: str) -> None:
    fleet = Fleet()
    files = BootFiles(fleet, boot_settings(tmp_path))
    made = fleet.boot(fleet.add(MAC))
    dashed = MAC.replace(":", "-")
    names = ["pxelinux.cfg/01-"] if loader == "pxelinux" else [f"{at}grub.cfg-01-" for at in ("", "grub/", "/boot/grub/", "EFI/debian/")]
    for name in names:
        for mac in (dashed, dashed.upper(), *([MAC] if loader == "grub" else [])):
            found = files.find(f"{name}{mac}", ASKER)
            assert "metald.token" in str(found.content)
            assert (found.node_uuid, found.unknown, found.error) == (made.uuid, (), "")
        stranger = files.find(f"{name}52-54-00-00-00-99", ASKER)
        assert stranger.unknown == ("52:54:00:00:00:99",)
        assert stranger.node_uuid is None
        assert "does not know this machine" in str(stranger.content)
        with pytest.raises(NotFound):
            files.find(name, ASKER)
    fleet.change(made, driver_info={"kernel_append_params": "a\nb"})
    refused = files.find(f"{names[0]}{dashed}", ASKER)
    assert "cannot stand in a boot script" in refused.error
    assert "cannot stand in a boot script" in str(refused.content)
    assert "metald.token" not in str(refused.content)
    fleet.change(made, driver_internal_info={}, driver_info={})
    assert ("LOCALBOOT" if loader == "pxelinux" else "boots from its disk") in str(files.find(f"{names[0]}{dashed}", ASKER).content)


def test_grub_is_led_to_the_configuration_of_its_card(tmp_path: Path) -> None:
    files = BootFiles(Fleet(), boot_settings(tmp_path))
    for folder in ("", "grub/", "boot/grub/", "EFI/BOOT/"):
        assert "source ($root)/grub/grub.cfg-01-$net_default_mac" in str(files.find(f"{folder}grub.cfg", ASKER).content)
    with pytest.raises(NotFound):
        files.find("etc/grub.cfg", ASKER)


@pytest.mark.parametrize(
    "name",
    [
        "revocations_sku.efi",
        "revocations.efi",
        "shim_certificate_0.efi",
        "grub/x86_64-efi/command.lst",
        "grub/x86_64-efi/grub.cfg",
        "pxelinux.cfg/2d0f2a40-0000-4000-8000-000000000001",
    ],
)
def test_what_loaders_can_do_without_is_no_failure(tmp_path: Path, name: str) -> None:
    with pytest.raises(Absent):
        BootFiles(Fleet(), boot_settings(tmp_path)).find(name, ASKER)


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
