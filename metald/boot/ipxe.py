"""Scripts for iPXE.

A machine first loads `boot.ipxe`, which is the same for all and asks for the script of its MAC addresses.
"""

from __future__ import annotations

import re

from metald.boot.load import Load
from metald.boot.render import Asker
from metald.model import Node

NICS = 8
"""How many network cards `boot.ipxe` tells of: the one it was loaded by, and net0 to net7."""


def first(asker: Asker) -> str:
    """`boot.ipxe`: the first script of every machine. It asks for the machine's own script, telling its MAC addresses."""
    cards = ["${netX/mac:hexhyp}", *(f"${{net{number}/mac:hexhyp}}" for number in range(NICS))]
    query = "&".join(f"mac={card}" for card in cards)
    return f"""#!ipxe
echo metald: asking {asker.base_url} what to boot
set metald-try:int32 0
:ask
chain --replace --autofree {asker.base_url}/boot/ipxe?{query} ||
inc metald-try
iseq ${{metald-try}} 5 && goto leave ||
echo metald: no script, trying again
sleep 3
goto ask
:leave
echo metald: {asker.base_url} gave no script for this machine; going on with the next boot device
sleep 5
exit 1
"""


def load(node: Node, wanted: Load, asker: Asker) -> str:
    """The script that loads what the node's machine is to start."""
    base = asker.base_url
    if wanted.iso:
        commands = f"sanboot --no-describe {wanted.iso_url} || goto again"
    else:
        commands = f"""kernel --name kernel {base}/{wanted.path(wanted.kernel)} initrd=initramfs {wanted.parameters} || goto again
initrd --name initramfs {base}/{wanted.path(wanted.initramfs)} || goto again
boot || goto again"""
    return f"""#!ipxe
echo metald: {wanted.what} of node {node.uuid}
set metald-try:int32 0
:load
imgfree
{commands}
:again
inc metald-try
iseq ${{metald-try}} 5 && goto leave ||
echo metald: the {wanted.what} did not load, trying again
sleep 3
goto load
:leave
echo metald: the {wanted.what} of {base} did not load five times; starting over in 30 seconds
sleep 30
reboot
"""


def disk(node: Node) -> str:
    """The script of a node that boots from its disk.

    A BIOS is told its first disk, for many halt when a boot ROM returns. UEFI firmware goes on with its boot order,
    but only when the boot option ends with an error (UEFI 2.10, section 3.1.1).
    """
    return f"""#!ipxe
echo metald: node {node.uuid} boots from its disk
iseq ${{platform}} efi && goto leave ||
sanboot --no-describe --drive 0x80 ||
:leave
exit 1
"""


def unknown(asker: Asker) -> str:
    """The script of a machine that no node owns: says what happened and how to enrol it, then leads on."""
    macs = asker.macs or ("none told",)
    card = asker.macs[0] if asker.macs else "MAC"
    said = "\n".join(f"echo     {mac}" for mac in macs)
    return f"""#!ipxe
echo
echo metald, the bare-metal provisioner at {asker.base_url}, does not know this machine.
echo It asked with these MAC addresses:
{said}
echo Its system UUID is ${{uuid}}, its serial number ${{serial}}.
echo
echo To enrol it: baremetal node create --driver ipmi --driver-info ipmi_address=...
echo then:        baremetal port create {card} --node ...
echo
prompt --timeout 30000 Press a key to ask again; in 30 seconds it goes on with the next boot device. && goto again || goto leave
:again
chain --replace --autofree {asker.base_url}/boot.ipxe ||
:leave
exit 1
"""


def refused(message: str) -> str:
    """The script of a node that cannot be served: the reason on the console, then the next boot device."""
    text = re.sub(r"[^A-Za-z0-9 .,:/_()'-]", "?", message)
    return f"#!ipxe\necho metald: {text}\nsleep 30\nexit 1\n"
