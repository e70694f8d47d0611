"""dnsmasq as the DHCP server, told by files in its `--dhcp-hostsdir` and `--dhcp-optsdir`, without restarts.

    hostsdir/ironic-<MAC>.conf     MAC,set:<tag>,set:ironic      or, when released,      MAC,ignore
    optsdir/ironic-<node>.conf     tag:<tag>,...,<option number>,<value>

dnsmasq (2.90) takes a file when it is closed after writing or renamed into the directory, and passes over names that
begin with a dot; so a file is written under such a name and renamed. It never forgets an option it has read until it
is restarted: the tag therefore holds a digest of the options, which makes options that changed come with a new tag
and leaves the old ones without a host; and a file whose text is right already is left alone. Deleting a file has no
effect on dnsmasq, which is why a released port is `ignore`d and options stay.

dnsmasq must be given `dhcp-match=set:ipxe,175`, and to boot UEFI machines `dhcp-match=set:efi,option:client-arch,7`
and the same with 9 (and `set:efi-arm64` with 11).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from metald.boot.dhcp import lease_file
from metald.boot.dhcp.machine import BIOS_LOADER, EFI_ARM64_LOADER, EFI_LOADER
from metald.boot.listen import parse_listen, url_host
from metald.boot.render import check_base_url
from metald.config import ConfigError, Settings
from metald.errors import WorldError
from metald.model import Node, Port

_T = TypeVar("_T")
_MAX_VALUE = 64
_DEADLINE = 30.0
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound


class DnsmasqDhcp:
    """Writes host and option files.

    Raises:
        ConfigError: directories or addresses that it needs are not set.
    """

    def __init__(self, settings: Settings) -> None:
        dhcp = settings.dhcp
        if not dhcp.dnsmasq_hostsdir or not dhcp.dnsmasq_optsdir:
            raise ConfigError("dhcp.provider dnsmasq needs dhcp.dnsmasq_hostsdir and dhcp.dnsmasq_optsdir.")
        self._hosts = Path(dhcp.dnsmasq_hostsdir)
        self._options_dir = Path(dhcp.dnsmasq_optsdir)
        self._leases = Path(dhcp.dnsmasq_leases) if dhcp.dnsmasq_leases else None
        self._options = _options(settings)

    async def bind(self, node: Node, ports: Sequence[Port]) -> None:
        """Write the node's options, then its hosts: a host must not be known before its options are."""
        tag = self._tag(node)
        macs = [port.address for port in ports if port.pxe_enabled]
        await self._files(self._bind, node, tag, macs)

    async def release(self, node: Node, ports: Sequence[Port]) -> None:  # noqa: ARG002
        """Have dnsmasq ignore the ports' hosts. A port that was never bound is left alone."""
        await self._files(self._release, [port.address for port in ports])

    async def addresses(self, ports: Sequence[Port]) -> dict[str, str]:
        """What the lease file says."""
        if self._leases is None:
            return {}
        found = await self._files(lease_file.read, self._leases)
        return {port.address: found[port.address].address for port in ports if port.address in found}

    def _tag(self, node: Node) -> str:
        digest = hashlib.sha256("\n".join(self._options).encode()).hexdigest()
        return f"{node.uuid}-{digest[:8]}"

    def _bind(self, node: Node, tag: str, macs: Sequence[str]) -> None:
        text = "".join(f"tag:{tag},{option}\n" for option in self._options)
        _write(self._options_dir / f"ironic-{node.uuid}.conf", text)
        for mac in macs:
            _write(self._host(mac), f"{mac},set:{tag},set:ironic\n")

    def _release(self, macs: Sequence[str]) -> None:
        for mac in macs:
            if self._host(mac).exists():
                _write(self._host(mac), f"{mac},ignore\n")

    def _host(self, mac: str) -> Path:
        return self._hosts / f"ironic-{mac}.conf"

    async def _files(self, work: Callable[..., _T], *args: object) -> _T:
        try:
            async with asyncio.timeout(_DEADLINE):
                return await asyncio.to_thread(work, *args)
        except (OSError, TimeoutError) as error:
            raise WorldError(
                f"dnsmasq's files cannot be used: {error}.",
                remedy="See that dhcp.dnsmasq_hostsdir, dnsmasq_optsdir and dnsmasq_leases exist and metald may use them.",
            ) from error


def _options(settings: Settings) -> list[str]:
    """The options of every node, each without its node's tag."""
    tftp = _tftp_address(settings)
    script = "boot.ipxe" if settings.dhcp.ipxe_script == "tftp" else f"{_http_url(settings, tftp)}/boot.ipxe"
    options = [f"tag:ipxe,67,{script}", "tag:ipxe,encap:175,176,1b"]
    if tftp:
        options += [
            f"tag:!ipxe,tag:!efi,tag:!efi-arm64,67,{BIOS_LOADER}",
            f"tag:!ipxe,tag:efi,67,{EFI_LOADER}",
            f"tag:!ipxe,tag:efi-arm64,67,{EFI_ARM64_LOADER}",
            f"66,{tftp}",
            f"150,{tftp}",
            f"255,{tftp}",
        ]
    for option in options:
        if len(option.rpartition(",")[2]) > _MAX_VALUE:
            raise ConfigError(f"The DHCP option {option} is longer than {_MAX_VALUE} characters; set a shorter boot.http_url.")
    return options


def _tftp_address(settings: Settings) -> str:
    """The TFTP server's IPv4 address as machines reach it; empty when there is none."""
    boot = settings.boot
    found = boot.tftp_address or next((host for host, _ in parse_listen(boot.tftp_listen, "boot.tftp_listen")), "")
    if found in _ANYWHERE:
        raise ConfigError("dhcp.provider dnsmasq must know where machines reach the TFTP server: set boot.tftp_address.")
    if not found and settings.dhcp.ipxe_script == "tftp":
        raise ConfigError("dhcp.ipxe_script is tftp, but there is no TFTP server: set boot.tftp_listen or boot.tftp_address.")
    return found


def _http_url(settings: Settings, tftp: str) -> str:
    boot = settings.boot
    if boot.http_url:
        return check_base_url(boot.http_url)
    host, port = next(iter(parse_listen(boot.http_listen, "boot.http_listen")), ("", 0))
    host = tftp if host in _ANYWHERE else host
    if not host:
        raise ConfigError("dhcp.provider dnsmasq must know where machines reach the boot HTTP server: set boot.http_url.")
    return f"{'https' if boot.http_tls_certificate else 'http'}://{url_host(host)}:{port}"


def _write(path: Path, text: str) -> None:
    """Give a file a new text in one step, unless it has it."""
    try:
        if path.read_text() == text:
            return
    except FileNotFoundError:
        pass
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text)
    # dnsmasq gives up root after its start, and reads the file as somebody else.
    draft.chmod(0o644)
    draft.replace(path)
