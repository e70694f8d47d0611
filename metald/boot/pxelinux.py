"""Configurations for PXELINUX, which loads everything over TFTP, from the server it came from itself."""

from __future__ import annotations

import re

from metald.boot.load import Load
from metald.errors import Unsupported
from metald.model import Node

LONGEST = 2047
"""Characters of a kernel line that PXELINUX passes on."""


def load(node: Node, wanted: Load) -> str:
    """The configuration that loads what the node's machine is to start.

    Raises:
        Unsupported: an ISO image, or too long a kernel line.
    """
    if wanted.iso:
        raise Unsupported(f"Node {node.label}: PXELINUX boots no ISO image.", remedy="Set boot_interface to ipxe.", field="boot_iso")
    if len(wanted.parameters) > LONGEST:
        raise Unsupported(
            f"Node {node.label}: its kernel line has {len(wanted.parameters)} characters, PXELINUX passes on {LONGEST}.",
            remedy="Shorten kernel_append_params, or set boot_interface to ipxe.",
            field="kernel_append_params",
        )
    return f"""DEFAULT {wanted.what}
PROMPT 0
LABEL {wanted.what}
  KERNEL {wanted.path(wanted.kernel)}
  INITRD {wanted.path(wanted.initramfs)}
  APPEND {wanted.parameters}
"""


def disk() -> str:
    """The configuration of a machine that boots from its disk."""
    return "DEFAULT disk\nPROMPT 0\nLABEL disk\n  LOCALBOOT 0\n"


def unknown(mac: str) -> str:
    """The configuration of a machine that no node owns: says so, then boots from the disk."""
    return f"""SAY metald does not know this machine, whose MAC address is {mac}.
SAY To enrol it: baremetal node create, then baremetal port create {mac} --node ...
{disk()}"""


def refused(message: str) -> str:
    """The configuration of a node that cannot be served: the reason on the console, then the disk."""
    text = re.sub(r"[^A-Za-z0-9 .,:/_()'-]", "?", message)
    return f"SAY metald: {text}\n{disk()}"
