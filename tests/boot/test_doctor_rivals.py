"""Two DHCP servers that answer one machine: told of whether or not the boot goes on, and as the cause where they are one."""

from __future__ import annotations

import pytest

from metald.boot.doctor import diagnose
from metald.boot.doctor.diagnosis import Known
from metald.boot.doctor.rivals import rivals
from tests.support.boot_story import CALLED, KERNEL, LOADED, SCRIPT, Sign, ack, boot, dhcp, tftp

OTHER = "10.0.0.9"
CHOSE = "the machine took the offer of another DHCP server, 10.0.0.9"


def other(file: str = "", **facts: str) -> Sign:
    return dhcp(server=OTHER, overheard=True, file=file, **facts)


OURS_AND_THEIRS = [dhcp(file="ipxe.efi"), other("pxelinux.0", client="10.0.0.5")]


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        pytest.param(OURS_AND_THEIRS, "Two DHCP servers", id="two boot files"),
        pytest.param(OURS_AND_THEIRS, "metald names ipxe.efi, 10.0.0.9 names pxelinux.0.", id="whose file is whose"),
        pytest.param([*OURS_AND_THEIRS, dhcp(server="10.0.0.8", file="x.efi")], "Three DHCP servers", id="three boot files"),
        pytest.param([other("a.efi"), dhcp(server="10.0.0.8", file="b.efi")], "10.0.0.8 names b.efi", id="neither is ours"),
        pytest.param(
            [dhcp(client="10.0.0.5"), other(client="10.0.1.5")], "hand out addresses on this network: metald and", id="two leases"
        ),
        pytest.param([dhcp(asked="request", answer=None, error=CHOSE)], f"{CHOSE}.", id="chose the other"),
        pytest.param(
            [dhcp(file="ipxe.efi"), tftp("other.efi", 0, error="There is no such boot file. (error 1)")], "asked for other.efi", id="astray"
        ),
        pytest.param(
            [dhcp(file="http://h/boot.ipxe", firmware="ipxe"), tftp("pxelinux.0")], "load boot.ipxe, and it asked", id="astray, whole"
        ),
    ],
)
def test_rivals(signs: list[Sign], words: str) -> None:
    said = rivals(boot(*signs))
    assert words in said
    assert said.endswith(".")


@pytest.mark.parametrize(
    "signs",
    [
        pytest.param([], id="nothing"),
        pytest.param([dhcp(file="ipxe.efi"), other(client="10.0.0.5")], id="a proxy beside a server of addresses"),
        pytest.param([dhcp(file="ipxe.efi"), dhcp(asked="request", answer=None, server=OTHER)], id="its address is the other's"),
        pytest.param([dhcp(file="ipxe.efi"), other("ipxe.efi", client="10.0.0.5")], id="both name one file"),
        pytest.param(
            [other("ipxe.efi"), dhcp(firmware="ipxe", file="boot.ipxe"), other("boot.ipxe", firmware="ipxe")], id="files of two stages"
        ),
        pytest.param([other(client="10.0.0.5"), dhcp(server="10.0.0.8", client="10.0.0.6")], id="others that are one service"),
        pytest.param([dhcp(file="ipxe.efi"), other("os.efi", firmware="system")], id="an operating system asks"),
        pytest.param([dhcp(file="http://h/uefi/52-54/boot.img", firmware="http"), ("http", {"file": "uefi/52-54/boot.img"})], id="a URL"),
        pytest.param([dhcp(file="bootx64.efi"), tftp("bootx64.efi"), tftp("grubx64.efi")], id="loaders that load loaders"),
        pytest.param([tftp("other.efi")], id="nobody here answers DHCP"),
        pytest.param([dhcp(file="ipxe.efi"), tftp("boot.ipxe")], id="a stick with iPXE"),
    ],
)
def test_no_rivals(signs: list[Sign]) -> None:
    assert rivals(boot(*signs)) == ""


@pytest.mark.parametrize("signs", [OURS_AND_THEIRS, [*OURS_AND_THEIRS, *SCRIPT], [*OURS_AND_THEIRS, *KERNEL, CALLED]])
def test_a_boot_that_goes_on_has_a_warning(signs: list[Sign]) -> None:
    found = diagnose(boot(*signs), Known(), stopped=False)
    assert found.cause == ""
    (warning,) = found.warnings
    assert (warning.cause, OTHER in warning.likely, "dhcp.provider" in warning.remedy) == ("two-dhcp-servers", True, True)


@pytest.mark.parametrize(
    ("signs", "cause", "warned"),
    [
        pytest.param(OURS_AND_THEIRS, "two-dhcp-servers", False, id="before a file"),
        pytest.param([*OURS_AND_THEIRS, *LOADED], "two-dhcp-servers", False, id="in a loader"),
        pytest.param([dhcp(asked="request", answer=None, error=CHOSE)], "two-dhcp-servers", False, id="chose the other"),
        pytest.param([*OURS_AND_THEIRS, *SCRIPT], "script", True, id="after the loader it is beside the point"),
        pytest.param(
            [*OURS_AND_THEIRS, tftp("ipxe.efi"), dhcp(architecture="BIOS")], "wrong-architecture", True, id="what is certain comes first"
        ),
    ],
)
def test_a_boot_that_stopped(signs: list[Sign], cause: str, warned: bool) -> None:
    found = diagnose(boot(*signs), Known(), stopped=True)
    assert (found.cause, [each.cause for each in found.warnings]) == (cause, ["two-dhcp-servers"] if warned else [])


def test_a_file_that_another_named_and_nobody_asked_for_here() -> None:
    """A proxy sees that the machine takes the other's address, and then nothing: it loads elsewhere, perhaps."""
    signs = [dhcp(file="ipxe.efi"), dhcp(asked="request", answer=None, server=OTHER)]
    found = diagnose(boot(*signs), Known(), stopped=True)
    assert found.cause == "server-unreachable"
    assert "or another DHCP server told it a file that is elsewhere" in found.likely
    assert "elsewhere" not in diagnose(boot(dhcp(), ack("ipxe.efi")), Known(), stopped=True).likely
