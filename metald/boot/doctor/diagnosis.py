"""Where a boot stands, and what most likely keeps it from going on. Pure: an attempt and what is known of the node go in.

Each cause is a rule of its own, in the order in which they are looked at: what explains more comes first. The codes are for
programs and stay; the sentences are for people. What is wrong around a boot and may not keep it from going on is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from metald.boot import loaders
from metald.boot.doctor.attempt import Attempt, Loaded
from metald.boot.doctor.rivals import LOADER, OTHER, rivals
from metald.boot.tftp.transfer import TRIES

STAGES = ("power", "dhcp", "loader", "script", "kernel", "ramdisk", "done", "disk")
"""Nothing seen yet; asks for an address; loads its boot loader; has it and asks what to boot; loads kernel and initramfs; has them;
its ramdisk has called; was led to its disk."""

_CONFIGURATION = re.compile(r"boot\.ipxe|boot/ipxe|pxelinux\.cfg/|grub\.cfg")
_KERNEL = re.compile(r"(?:^|/)(?:kernel|deploy_kernel|instance_kernel|boot_iso)$|uefi/.*boot\.(?:img|iso)$")
_INITRAMFS = re.compile(r"(?:^|/)(?:initramfs|deploy_ramdisk|instance_ramdisk|boot_iso)$|uefi/.*boot\.(?:img|iso)$")
_ETHERNET = 1432
"""Blocks up to here fit any Ethernet, tunnels included."""
_LOSS = 0.02
_UNSIGNED = frozenset(loaders.IPXE.values())
_FAMILIES = {
    ".kpxe": "BIOS", ".kkpxe": "BIOS", ".pxe": "BIOS", ".lkrn": "BIOS", "pxelinux.0": "BIOS",
    "arm64-efi/ipxe.efi": "UEFI ARM64", "bootaa64.efi": "UEFI ARM64", "grubaa64.efi": "UEFI ARM64",
    "ipxe.efi": "UEFI x86-64", "snponly.efi": "UEFI x86-64", "bootx64.efi": "UEFI x86-64", "grubx64.efi": "UEFI x86-64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the machine beside what was seen."""

    secure_boot: bool | None = None
    """Whether its firmware runs what is signed only; None when nobody said."""
    listening: bool = True
    """Whether anybody would have seen its DHCP questions."""
    stranger: str = ""
    """MAC address of an unknown machine that asked meanwhile."""


class Finding(NamedTuple):
    """Something that is wrong."""

    cause: str
    """A code."""
    likely: str
    """The likely cause, a sentence."""
    remedy: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Where it stands, and why it does not go on."""

    stage: str
    at: str
    """The last thing that was seen, as the end of "The machine was last seen ..."."""
    cause: str = ""
    """A code; empty while nothing is wrong."""
    likely: str = ""
    """The likely cause, a sentence."""
    remedy: str = ""
    warnings: tuple[Finding, ...] = ()
    """What else is wrong, whether or not the boot goes on."""


_Rule = Callable[[Attempt, Known, str], "tuple[str, str, str] | None"]


def diagnose(attempt: Attempt, known: Known, *, stopped: bool) -> Diagnosis:
    """Look at an attempt.

    Args:
        stopped: whether so much time has gone by that it will not go on. Without, only what is wrong for certain is told.
    """
    stage = stage_of(attempt)
    at = _last(attempt)
    rules = _CERTAIN + (_LIKELY if stopped and stage not in ("done", "disk") else ())
    found = next(filter(None, (rule(attempt, known, stage) for rule in rules)), ("", "", ""))
    warnings = (Finding(*each) for each in (rule(attempt, known, stage) for rule in _WARNINGS) if each is not None)
    return Diagnosis(stage, at, *found, tuple(each for each in warnings if each.cause != found[0]))


def stage_of(attempt: Attempt) -> str:
    """How far it has come."""
    whole = [each for each in attempt.files if each.whole]
    if attempt.called is not None:
        return "done"
    if _any(whole, _KERNEL) and _any(whole, _INITRAMFS):
        return "ramdisk"
    if _any(attempt.files, _KERNEL):
        return "kernel"
    if _any(whole, _CONFIGURATION):
        return "script"
    if attempt.files:
        return "loader"
    return "dhcp" if attempt.questions or (attempt.macs and attempt.last) else "power"


def _any(files: list[Loaded], pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(each.file) for each in files)


def _last(attempt: Attempt) -> str:
    """The last thing that was seen."""
    if attempt.called is not None:
        return "when its ramdisk called"
    files = [each for each in attempt.files if each.probe != "absent"]
    question = max(attempt.questions, key=lambda each: each.time, default=None)
    if files and (question is None or files[-1].time >= question.time):
        last = files[-1]
        by, where = last.by.upper(), f" from {last.client}" if last.client else ""
        if last.error:
            return f"asking for {last.file} by {by}{where}, which failed after {last.bytes} bytes: {last.error}"
        return f"loading {last.file} by {by}{where}, {last.bytes} bytes"
    if question is not None:
        told = f", and was told {question.file}" if question.file else ", and was told no boot file" if question.answer else ""
        who = {"pxe": "by PXE firmware", "http": "by UEFI HTTP boot", "ipxe": "by iPXE"}.get(question.firmware, "")
        return f"asking for an address {who}".rstrip() + told + (f" ({question.count} times)" if question.count > 1 else "")
    return "when its power came on" if attempt.powered else "never"


# -- what is wrong for certain


def _two_machines(attempt: Attempt, _known: Known, _stage: str) -> tuple[str, str, str] | None:
    uuids = _different(attempt.machines)
    other = next((each for each in attempt.files if "Another client has fetched the host key" in each.error), None)
    mac = attempt.macs[0] if attempt.macs else "of the node"
    if len(uuids) > 1:
        said = f"Two machines use the MAC address {mac}: they told the UUIDs {uuids[0]} and {uuids[1]}."
    elif other is not None:
        said = f"Two machines use the MAC address {mac}: {other.client} came for what another address had fetched."
    else:
        return None
    return "two-machines", said, "Find the second machine, a clone or a virtual machine perhaps, and give it an address of its own."


def _different(uuids: list[str]) -> list[str]:
    """UUIDs that are not the same one; firmware and iPXE may tell its first three fields in different orders."""
    found: dict[str, str] = {}
    for text in uuids:
        digits = text.replace("-", "")
        if digits.strip("0"):
            found.setdefault("".join(sorted(digits[at : at + 2] for at in range(0, len(digits), 2))), text)
    return list(found.values())


def _refused(attempt: Attempt, _known: Known, _stage: str) -> tuple[str, str, str] | None:
    for each in reversed(attempt.questions):
        if "no boot loader" in each.error:
            said = f"The architecture is wrong: {each.error}."
            return "wrong-architecture", said, "Check that the machine is what it should be; see boot.loader_file_paths."
        if "boot interface" in each.error:
            return "boot-interface", f"The firmware and the node's boot interface do not fit: {each.error}.", ""
        if each.error and OTHER not in each.error and each.error != "the machine is no port that boots from the network":
            return "dhcp", f"DHCP could not serve it: {each.error}.", ""
    return None


def _wrong_loader(attempt: Attempt, _known: Known, _stage: str) -> tuple[str, str, str] | None:
    architecture = attempt.architecture.removesuffix(" HTTP")
    loader = next((each for each in reversed(attempt.files) if LOADER.search(each.file) and each.probe != "absent"), None)
    if not architecture or loader is None:
        return None
    meant = next((family for ending, family in _FAMILIES.items() if loader.file.endswith(ending)), "")
    if not meant or meant == architecture:
        return None
    said = f"The architecture is wrong: the machine is {architecture}, and the boot file {loader.file} is for {meant}."
    return "wrong-architecture", said, "Have the DHCP server tell boot files by the client's architecture (option 93)."


def _other_machine(attempt: Attempt, _known: Known, _stage: str) -> tuple[str, str, str] | None:
    found = next((each for each in attempt.files if "says that it is node" in each.error), None)
    if found is None:
        return None
    return "not-this-machine", f"It was refused: {found.error}.", "Create a port for that card, or see boot.check_clients."


# -- what is wrong around it, and likely the cause once it has stopped


def _two_servers(attempt: Attempt, _known: Known, _stage: str) -> tuple[str, str, str] | None:
    said = rivals(attempt)
    return ("two-dhcp-servers", said, "Turn the boot file off in one of them, or metald's dhcp.provider.") if said else None


def _led_away(attempt: Attempt, known: Known, stage: str) -> tuple[str, str, str] | None:
    return _two_servers(attempt, known, stage) if stage in ("dhcp", "loader") else None


# -- what is likely, once it has stopped


def _never_seen(_attempt: Attempt, known: Known, stage: str) -> tuple[str, str, str] | None:
    if stage != "power":
        return None
    if known.stranger:
        said = f"An unknown machine asked meanwhile with the MAC address {known.stranger}: the node's ports may have another."
        return "unknown-mac", said, "Compare it with the node's ports."
    said = "Its firmware does not boot from the network, or its DHCP questions do not get here."
    if not known.listening:
        said = "Nobody here sees DHCP questions, so it stopped before its first file: no address, no boot file, or a server out of reach."
    return "nothing-seen", said, "Look at its boot order, at PXE of the card, at the cable and the VLAN; dhcp.watch shows questions."


def _no_offer_taken(attempt: Attempt, _known: Known, stage: str) -> tuple[str, str, str] | None:
    if stage != "dhcp":
        return None
    firmware = attempt.firmware
    if not any(each.firmware for each in attempt.questions) and attempt.questions:  # a lease file tells of the address alone
        said = "It was given an address and asked for no file: it was told none, or the boot server cannot be reached from its network."
        return "server-unreachable", said, "Check the DHCP server's boot file, routes and firewalls; dhcp.watch shows what it is told."
    answered = [each for each in attempt.questions if each.answer in ("offer", "ack") or each.server]
    if firmware and not answered:
        said = "No DHCP server answered it, as far as was seen."
        return "no-dhcp-answer", said, "Check the DHCP server, its ranges, and relays between."
    only_offers = answered and not any(each.asked == "request" or each.answer == "ack" for each in attempt.questions)
    if only_offers and any(each.machine is False for each in firmware):
        said = "Its firmware does not tell its UUID (option 97), which PXE wants; such firmware often takes no offer either."
        return "no-option-97", said, "Update the firmware; some send it once the system's UUID is set."
    if only_offers:
        said = "It took no offer: nobody offered it an address, or the offers do not reach it."
        return "no-address", said, "Check that a DHCP server has addresses for it, and that broadcasts reach it."
    told = next((each for each in reversed(answered) if each.file), None)
    if told is None:
        return "no-boot-file", "It has an address, and no DHCP server told it a boot file.", "Set the boot file in the DHCP server."
    said = f"It was told the boot file {told.file} and never asked for it: the boot server cannot be reached from its network"
    if any(each.server for each in attempt.questions) and not told.server:
        said += f", or {OTHER} told it a file that is elsewhere"
    remedy = "Check routes and firewalls: UDP port 69 and the ports of transfers (boot.tftp_single_port), TCP."
    return "server-unreachable", f"{said}.", remedy


def _mtu(attempt: Attempt, _known: Known, _stage: str) -> tuple[str, str, str] | None:
    stuck = [each for each in attempt.files if not each.bytes and each.retransmits and "silent at block 1 " in each.error]
    size = (stuck[-1].blksize or 0) if stuck else 0
    if size <= _ETHERNET:
        return None
    said = f"Datagrams of {size + 32} bytes do not arrive, while shorter ones do: the MTU of the way to the machine is smaller than here."
    return "mtu", said, "Set the MTU of this host's interface to that of the path."


def _lossy(attempt: Attempt, _known: Known, _stage: str) -> tuple[str, str, str] | None:
    broken = next((each for each in reversed(attempt.files) if each.by == "tftp" and "fell silent" in each.error), None)
    if broken is None:
        return None
    blocks = max(1, broken.bytes // (broken.blksize or 512))
    again = broken.retransmits - TRIES * (broken.windowsize or 1)  # without those that went into the silence
    if again > 4 and again / blocks > _LOSS:
        said = f"The network loses datagrams: {again} of about {blocks} had to be sent again before the machine fell silent."
        return "loss", said, "Look at the switch port's errors and duplex; boot.tftp_bandwidth_per_client paces what leaves."
    said = f"The machine fell silent in the middle of {broken.file}, after {broken.bytes} bytes: it was reset, or lost its link."
    return "silent", said, "Look at its console, and at spanning tree on its switch port."


def _gave_up(attempt: Attempt, _known: Known, stage: str) -> tuple[str, str, str] | None:
    last = next((each for each in reversed(attempt.files) if each.probe != "absent"), None)
    if last is None or stage not in ("loader", "script", "kernel"):
        return None
    if "the client ended it" in last.error or "closed its port" in last.error or "went away" in last.error:
        said = f"The firmware gave up in {last.file} after {last.bytes} bytes: {last.error}."
        return "gave-up", said, "Look at its console: memory, or a file that is too large for it."
    if last.probe == "size":
        said = f"The firmware gave up: it asked how large {last.file} is, and did not come back for it."
        return "gave-up", said, "Look at its console; the file may be too large for it."
    if "no such boot file" in last.error:
        said = f"It was told to load {last.file}, which there is not."
        return "no-such-file", said, "Correct the boot file in the DHCP server."
    if "stalled" in last.error:
        said = f"It stopped reading {last.file} after {last.bytes} bytes."
        return "stalled", said, "Look at its console: memory, or a lost link."
    return ("server", f"The boot server refused {last.file}: {last.error}.", "") if last.error else None


def _loaded_not_run(attempt: Attempt, known: Known, stage: str) -> tuple[str, str, str] | None:
    loader = next((each for each in reversed(attempt.files) if each.whole and LOADER.search(each.file)), None)
    if stage != "loader" or loader is None:
        return None
    name = loader.file.removeprefix("ipxe/")
    uefi = attempt.architecture.startswith("UEFI") or name.endswith(".efi")
    if uefi and name in _UNSIGNED and known.secure_boot is not False:
        sure = "Secure boot refuses it" if known.secure_boot else "Secure boot probably refuses it"
        said = f"The firmware loaded {name} whole and did not run it. {sure}: iPXE is not signed."
        return "secure-boot", said, "Set boot_interface to pxe or http, whose loaders are signed, or turn secure boot off."
    if uefi and known.secure_boot and name in loaders.SIGNED.values():
        said = f"The firmware loaded {name} whole, and nothing came after it. Secure boot may not know who signed it."
        return "secure-boot", said, "Check that its keys hold Microsoft's third-party certificate, and that shim is not revoked."
    said = f"{name} was loaded whole and asked for nothing: it has no driver for the network card, or the machine cannot run it."
    return "loader", said, "Look at its console; another build of the loader (snponly.efi, undionly.kpxe) uses the firmware's driver."


def _after_the_script(_attempt: Attempt, _known: Known, stage: str) -> tuple[str, str, str] | None:
    if stage == "script":
        return "script", "It knows what to boot and does not load it.", "Look at its console."
    if stage == "kernel":
        return "kernel", "It did not load kernel and initramfs whole: out of memory, or a lost link.", "Look at its console."
    return None


def _ramdisk(attempt: Attempt, _known: Known, stage: str) -> tuple[str, str, str] | None:
    if stage != "ramdisk":
        return None
    if any(each.file.endswith(("host_key", "keys", "authorized_keys")) for each in attempt.files):
        return "ramdisk", "Its ramdisk runs and has fetched its keys, and does not become ready.", "Look at its console."
    said = "Kernel and initramfs were loaded, and the ramdisk has not called: it has no driver for the card, or does not reach metald."
    return "ramdisk", said, "Look at its console; the ramdisk calls boot.http_url, an agent agent.api_url."


_WARNINGS: tuple[_Rule, ...] = (_two_servers,)
_CERTAIN: tuple[_Rule, ...] = (_two_machines, _other_machine, _refused, _wrong_loader)
_LIKELY: tuple[_Rule, ...] = (
    _never_seen,
    _led_away,
    _no_offer_taken,
    _mtu,
    _lossy,
    _gave_up,
    _loaded_not_run,
    _after_the_script,
    _ramdisk,
)
