"""What every boot script is made of: who asks, the kernel line, and which texts may stand in a script at all.

There is no file to write, sync or clean: scripts are rendered from a node's state at the moment a machine asks.

Rules: nothing that comes from a node or a client reaches a script unless its characters are known to be harmless
there; a node whose kernel parameters are not gets a script that says so. MAC addresses are lower case with colons.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from metald.errors import Invalid
from metald.model import Node

_MAC = re.compile(r"[0-9a-f]{2}([:-]?)[0-9a-f]{2}(?:\1[0-9a-f]{2}){4}", re.ASCII | re.IGNORECASE)
_BASE = re.compile(r"https?://[A-Za-z0-9.\-_\[\]:]+(?:/[A-Za-z0-9._~/\-]*)?", re.ASCII)
_FILE = re.compile(r"(?:https?://[A-Za-z0-9.\-_\[\]:]+|file://)/[A-Za-z0-9._~/\-%+=@?&]*", re.ASCII)
# iPXE expands ${...}; it ends a command at the words || && ; and at #. Nothing else is special to it or to PXELINUX.
_WORD = re.compile(r"[!-~]+", re.ASCII)
_COMMAND_ENDS = frozenset({"||", "&&", ";"})


@dataclass(frozen=True, slots=True)
class Asker:
    """The machine that asks, and how it reached us."""

    base_url: str
    """URL of the boot HTTP server as this machine reaches it, without a slash at the end."""
    macs: tuple[str, ...] = ()
    """MAC addresses the machine told, the one of the card it boots by first."""
    api_url: str = ""
    """URL of the API as this machine reaches it, without a slash at the end."""
    client: str = ""
    """Its IP address; empty when nobody knows."""


def parse_mac(text: str) -> str | None:
    """A MAC address given with colons, dashes or plain, as lower case with colons; None when it is none."""
    if not _MAC.fullmatch(text):
        return None
    digits = re.sub("[:-]", "", text).lower()
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def check_base_url(url: str) -> str:
    """The URL without a slash at its end.

    Raises:
        Invalid: it is no plain http or https URL.
    """
    bare = url.rstrip("/")
    if not _BASE.fullmatch(bare):
        raise Invalid(f"{url!r} cannot be the URL of the boot server.", remedy="Write http://host:port.")
    return bare


def is_boot_url(url: str) -> bool:
    """Whether a URL names a file to boot, in characters that mean nothing to boot loaders."""
    return _FILE.fullmatch(url) is not None


def kernel_parameters(node: Node, default: str) -> str:
    """The operator's kernel parameters for the node's ramdisk.

    `instance_info.kernel_append_params` goes before `driver_info`'s, that before the setting; `%default%` in one of
    the node's stands for the setting.

    Raises:
        Invalid: they hold what a boot script would take for a command of its own.
    """
    for source, where in ((node.instance_info, "instance_info"), (node.driver_info, "driver_info")):
        given = source.get("kernel_append_params")
        if given is None:
            continue
        if not isinstance(given, str):
            raise Invalid(f"Node {node.label}: {where}/kernel_append_params must be a text.", field=f"{where}/kernel_append_params")
        return _harmless(given.replace("%default%", default), node, where)
    return _harmless(default, node, "the setting boot")


def _harmless(text: str, node: Node, where: str) -> str:
    # Split at blanks only: any other white space is no word character and is refused.
    words = text.split(" ")
    for word in filter(None, words):
        if not _WORD.fullmatch(word) or "${" in word or word in _COMMAND_ENDS or word.startswith("#"):
            raise Invalid(
                f"Node {node.label}: the kernel parameter {word!r} of {where}/kernel_append_params cannot stand in a boot script.",
                remedy="Leave out line breaks, ${, #, ;, && and ||.",
                field=f"{where}/kernel_append_params",
            )
    return " ".join(filter(None, words))


def first_known(macs: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """`macs` with those in `known` first, each once, in order."""
    unique = list(dict.fromkeys(macs))
    return tuple([mac for mac in unique if mac in known] + [mac for mac in unique if mac not in known])
