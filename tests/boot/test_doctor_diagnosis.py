"""What the doctor says of boots that stopped: one story for each cause, as the boot servers tell it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.boot.doctor import diagnose, gather
from metald.boot.doctor.diagnosis import STAGES, Known, stage_of
from tests.support.boot_fleet import MAC
from tests.support.boot_story import CALLED, KERNEL, LOADED, NODE, ON, SCRIPT, START, Sign, ack, boot, dhcp, http, story, tftp

P = pytest.param
SILENT = "the client fell silent at block 1 of 700"


@pytest.mark.parametrize(
    ("signs", "known", "stage", "cause", "words"),
    [
        P([], {}, "power", "nothing-seen", "does not boot from the network", id="nothing"),
        P([], {"listening": False}, "power", "nothing-seen", "Nobody here sees DHCP questions", id="nobody listens"),
        P([], {"stranger": "52:54:00:00:00:99"}, "power", "unknown-mac", "52:54:00:00:00:99", id="a stranger meanwhile"),
        P([dhcp(answer=None)], {}, "dhcp", "no-dhcp-answer", "No DHCP server answered", id="no answer"),
        P([dhcp(machine_id=False)], {}, "dhcp", "no-option-97", "option 97", id="no UUID"),
        P([dhcp(machine_id=True)], {}, "dhcp", "no-address", "took no offer", id="offers alone"),
        P([dhcp(), dhcp(asked="request", answer="ack")], {}, "dhcp", "no-boot-file", "no DHCP server told it", id="no boot file"),
        P([dhcp(), ack("ipxe.efi")], {}, "dhcp", "server-unreachable", "ipxe.efi and never asked", id="server out of reach"),
        P(
            [("dhcp", {"mac": MAC, "client": "10.0.0.5"})], {}, "dhcp", "server-unreachable", "was given an address", id="a lease alone",
        ),
        P(
            [dhcp(error="there is no boot loader for the architecture UEFI IA32", answer=None)],
            {}, "dhcp", "wrong-architecture", "UEFI IA32", id="no loader",
        ),
        P(
            [dhcp(error="the firmware asked by PXE, and boot interface http boots by UEFI HTTP boot: turn PXE off", answer=None)],
            {}, "dhcp", "boot-interface", "do not fit", id="wrong interface",
        ),
        P(
            [dhcp(architecture="BIOS"), ack("ipxe.efi", architecture="BIOS"), tftp("ipxe.efi")],
            {}, "loader", "wrong-architecture", "the machine is BIOS, and the boot file ipxe.efi is for UEFI x86-64", id="wrong loader",
        ),
        P(
            [dhcp(machine="00000001-0000-4000-8000-000000000000"), dhcp(machine="00000002-0000-4000-8000-000000000000")],
            {}, "dhcp", "two-machines", "Two machines use the MAC address 52:54:00:12:34:56", id="two machines",
        ),
        P(
            [*KERNEL, http("boot/x/host_key", 0, error="Another client has fetched the host key of this boot.", client="10.0.0.6")],
            {}, "ramdisk", "two-machines", "10.0.0.6 came for what another", id="two machines by the key",
        ),
        P(
            [http("boot/ipxe", error="the machine at 10.0.0.6 says that it is node n, but its MAC address x is no port of that node")],
            {}, "loader", "not-this-machine", "says that it is node n", id="not this machine",
        ),
        P(
            [ack("ipxe.efi"), tftp("ipxe.efi", 0, error=SILENT, retransmits=6)], {}, "loader", "mtu", "1500 bytes do not arrive", id="MTU",
        ),
        P(
            [ack("ipxe.efi"), tftp("ipxe.efi", 0, error=SILENT, retransmits=6, blksize=512)],
            {}, "loader", "silent", "fell silent", id="small blocks are no MTU",
        ),
        P(
            [tftp("ipxe.efi", 146_800, error="the client fell silent at block 101 of 700", retransmits=36)],
            {}, "loader", "loss", "30 of about 100", id="loss",
        ),
        P(
            [tftp("ipxe.efi", 146_800, error="the client fell silent at block 101 of 700", retransmits=7)],
            {}, "loader", "silent", "fell silent in the middle of ipxe.efi, after 146800 bytes", id="silent",
        ),
        P(
            [tftp("ipxe.efi", 5000, error="the client ended it: out of memory (error 3)")],
            {}, "loader", "gave-up", "gave up in ipxe.efi after 5000 bytes", id="gave up",
        ),
        P([tftp("big.efi", 0, probe="size")], {}, "loader", "gave-up", "asked how large big.efi is", id="asked the size alone"),
        P(
            [tftp("bootx64.efi.old", 0, error="There is no such boot file. (error 1)")],
            {}, "loader", "no-such-file", "bootx64.efi.old, which there is not", id="no such file",
        ),
        P(
            [http("uefi/x/boot.img", 5000, error="the client stalled")], {}, "kernel", "stalled", "stopped reading", id="stalled",
        ),
        P(LOADED, {"secure_boot": True}, "loader", "secure-boot", "Secure boot refuses it: iPXE is not signed", id="secure boot"),
        P(LOADED, {}, "loader", "secure-boot", "Secure boot probably refuses it", id="secure boot, perhaps"),
        P(LOADED, {"secure_boot": False}, "loader", "loader", "no driver for the network card", id="no secure boot"),
        P(
            [ack("bootx64.efi"), tftp("bootx64.efi"), tftp("revocations_sku.efi", 0, probe="absent")],
            {"secure_boot": True}, "loader", "secure-boot", "may not know who signed it", id="shim under secure boot",
        ),
        P(
            [ack("undionly.kpxe", architecture="BIOS"), tftp("undionly.kpxe")], {}, "loader", "loader", "asked for nothing", id="BIOS",
        ),
        P(SCRIPT, {}, "script", "script", "does not load it", id="script"),
        P([*SCRIPT, http(f"boot/{NODE}/kernel")], {}, "kernel", "kernel", "did not load kernel and initramfs", id="kernel"),
        P(KERNEL, {}, "ramdisk", "ramdisk", "the ramdisk has not called", id="ramdisk"),
        P([*KERNEL, http(f"boot/{NODE}/authorized_keys")], {}, "ramdisk", "ramdisk", "has fetched its keys", id="ramdisk with keys"),
    ],
)  # fmt: skip
def test_causes(signs: list[Sign], known: dict[str, Any], stage: str, cause: str, words: str) -> None:
    found = diagnose(boot(*signs), Known(**known), stopped=True)
    assert (found.stage, found.cause) == (stage, cause), found
    assert words in found.likely
    assert found.likely.endswith(".")


@pytest.mark.parametrize("signs", [[], [dhcp()], LOADED, SCRIPT, KERNEL])
def test_nothing_is_wrong_while_it_goes_on(signs: list[Sign]) -> None:
    assert diagnose(boot(*signs), Known(secure_boot=True), stopped=False).cause == ""


def test_a_boot_that_is_done() -> None:
    done = boot(*KERNEL, CALLED)
    assert done.called == START + timedelta(seconds=len(KERNEL) + 1)
    found = diagnose(done, Known(), stopped=True)
    assert (found.stage, found.cause, found.at) == ("done", "", "when its ramdisk called")


@pytest.mark.parametrize(
    ("signs", "stage"),
    [
        ([tftp("pxelinux.0"), tftp("pxelinux.cfg/01-x"), tftp(f"boot/{NODE}/kernel"), tftp(f"boot/{NODE}/initramfs")], "ramdisk"),
        ([tftp("bootx64.efi"), tftp("grubx64.efi"), tftp("grub/grub.cfg-01-x")], "script"),
        ([http("uefi/x/boot.img", 0, method="HEAD")], "kernel"),
        ([http("uefi/x/boot.img")], "ramdisk"),
        ([http(f"boot/{NODE}/deploy_kernel"), http(f"boot/{NODE}/deploy_ramdisk")], "ramdisk"),
        ([http(f"boot/{NODE}/ready", 0, method="POST")], "dhcp"),
        ([("http", {"file": "boot/ipxe", "mac": [MAC], "client": "10.0.0.5"})], "script"),
    ],
)
def test_stages(signs: list[Sign], stage: str) -> None:
    assert stage_of(boot(*signs)) == stage or (stage == "dhcp" and stage_of(boot(*signs)) in ("dhcp", "power"))


def test_one_machine_may_tell_its_uuid_in_two_orders() -> None:
    same = [dhcp(machine="01020304-0506-4708-9000-000000000000"), dhcp(machine="04030201-0605-0847-9000-000000000000")]
    nobody = [dhcp(machine="00000000-0000-0000-0000-000000000000"), dhcp(machine="01020304-0506-4708-9000-000000000000")]
    for signs in (same, nobody):
        assert diagnose(boot(*signs), Known(), stopped=False).cause == ""


def test_what_was_seen_is_told_in_words() -> None:
    assert diagnose(boot(), Known(), stopped=True).at == "when its power came on"
    asked = boot(dhcp(file="ipxe.efi"), dhcp(file="ipxe.efi"))
    assert diagnose(asked, Known(), stopped=True).at == "asking for an address by PXE firmware, and was told ipxe.efi (2 times)"
    assert diagnose(boot(*LOADED), Known(), stopped=True).at == "loading ipxe.efi by TFTP from 10.0.0.5, 1000000 bytes"
    failed = boot(tftp("x.efi", 7, error="no"))
    assert diagnose(failed, Known(), stopped=True).at == "asking for x.efi by TFTP from 10.0.0.5, which failed after 7 bytes: no"


def test_boots_are_told_apart() -> None:
    first, second = [ON, *KERNEL, CALLED], [ON, *LOADED]
    found = gather(story(*first, ("heartbeat", {}), dhcp(firmware="system"), *second))
    assert [stage_of(each) for each in found] == ["done", "loader"]
    assert found[1].powered is not None
    assert found[1].macs == [MAC]
    assert found[1].addresses == ["10.0.0.5"]
    # A machine that nobody here started begins with its first question, or its first file.
    assert [stage_of(each) for each in gather(story(("heartbeat", {}), dhcp(firmware="system"), *LOADED))] == ["loader"]
    # Two starts without a sign between them are one story.
    assert len(gather(story(ON, ON, ON))) == 1
    assert gather([]) == []


def test_it_is_bounded() -> None:
    signs = [dhcp(file=f"f{number}") for number in range(200)] + [tftp(f"f{number}") for number in range(200)]
    found = boot(*signs)
    assert len(found.questions) < 50
    assert len(found.files) < 100
    assert found.dropped > 100
    assert (found.files[0].file, found.files[-1].file) == ("f0", "f199")


TEXT = st.text(max_size=8)
ANY = st.one_of(st.none(), st.integers(-5, 10**7), TEXT, st.lists(TEXT, max_size=3), st.booleans())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["dhcp", "tftp", "http", "ramdisk", "step"]),
            st.fixed_dictionaries(
                {},
                optional={
                    "file": st.sampled_from(["ipxe.efi", "boot/ipxe", "boot/x/kernel", "grub.cfg"]),
                    "error": TEXT,
                    "mac": TEXT,
                    "machine": TEXT,
                    "answer": TEXT,
                    "server": TEXT,
                    "firmware": TEXT,
                    "architecture": TEXT,
                    "bytes": st.integers(0, 10**9),
                    "retransmits": st.integers(0, 99),
                    "method": st.sampled_from(["HEAD", "POST"]),
                },
            ),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_any_story_has_a_diagnosis(signs: list[Sign], stopped: bool) -> None:
    for attempt in gather(story(*signs)):
        found = diagnose(attempt, Known(), stopped=stopped)
        assert found.stage in STAGES
        assert bool(found.cause) == bool(found.likely)
