"""Boot scripts, rendered from a node's state at the moment a machine asks. There is no file to write, sync or clean.

A machine first loads `boot.ipxe`, which is the same for all and asks for the script of its MAC addresses. That script
loads the ramdisk when the node has credentials of a boot (`credentials.py`) and leads to the disk otherwise.

Rules: nothing that comes from a node or a client reaches a script unless its characters are known to be harmless
there; a node whose kernel parameters are not gets a script that says so. MAC addresses are lower case with colons.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from metald.boot import credentials
from metald.errors import Invalid
from metald.model import Node

NICS = 8
"""How many network cards `boot.ipxe` tells of: the one it was loaded by, and net0 to net7."""

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


def ramdisk_files(node: Node, asker: Asker, tree: str = "") -> tuple[str, str]:
    """Where the machine loads kernel and initramfs from: metald's own, or those with the agent that the node names."""
    tree = tree or f"{asker.base_url}/ramdisk"
    agent = node.driver_internal_info.get("boot_agent") or {}
    if not agent.get("kernel"):
        return f"{tree}/kernel", f"{tree}/initramfs"
    own = f"{asker.base_url}/boot/{node.uuid}/{node.driver_internal_info['boot_token']}"
    kernel, ramdisk = (
        url if not url.startswith("file:") else f"{own}/deploy_{name}"
        for name, url in (("kernel", agent["kernel"]), ("ramdisk", agent["ramdisk"]))
    )
    return kernel, ramdisk


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


def ramdisk_parameters(node: Node, asker: Asker, default: str) -> str:
    """The whole kernel line of the node's ramdisk: the operator's parameters, BOOTIF, and how metald is called.

    Raises:
        Invalid: see `kernel_parameters`.
    """
    if node.driver_internal_info.get("boot_agent") is not None:
        own = [f"ipa-api-url={asker.api_url}"]
        if node.driver_internal_info.get("boot_purpose") == "inspect":
            own.append(f"ipa-inspection-callback-url={asker.api_url}/v1/continue_inspection?node_uuid={node.uuid}")
    else:
        own = [
            f"metald.url={asker.base_url}",
            f"metald.node={node.uuid}",
            f"metald.token={node.driver_internal_info['boot_token']}",
        ]
    if asker.macs:
        own.insert(0, f"BOOTIF=01-{asker.macs[0].replace(':', '-')}")
    return " ".join(filter(None, [kernel_parameters(node, default), *own]))


def boot_ipxe(asker: Asker) -> str:
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


def ramdisk_ipxe(node: Node, asker: Asker, default: str) -> str:
    """The script that loads the ramdisk.

    Raises:
        Invalid: see `kernel_parameters`.
    """
    kernel, initramfs = ramdisk_files(node, asker)
    return f"""#!ipxe
echo metald: ramdisk for node {node.uuid}
set metald-try:int32 0
:load
imgfree
kernel --name kernel {kernel} initrd=initramfs {ramdisk_parameters(node, asker, default)} || goto again
initrd --name initramfs {initramfs} || goto again
boot || goto again
:again
inc metald-try
iseq ${{metald-try}} 5 && goto leave ||
echo metald: the ramdisk did not load, trying again
sleep 3
goto load
:leave
echo metald: the ramdisk of {asker.base_url} did not load five times; starting over in 30 seconds
sleep 30
reboot
"""


def disk_ipxe(node: Node) -> str:
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


def unknown_ipxe(asker: Asker) -> str:
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


def refused_ipxe(message: str) -> str:
    """The script of a node that cannot be served: the reason on the console, then the next boot device."""
    text = re.sub(r"[^A-Za-z0-9 .,:/_()'-]", "?", message)
    return f"#!ipxe\necho metald: {text}\nsleep 30\nexit 1\n"


def node_ipxe(node: Node, asker: Asker, default: str) -> str:
    """The script of a known node, by its state."""
    if not credentials.wants_ramdisk(node):
        return disk_ipxe(node)
    try:
        return ramdisk_ipxe(node, asker, default)
    except Invalid as error:
        return refused_ipxe(str(error))


def pxelinux(node: Node, asker: Asker, default: str, *, tree: str = "ramdisk") -> str:
    """The PXELINUX configuration of a known node; kernel and initramfs come from `tree` on the same server.

    Raises:
        Invalid: see `kernel_parameters`.
    """
    if not credentials.wants_ramdisk(node):
        return "DEFAULT disk\nPROMPT 0\nLABEL disk\n  LOCALBOOT 0\n"
    parameters = ramdisk_parameters(node, asker, default)
    kernel, initramfs = ramdisk_files(node, asker, tree)
    return f"DEFAULT ramdisk\nPROMPT 0\nLABEL ramdisk\n  KERNEL {kernel}\n  INITRD {initramfs}\n  APPEND {parameters}\n"


def grub(node: Node, asker: Asker, default: str, *, tree: str = "/ramdisk") -> str:
    """The GRUB configuration of a known node; kernel and initramfs come from `tree` on the server GRUB came from.

    Every word stands in quotes of a kind in which nothing is special to GRUB but their end.

    Raises:
        Invalid: see `kernel_parameters`; or a parameter holds such a quote.
    """
    if not credentials.wants_ramdisk(node):
        return "echo metald: this machine boots from its disk\nexit 1\n"
    words = ramdisk_parameters(node, asker, default).split(" ")
    if any("'" in word for word in words):
        raise Invalid(
            f"Node {node.label}: a kernel parameter with a single quote cannot stand in a GRUB configuration.",
            remedy="Leave the quote out.",
            field="kernel_append_params",
        )
    parameters = " ".join(f"'{word}'" for word in words)
    kernel, initramfs = (_grub_file(url, node) for url in ramdisk_files(node, asker, tree))
    return f"set timeout=0\nset default=0\nmenuentry metald {{\n  linux {kernel} {parameters}\n  initrd {initramfs}\n}}\n"


def _grub_file(place: str, node: Node) -> str:
    """A path, or a URL as GRUB takes it: `(http,host:port)/path`."""
    if place.startswith("https:"):
        raise Invalid(
            f"Node {node.label}: GRUB loads nothing over https.",
            remedy="Use http in deploy_kernel and deploy_ramdisk.",
            field="driver_info",
        )
    host, slash, path = place.removeprefix("http://").partition("/")
    return f"'(http,{host})/{path}'" if place.startswith("http://") and slash else place


def first_known(macs: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """`macs` with those in `known` first, each once, in order."""
    unique = list(dict.fromkeys(macs))
    return tuple([mac for mac in unique if mac in known] + [mac for mac in unique if mac not in known])
