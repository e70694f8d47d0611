"""The virtual tree that both boot servers serve: a few real files, and text rendered from the nodes' state.

    boot.ipxe                          the first script, the same for all machines
    undionly.kpxe, ipxe.efi ...        iPXE's binaries, also below `ipxe/`
    pxelinux.0, bootx64.efi ...        PXELINUX, shim and GRUB (`boot.loader_file_paths`)
    pxelinux.cfg/aa-bb-cc-dd-ee-ff     the machine's iPXE script
    pxelinux.cfg/01-aa-bb-cc-dd-ee-ff  the machine's PXELINUX configuration
    grub.cfg                           GRUB's first configuration, the same for all; also below `grub/`, `boot/grub/` ...
    grub.cfg-01-aa-bb-cc-dd-ee-ff      the machine's GRUB configuration, in the same folders
    uefi/aa-bb-cc-dd-ee-ff/boot.img    the machine's image for UEFI HTTP boot; `uefi/boot.img` is that of the client's address
    boot/NODE/TOKEN/kernel ...         what belongs to one boot, or to one instance
    ramdisk/kernel, ramdisk/initramfs  the ramdisk's, for a machine whose address is that of a node that is to boot it

Rules: a name is looked up in this tree and nowhere else; a name that climbs (`..`) is refused before it is looked up.
Nothing is served of a directory but regular files whose names end like a boot loader's. Nobody gets what another node is to
boot: see `Clients.refusal`, and the tokens of boots and instances.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metald.boot import credentials, grub, image, instance, ipxe, pxelinux, render
from metald.boot.clients import Clients
from metald.boot.directory import BootDirectory
from metald.boot.fills import Fills, Remote, fills_of
from metald.boot.image import BootImage
from metald.boot.load import Load, load_of
from metald.boot.loaders import read_paths
from metald.boot.render import Asker
from metald.boot.urls import Urls
from metald.config import Settings
from metald.errors import Invalid, NotAllowed, NotFound
from metald.model import Node

RAMDISK_FILES = ("kernel", "initramfs")

ImageSource = Callable[[Node, str], Path | None]
"""Given a node and the last part of an address below its own: the file that it may fetch, or None."""

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*", re.ASCII)
_LOADERS = (".kpxe", ".kkpxe", ".pxe", ".efi", ".lkrn", ".0", ".c32")
_GRUB, _GRUB_OF = "grub.cfg", "grub.cfg-01-"
_GRUB_FOLDERS: tuple[list[str], ...] = ([], ["grub"], ["boot", "grub"], ["EFI", "debian"], ["debian"], ["EFI", "BOOT"])
"""Where GRUB looks for its configuration depends on the prefix it was built with."""
_OPTIONAL = re.compile(
    r"revocations[a-z_]*\.efi|shim_certificate[0-9_]*\.efi|.*/(?:[a-z]+\.lst|[a-z0-9_]+-efi/grub\.cfg)|pxelinux\.cfg/[0-9a-f-]{36}",
    re.ASCII | re.IGNORECASE,
)
"""What shim, GRUB and PXELINUX look for and do without: tables of revocations and modules, a configuration by the UUID."""
_IMAGE, _ISO = "boot.img", "boot.iso"


class Absent(NotFound):
    """A file that a boot loader looks for and can do without. It is no failure."""


class Stranger(NotFound):
    """The machine is no node."""

    def __init__(self, macs: tuple[str, ...]) -> None:
        super().__init__("No node is known by this address.", remedy="Create a port with the machine's MAC address.")
        self.macs = macs


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for: a file here or elsewhere, an image that is to be made, or text made just now."""

    name: str
    """As it is told to others: without a token."""
    content: Path | Remote | BootImage | str
    node_uuid: str | None = None
    error: str = ""
    """Why the machine gets something else than it wants; it is told in the text."""
    unknown: tuple[str, ...] = ()
    """MAC addresses of a machine that no node owns."""
    content_type: str = ""


def shown(name: str) -> str:
    """A name as it may be told: without the token of a boot, and no longer than a line."""
    match [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]:
        case ["boot", node, _, *rest]:
            name = "/".join(["boot", node, *rest])
    return name.encode("ascii", "backslashreplace").decode().lstrip("/")[:200]


class BootFiles:
    """Resolves names for the TFTP and the HTTP server, which share it.

    Args:
        image_source: what the deploy interfaces keep for a node.
        fills: files of other servers.
    """

    def __init__(
        self, directory: BootDirectory, settings: Settings, image_source: ImageSource = lambda *_: None, fills: Fills | None = None
    ) -> None:
        boot = settings.boot
        self.clients = Clients(directory, check=boot.check_clients)
        self.urls = Urls(settings)
        self.fills = fills or fills_of(settings)
        self.ipxe_dir = Path(boot.ipxe_dir)
        self.ramdisk_dir = ramdisk_dir(settings)
        self.loaders = read_paths(boot.loader_file_paths)
        self._directory = directory
        self._image_source = image_source
        self._kernel_parameters = boot.kernel_append_params
        self._open_ramdisk = boot.open_ramdisk

    def find(self, name: str, asker: Asker) -> Found:
        """Look a name up.

        Args:
            name: as the client sent it; leading slashes, backslashes and `.` are taken as clients mean them.

        Raises:
            NotAllowed: the name climbs out of the tree, or it is not for this client.
            Stranger: the client is no node.
            Invalid: the node's kernel parameters cannot stand in a configuration.
            Absent: there is no such file, and the boot loader that looks for it does without.
            NotFound: there is no such file.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if ".." in parts:
            raise NotAllowed("The name leaves the tree of boot files.")
        match parts:
            case ["boot.ipxe"]:
                return Found("boot.ipxe", ipxe.first(asker))
            case ["ramdisk", file] if file in RAMDISK_FILES:
                return self._ramdisk(file, asker)
            case ["boot", node, token, what]:
                return self._own(node, token, what, asker)
            case ["pxelinux.cfg", file] if mac := render.parse_mac(file.lower().removeprefix("01-")):
                return self._pxelinux(file.lower(), mac, asker)
            case ["uefi", file] if file in (_IMAGE, _ISO):
                return self._uefi(self.clients.node_of(asker.client), f"uefi/{file}", asker)
            case ["uefi", text, file] if (mac := render.parse_mac(text)) and file in (_IMAGE, _ISO):
                owner = self._directory.node_by_mac(mac)
                return self._uefi(owner.uuid if owner else None, f"uefi/{text}/{file}", replace(asker, macs=(mac,)))
            case [*folder, file] if folder in _GRUB_FOLDERS and file.lower() == _GRUB:
                return Found("/".join(parts), grub.FIRST)
            case [*folder, file] if folder in _GRUB_FOLDERS and (mac := _grub_mac(file)):
                return self._grub("/".join(parts), mac, asker)
            case ["ipxe", *rest] | rest:
                return self._loader(rest)
        raise AssertionError("the last pattern matches everything")

    # -- whose machine it is

    def node_by_macs(self, macs: Sequence[str]) -> tuple[Node | None, tuple[str, ...]]:
        """The node that owns one of the addresses, and the addresses with those it boots by first.

        A card whose port has `pxe_enabled` off still tells who the machine is, but another one is preferred.
        """
        node = next(filter(None, map(self._directory.node_by_mac, macs)), None)
        if node is None:
            return None, render.first_known(macs, ())
        ports = self._directory.ports(node.uuid)
        return node, render.first_known(macs, [port.address for port in ports if port.pxe_enabled])

    def may_boot(self, node: Node, macs: Sequence[str]) -> bool:
        """Whether one of the cards is to boot the node from the network."""
        return any(port.pxe_enabled and port.address in macs for port in self._directory.ports(node.uuid))

    # -- configurations of boot loaders

    def script(self, asker: Asker) -> Found:
        """The iPXE script for the machine with these MAC addresses; the unknown machine's when no node owns one."""
        node, macs = self.node_by_macs(asker.macs)
        asker = replace(asker, macs=macs, api_url=self.urls.api(asker.base_url))
        if node is None:
            return Found("boot/ipxe", ipxe.unknown(asker), unknown=macs)
        return self._configuration(
            "boot/ipxe",
            node,
            asker,
            load=lambda wanted: ipxe.load(node, wanted, asker),
            disk=lambda: ipxe.disk(node),
            refused=ipxe.refused,
        )

    def _pxelinux(self, file: str, mac: str, asker: Asker) -> Found:
        name = f"pxelinux.cfg/{file}"
        node = self._directory.node_by_mac(mac)
        if not file.startswith("01-"):
            return replace(self.script(replace(asker, macs=(mac,))), name=name)
        if node is None:
            return Found(name, pxelinux.unknown(mac), unknown=(mac,))
        asker = replace(asker, macs=(mac,), api_url=self.urls.api(asker.base_url))
        return self._configuration(
            name, node, asker, load=lambda wanted: pxelinux.load(node, wanted), disk=pxelinux.disk, refused=pxelinux.refused
        )

    def _grub(self, name: str, mac: str, asker: Asker) -> Found:
        node = self._directory.node_by_mac(mac)
        if node is None:
            return Found(name, grub.unknown(mac), unknown=(mac,))
        asker = replace(asker, macs=(mac,), api_url=self.urls.api(asker.base_url))
        return self._configuration(
            name, node, asker, load=lambda wanted: grub.load(node, wanted), disk=lambda: grub.disk(node), refused=grub.refused
        )

    def _configuration(
        self,
        name: str,
        node: Node,
        asker: Asker,
        *,
        load: Callable[[Load], str],
        disk: Callable[[], str],
        refused: Callable[[str], str],
    ) -> Found:
        """A boot loader's configuration for a known node."""
        if not self.may_boot(node, asker.macs):
            return Found(name, disk(), node.uuid)
        if refusal := self.clients.refusal(asker.client, node):
            return Found(name, refused(refusal), node.uuid, error=refusal)
        try:
            wanted = load_of(node, asker, self._kernel_parameters)
            return Found(name, disk() if wanted is None else load(wanted), node.uuid)
        except Invalid as error:
            return Found(name, refused(str(error)), node.uuid, error=str(error))

    def _uefi(self, uuid: str | None, name: str, asker: Asker) -> Found:
        """The image that UEFI firmware is to load, or its ISO image."""
        node = self._directory.node(uuid) if uuid else None
        if node is None:
            raise Stranger(asker.macs or tuple(filter(None, [self.clients.mac_of(asker.client)])))
        if refusal := self.clients.refusal(asker.client, node):
            raise NotAllowed(refusal)
        booting = [port.address for port in self._directory.ports(node.uuid) if port.pxe_enabled]
        macs = tuple(mac for mac in asker.macs if mac in booting) or tuple(booting[:1])
        if not macs:
            raise Absent("This machine boots from its disk.")
        asker = replace(asker, macs=macs, api_url=self.urls.api(asker.base_url))
        wanted = load_of(node, asker, self._kernel_parameters)
        if wanted is None:
            raise Absent("This machine boots from its disk.")
        if wanted.iso:
            return Found(name, self.own_file(node, wanted.iso), node.uuid, content_type=image.ISO_CONTENT_TYPE)
        text = grub.load(node, wanted, kernel=image.KERNEL, initramfs=image.INITRAMFS)
        kernel, initramfs = self.own_file(node, wanted.kernel), self.own_file(node, wanted.initramfs)
        return Found(name, BootImage(text, kernel, initramfs, self.loaders), node.uuid)

    # -- files

    def own_file(self, node: Node, what: str) -> Path | Remote:
        """A file that belongs to the node's present boot, or to its instance.

        Raises:
            NotFound: it has no such file.
        """
        if what in RAMDISK_FILES:
            return self.ramdisk_dir / what
        url = _remote(node, what)
        if url:
            return Remote(url)
        path = self._image_source(node, what)
        if path is None:
            raise NotFound(f"Node {node.label} has no {what} to boot.")
        return path

    def _own(self, uuid: str, token: str, what: str, asker: Asker) -> Found:
        """What one boot, or one instance, loads to start. Images and config drives are not among it: see the HTTP server."""
        node = self._directory.node(uuid)
        of_instance = what in instance.FILES.values()
        if not (instance if of_instance else credentials).check_token(node, token):
            raise NotAllowed("This is not the token of the node's present boot.")
        assert node is not None
        if what not in RAMDISK_FILES and not of_instance and what not in ("deploy_kernel", "deploy_ramdisk"):
            raise NotFound("There is no such boot file.")
        if refusal := self.clients.refusal(asker.client, node, proved=True):
            raise NotAllowed(refusal)
        return Found(f"boot/{uuid}/{what}", self.own_file(node, what), node.uuid)

    def _ramdisk(self, file: str, asker: Asker) -> Found:
        uuid = self.clients.node_of(asker.client) if asker.client else None
        node = self._directory.node(uuid) if uuid else None
        if not self._open_ramdisk and (node is None or not credentials.wants_ramdisk(node)):
            raise NotAllowed(
                "The ramdisk is for nodes that are to boot it.",
                remedy="Boot by metald's own scripts, or set boot.open_ramdisk for boot configurations of your own.",
            )
        return Found(f"ramdisk/{file}", self.ramdisk_dir / file, uuid)

    def _loader(self, parts: Sequence[str]) -> Found:
        name = "/".join(parts)
        if _OPTIONAL.fullmatch(name):
            raise Absent("There is no such boot file.")
        if len(parts) == 1 and parts[0] in self.loaders:
            return Found(name, self.loaders[parts[0]])
        if not 1 <= len(parts) <= 2 or not all(map(_COMPONENT.fullmatch, parts)) or not name.endswith(_LOADERS):
            raise NotFound("There is no such boot file.")
        return Found(name, self.ipxe_dir.joinpath(*parts))


def _grub_mac(file: str) -> str | None:
    low = file.lower()
    return render.parse_mac(low.removeprefix(_GRUB_OF)) if low.startswith(_GRUB_OF) else None


def _remote(node: Node, what: str) -> str:
    """The URL of a file of another server; empty when the file is here."""
    info = node.driver_internal_info
    agent, own = info.get("boot_agent"), info.get(instance.KEY)
    url = ""
    if what.startswith("deploy_") and isinstance(agent, dict):
        url = agent.get(what.removeprefix("deploy_")) or ""
    elif isinstance(own, dict):
        url = next((own.get(part) or "" for part, name in instance.FILES.items() if name == what), "")
    return url if url.startswith(("http:", "https:")) else ""


def image_name(node: Node) -> str:
    """The name of what UEFI HTTP boot loads as a whole, at present; empty while the node boots from its disk."""
    if not credentials.wants_ramdisk(node) and instance.KEY not in node.driver_internal_info:
        return ""
    iso = not credentials.wants_ramdisk(node) and node.driver_internal_info[instance.KEY]["kind"] == "iso"
    return _ISO if iso else _IMAGE


def ramdisk_dir(settings: Settings) -> Path:
    """Where the ramdisk's `kernel` and `initramfs` lie."""
    return Path(settings.boot.ramdisk_dir) if settings.boot.ramdisk_dir else Path(settings.state_dir) / "ramdisk"
