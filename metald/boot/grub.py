"""Configurations for GRUB, which loads the rest from where it came from itself: over TFTP, over HTTP, or from a boot image.

Rule: every word of a kernel line stands in quotes of a kind in which nothing is special to GRUB but their end.
"""

from __future__ import annotations

from metald.boot.load import Load
from metald.errors import Invalid, Unsupported
from metald.model import Node

FIRST = """# The same for all machines: leads to the configuration of the card that GRUB was loaded by.
if [ -z "$net_default_mac" ]; then
  set net_default_mac=$net_efinet0_mac
fi
source ($root)/grub/grub.cfg-01-$net_default_mac
echo metald: there is no configuration for $net_default_mac
sleep 10
exit 1
"""


def load(node: Node, wanted: Load, *, kernel: str = "", initramfs: str = "") -> str:
    """The configuration that loads what the node's machine is to start.

    Args:
        kernel, initramfs: paths where they are not those of the boot servers.

    Raises:
        Invalid: a parameter holds a quote that ends the others.
        Unsupported: an ISO image.
    """
    if wanted.iso:
        raise Unsupported(f"Node {node.label}: GRUB boots no ISO image.", remedy="Set boot_interface to ipxe.", field="boot_iso")
    words = wanted.parameters.split(" ")
    if any("'" in word for word in words):
        raise Invalid(
            f"Node {node.label}: a kernel parameter with a single quote cannot stand in a GRUB configuration.",
            remedy="Leave the quote out.",
            field="kernel_append_params",
        )
    parameters = " ".join(f"'{word}'" for word in words if word)
    kernel = kernel or f"/{wanted.path(wanted.kernel)}"
    initramfs = initramfs or f"/{wanted.path(wanted.initramfs)}"
    # Errors are retried: a lost datagram too many must not leave a machine at a prompt.
    return f"""set pager=0
echo metald: {wanted.what} of node {node.uuid}
for try in 1 2 3 4 5; do
  if linux {kernel} {parameters}; then
    if initrd {initramfs}; then
      boot
    fi
  fi
  echo metald: the {wanted.what} did not load, trying again
  sleep 3
done
echo metald: the {wanted.what} did not load five times; starting over in 30 seconds
sleep 30
reboot
"""


def disk(node: Node) -> str:
    """The configuration of a node that boots from its disk: UEFI firmware goes on with its boot order."""
    return f"echo metald: node {node.uuid} boots from its disk\nexit 1\n"


def unknown(mac: str) -> str:
    """The configuration of a machine that no node owns: says so, then leads on."""
    return f"""echo metald does not know this machine, whose MAC address is {mac}.
echo To enrol it: baremetal node create, then baremetal port create {mac} --node ...
sleep 30
exit 1
"""


def refused(message: str) -> str:
    """The configuration of a node that cannot be served: the reason on the console, then the next boot device."""
    text = "".join(letter if letter.isalnum() or letter in " .,:/_()-" else "?" for letter in message)
    return f"echo 'metald: {text}'\nsleep 30\nexit 1\n"
