"""The virtual tree that both boot servers serve: a few real files, and text rendered from the nodes' state.

    boot.ipxe                      the first script, the same for all machines
    undionly.kpxe, ipxe.efi ...    iPXE's binaries, also below `ipxe/`
    ramdisk/kernel, ramdisk/initramfs
    pxelinux.cfg/aa-bb-cc-dd-ee-ff     the machine's iPXE script
    pxelinux.cfg/01-aa-bb-cc-dd-ee-ff  the machine's PXELINUX configuration
    grub.cfg-01-aa-bb-cc-dd-ee-ff      its GRUB configuration, also below `grub/` and `boot/grub/`

Rules: a name is looked up in this tree and nowhere else; a name that climbs (`..`) is refused before it is looked up.
Nothing is served of a directory but regular files whose names end like a boot loader's.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from urllib.parse import urlsplit

from metald.boot import credentials, instance, render
from metald.boot.clients import Clients
from metald.boot.directory import BootDirectory
from metald.boot.listen import parse_listen, url_host
from metald.boot.render import Asker
from metald.config import Settings
from metald.config import parse_listen as split_listen
from metald.errors import Invalid, NotAllowed, NotFound
from metald.model import Node

RAMDISK_FILES = ("kernel", "initramfs")

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*", re.ASCII)
_LOADERS = (".kpxe", ".kkpxe", ".pxe", ".efi", ".lkrn", ".0", ".c32")
_GRUB = "grub.cfg-01-"
_GRUB_FOLDERS: tuple[list[str], ...] = ([], ["grub"], ["boot", "grub"], ["EFI", "debian"], ["debian"])
"""Where GRUB looks for its configuration depends on the prefix it was built with."""
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for: a file on disk, or text made just now."""

    name: str
    content: Path | str
    node_uuid: str | None = None


class BootFiles:
    """Resolves names for the TFTP and the HTTP server, which share it."""

    def __init__(self, directory: BootDirectory, settings: Settings) -> None:
        boot = settings.boot
        self.clients = Clients(directory)
        self.ipxe_dir = Path(boot.ipxe_dir)
        self.ramdisk_dir = ramdisk_dir(settings)
        self._directory = directory
        self._kernel_parameters = boot.kernel_append_params
        self._url = render.check_base_url(boot.http_url) if boot.http_url else ""
        listens = parse_listen(boot.http_listen, "boot.http_listen")
        self._api = settings.api
        self._told_api_url = settings.agent.api_url.rstrip("/")
        self._scheme = "https" if boot.http_tls_certificate else "http"
        self._http_host, self._http_port = listens[0] if listens else ("", 0)

    def base_url(self, local_address: str) -> str:
        """The boot HTTP server's URL for a machine that reached us at `local_address`.

        Raises:
            NotFound: there is no boot HTTP server.
        """
        if self._url:
            return self._url
        if not self._http_port:
            raise NotFound("There is no boot HTTP server.", remedy="Set boot.http_listen or boot.http_url.")
        host = local_address if self._http_host in _ANYWHERE else self._http_host
        return f"{self._scheme}://{url_host(host)}:{self._http_port}"

    def http_base_url(self, scheme: str, host: str, local: tuple[str, int]) -> str:
        """The URL for a machine that came by HTTP: the setting, else what it asked for, else where it arrived."""
        if self._url:
            return self._url
        try:
            return render.check_base_url(f"{scheme}://{host}")
        except Invalid:
            return f"{self._scheme}://{url_host(local[0])}:{local[1]}"

    def api_url(self, base_url: str) -> str:
        """The API as a machine reaches it that reaches the boot HTTP server at `base_url`."""
        if self._told_api_url:
            return self._told_api_url
        scheme = "https" if self._api.tls_certificate else "http"
        host, port = split_listen(self._api.listen)
        host = urlsplit(base_url).hostname or "" if host in (*_ANYWHERE, "*") else host
        return f"{scheme}://{url_host(host)}:{port}"

    def find(self, name: str, asker: Asker) -> Found:
        """Look a name up.

        Args:
            name: as the client sent it; leading slashes, backslashes and `.` are taken as clients mean them.

        Raises:
            NotAllowed: the name climbs out of the tree.
            NotFound: there is no such file.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if ".." in parts:
            raise NotAllowed("The name leaves the tree of boot files.")
        match parts:
            case ["boot.ipxe"]:
                return Found("boot.ipxe", render.boot_ipxe(asker))
            case ["ramdisk", file] if file in RAMDISK_FILES:
                return Found(f"ramdisk/{file}", self.ramdisk_dir / file)
            case ["pxelinux.cfg", file]:
                return self._configuration(file, asker)
            case [*folder, file] if file.lower().startswith(_GRUB) and folder in _GRUB_FOLDERS:
                return self._grub(file.lower(), asker)
            case ["ipxe", *rest] | rest:
                return self._loader(rest)
        raise AssertionError("the last pattern matches everything")

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

    def script(self, asker: Asker) -> Found:
        """The iPXE script for the machine with these MAC addresses; the unknown machine's when no node owns one."""
        node, macs = self.node_by_macs(asker.macs)
        asker = Asker(asker.base_url, macs, self.api_url(asker.base_url))
        if node is None:
            return Found("boot/ipxe", render.unknown_ipxe(asker))
        if not self.may_boot(node, macs):
            return Found("boot/ipxe", render.disk_ipxe(node), node.uuid)
        return Found("boot/ipxe", self._ipxe(node, asker), node.uuid)

    def _ipxe(self, node: Node, asker: Asker) -> str:
        if credentials.wants_ramdisk(node) or instance.KEY not in node.driver_internal_info:
            return render.node_ipxe(node, asker, self._kernel_parameters)
        try:
            return instance.ipxe(node, asker, self._kernel_parameters)
        except Invalid as error:
            return render.refused_ipxe(str(error))

    def _configuration(self, file: str, asker: Asker) -> Found:
        kind = file.lower()
        node, asker = self._named(kind.removeprefix("01-"), file, asker)
        if not kind.startswith("01-"):
            found = self.script(asker)
            return Found(f"pxelinux.cfg/{kind}", found.content, node.uuid)
        return self._rendered(f"pxelinux.cfg/{kind}", render.pxelinux, node, asker)

    def _grub(self, file: str, asker: Asker) -> Found:
        node, asker = self._named(file.removeprefix(_GRUB), file, asker)
        return self._rendered(file, render.grub, node, asker)

    def _named(self, text: str, file: str, asker: Asker) -> tuple[Node, Asker]:
        """The node whose MAC address stands in a file's name."""
        mac = render.parse_mac(text)
        node = self._directory.node_by_mac(mac) if mac else None
        if mac is None or node is None:
            raise NotFound(f"No node has a boot configuration named {file}.")
        return node, Asker(asker.base_url, (mac,), self.api_url(asker.base_url))

    def _rendered(self, name: str, how: Callable[[Node, Asker, str], str], node: Node, asker: Asker) -> Found:
        if instance.KEY in node.driver_internal_info and not credentials.wants_ramdisk(node):
            raise NotFound(f"The instance of node {node.label} boots from the network by iPXE alone.")
        try:
            return Found(name, how(node, asker, self._kernel_parameters), node.uuid)
        except Invalid as error:
            raise NotFound(str(error)) from error

    def _loader(self, parts: Sequence[str]) -> Found:
        name = "/".join(parts)
        if not 1 <= len(parts) <= 2 or not all(map(_COMPONENT.fullmatch, parts)) or not name.endswith(_LOADERS):
            raise NotFound("There is no such boot file.")
        return Found(name, self.ipxe_dir.joinpath(*parts))


def ramdisk_dir(settings: Settings) -> Path:
    """Where the ramdisk's `kernel` and `initramfs` lie."""
    return Path(settings.boot.ramdisk_dir) if settings.boot.ramdisk_dir else Path(settings.state_dir) / "ramdisk"


def open_regular(path: Path) -> tuple[BufferedReader, os.stat_result]:
    """Open a regular file.

    Raises:
        NotFound: there is none, it cannot be read, or it is something else than a file.
    """
    try:
        # O_NONBLOCK: a FIFO in the place of a file must not hang the thread that opens it.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError:
        raise NotFound("There is no such boot file.") from None
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode):
        file.close()
        raise NotFound("There is no such boot file.")
    return file, facts
