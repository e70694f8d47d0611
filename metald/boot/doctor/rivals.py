"""Whether more than one DHCP server spoke to a machine that booted, and what each of them told it. Pure.

One server that hands out addresses and a proxy that names the boot file are what PXE 2.1 (section 2.2.1) means by a proxy. Two that
name boot files are a race that machines decide as they like, so it is told of however a boot ended: the next one may end otherwise.

Rule: of what others say only their broadcasts are seen on a switched network. So the machine's own doings count too: whoever
asks for a loader that metald never named was told it by somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from metald.boot.doctor.attempt import Attempt, Question

OTHER = "another DHCP server"
"""What the error of a machine that chose one says."""
LOADER = re.compile(r"\.(?:kpxe|kkpxe|pxe|efi|lkrn|0)$")
"""Boot loaders by the ends of their names."""
_FIRMWARE = ("pxe", "http", "ipxe")
_NUMBERS = {2: "Two", 3: "Three"}


def rivals(attempt: Attempt) -> str:
    """Which DHCP servers are at odds about a machine, as a sentence; empty when none are."""
    answers = [each for each in attempt.questions if each.answer in ("offer", "ack") and each.firmware in _FIRMWARE]
    for firmware in _FIRMWARE:
        files = _by_server((each.server, each.file) for each in answers if each.firmware == firmware)
        if len(files) > 1 and len(set(files.values())) > 1:
            named = ", ".join(f"{server or 'metald'} names {file}" for server, file in sorted(files.items()))
            return f"{_number(files)} DHCP servers answer on this network and name different boot files: {named}."
    addresses = _by_server((each.server, each.address) for each in answers)
    if len(addresses) > 1 and "" in addresses:  # of others, several may be one service that is there twice
        given = " and ".join(server or "metald" for server in sorted(addresses))
        return f"{_number(addresses)} DHCP servers hand out addresses on this network: {given}."
    chosen = next((each for each in attempt.questions if OTHER in each.error), None)
    if chosen is not None:
        return f"Two DHCP servers answer on this network: {chosen.error}."
    return _led_astray(attempt, [each for each in answers if each.file])


def _by_server(told: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The last thing that each server told; ours is the empty text."""
    return {server: what for server, what in told if what}


def _number(servers: dict[str, str]) -> str:
    return _NUMBERS.get(len(servers), str(len(servers)))


def _led_astray(attempt: Attempt, told: list[Question]) -> str:
    """Told of a loader, the machine began with another one."""
    first = attempt.files[0] if attempt.files else None
    if first is None or not LOADER.search(first.file) or any(each.server for each in told):
        return ""
    names = [_name(each.file) for each in told]
    if not names or _name(first.file) in names:
        return ""
    said = f"metald told the machine to load {names[-1]}, and it asked for {first.file}"
    return f"Two DHCP servers answer on this network: {said}, which somebody else told it."


def _name(file: str) -> str:
    return file.rpartition("/")[2]
