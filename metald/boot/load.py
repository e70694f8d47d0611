"""What a machine loads and starts now, by its node's state: a ramdisk, an instance that lives on the network, or nothing.

The configurations of all boot loaders (`ipxe.py`, `pxelinux.py`, `grub.py`, `image.py`) are written from this one answer.

Rule: machines load everything from metald's own boot servers, below `boot/NODE/TOKEN/`, where the token of the boot, or of the
instance, lets nobody else have it. What lies on another server is fetched from there once for all who ask (`fills.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from metald.boot import credentials, instance
from metald.boot.render import Asker, kernel_parameters
from metald.model import Node


@dataclass(frozen=True, slots=True)
class Load:
    """A kernel with its initramfs and its line, or an ISO image."""

    what: str
    """For people: `ramdisk` or `instance`."""
    place: str
    """The folder of the files below the boot servers' root, without slashes around it."""
    kernel: str = ""
    """Name of the file in `place`; so are `initramfs` and `iso`."""
    initramfs: str = ""
    parameters: str = ""
    """The kernel line."""
    iso: str = ""
    """Empty unless an ISO image is booted; then there is no kernel."""
    iso_url: str = ""
    """Where a boot loader that reads images piece by piece has it from."""

    def path(self, name: str) -> str:
        """A file below the boot servers' root."""
        return f"{self.place}/{name}"


def load_of(node: Node, asker: Asker, default: str) -> Load | None:
    """What the node's machine is to load; None when it boots from its disk.

    Args:
        default: kernel parameters of the settings.

    Raises:
        Invalid: the operator's kernel parameters cannot stand in a boot script.
    """
    info = node.driver_internal_info
    if credentials.wants_ramdisk(node):
        agent = info.get("boot_agent") or {}
        names = ("deploy_kernel", "deploy_ramdisk") if agent.get("kernel") else ("kernel", "initramfs")
        return Load("ramdisk", _place(node, info["boot_token"]), *names, _ramdisk_parameters(node, asker, default))
    if instance.KEY not in info:
        return None
    place = _place(node, info[instance.TOKEN])
    if info[instance.KEY]["kind"] == "iso":
        return Load("instance", place, iso=instance.FILES["iso"], iso_url=instance.url_of(node, "iso", asker))
    names = instance.FILES["kernel"], instance.FILES["ramdisk"]
    return Load("instance", place, *names, instance.parameters(node, asker, default))


def _place(node: Node, token: str) -> str:
    return f"boot/{node.uuid}/{token}"


def _ramdisk_parameters(node: Node, asker: Asker, default: str) -> str:
    """The operator's parameters, BOOTIF, and how metald is called."""
    info = node.driver_internal_info
    if info.get("boot_agent") is not None:
        own = [f"ipa-api-url={asker.api_url}"]
        if info.get("boot_purpose") == "inspect":
            own.append(f"ipa-inspection-callback-url={asker.api_url}/v1/continue_inspection?node_uuid={node.uuid}")
    else:
        own = [f"metald.url={asker.base_url}", f"metald.node={node.uuid}", f"metald.token={info['boot_token']}"]
    if asker.macs:
        own.insert(0, f"BOOTIF=01-{asker.macs[0].replace(':', '-')}")
    return " ".join(filter(None, [kernel_parameters(node, default), *own]))
