"""dnsmasq as the DHCP server, told by files in its `--dhcp-hostsdir` and `--dhcp-optsdir`, without restarts.

    hostsdir/ironic-<MAC>.conf     MAC,set:<tag>,set:ironic      or, when released,      MAC,ignore
    optsdir/ironic-<node>.conf     tag:<tag>,...,<option number>,<value>

dnsmasq (2.90) takes a file when it is closed after writing or renamed into the directory, and passes over names that
begin with a dot; so a file is written under such a name and renamed. It never forgets an option it has read until it
is restarted: the tag therefore holds a digest of the options, which makes options that changed come with a new tag
and leaves the old ones without a host; and a file whose text is right already is left alone. Deleting a file has no
effect on dnsmasq, which is why a released port is `ignore`d and options stay.

Which machine asks, dnsmasq says by tags that its own configuration sets: `ipxe`, `efi`, `efi-arm64`, `efi-http`,
`efi-arm64-http`, and the same with a 6 for DHCPv6 (docs/explanation/boot.md has the lines). A machine for which none is set is a BIOS.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from metald.boot import loaders
from metald.boot.dhcp import lease_file
from metald.boot.files import image_name
from metald.boot.listen import parse_listen, url_host
from metald.boot.render import check_base_url
from metald.config import ConfigError, Settings
from metald.errors import WorldError
from metald.model import Node, Port

_T = TypeVar("_T")
_MAX_VALUE = 127
"""The boot file's field has 128 bytes, with a zero at the end."""
_DEADLINE = 30.0
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound
_Who = tuple[loaders.Firmware, loaders.Family, str]
_WHO: tuple[_Who, ...] = (
    ("ipxe", "bios", "tag:ipxe,tag:!efi,tag:!efi-arm64"),
    ("ipxe", "x86_64", "tag:ipxe,tag:efi"),
    ("ipxe", "arm64", "tag:ipxe,tag:efi-arm64"),
    ("pxe", "bios", "tag:!ipxe,tag:!efi,tag:!efi-arm64,tag:!efi-http,tag:!efi-arm64-http"),
    ("pxe", "x86_64", "tag:!ipxe,tag:efi"),
    ("pxe", "arm64", "tag:!ipxe,tag:efi-arm64"),
    ("http", "x86_64", "tag:!ipxe,tag:efi-http"),
    ("http", "arm64", "tag:!ipxe,tag:efi-arm64-http"),
)
"""Firmware, what its loader is built for, and dnsmasq's tags for it."""
_WHO6: tuple[_Who, ...] = (
    ("ipxe", "bios", "tag:ipxe6,tag:!efi6,tag:!efi6-arm64"),
    ("ipxe", "x86_64", "tag:ipxe6,tag:efi6"),
    ("ipxe", "arm64", "tag:ipxe6,tag:efi6-arm64"),
    ("pxe", "x86_64", "tag:!ipxe6,tag:efi6"),
    ("pxe", "arm64", "tag:!ipxe6,tag:efi6-arm64"),
    ("http", "x86_64", "tag:!ipxe6,tag:efi6-http"),
    ("http", "arm64", "tag:!ipxe6,tag:efi6-arm64-http"),
)
_HTTP_CLIENT6 = (343).to_bytes(4, "big").hex(":") + ":00:0a:" + b"HTTPClient".hex(":")
"""DHCPv6's vendor class: Intel's number, as UEFI sends it, and the class with its length (RFC 8415 section 21.16)."""


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
        self._tftp = _tftp_address(settings)
        self._http = _http_url(settings, self._tftp)
        self._script = "boot.ipxe" if settings.dhcp.ipxe_script == "tftp" else f"{self._http}/boot.ipxe"
        self._tftp6, self._http6 = _over_ipv6(settings)
        self._image = settings.boot.http_boot == "image"
        for value in (self._script, f"{self._http}/uefi/00-00-00-00-00-00/boot.img"):
            if len(value) > _MAX_VALUE:
                raise ConfigError(f"The boot file {value} is longer than {_MAX_VALUE} characters; set a shorter boot.http_url.")

    async def bind(self, node: Node, ports: Sequence[Port]) -> None:
        """Write the node's options, then its hosts: a host must not be known before its options are."""
        macs = [port.address for port in ports if port.pxe_enabled]
        options = self._options(node, macs)
        digest = hashlib.sha256("\n".join(options).encode()).hexdigest()
        await self._files(self._bind, node, f"{node.uuid}-{digest[:8]}", options, macs)

    async def release(self, node: Node, ports: Sequence[Port]) -> None:  # noqa: ARG002
        """Have dnsmasq ignore the ports' hosts. A port that was never bound is left alone."""
        await self._files(self._release, [port.address for port in ports])

    async def addresses(self, ports: Sequence[Port]) -> dict[str, str]:
        """What the lease file says."""
        if self._leases is None:
            return {}
        found = await self._files(lease_file.read, self._leases)
        return {port.address: found[port.address].address for port in ports if port.address in found}

    def _options(self, node: Node, macs: Sequence[str]) -> list[str]:
        """The node's options, each without its tag."""
        options = []
        for firmware, tags, file in self._files_of(node, macs, _WHO, self._http, self._script):
            if firmware != "pxe" or self._tftp:
                options.append(f"{tags},67,{file}")
            if firmware == "http":
                # UEFI takes an answer without it for one that is not about HTTP boot.
                options.append(f"{tags},60,HTTPClient")
            elif tags == "tag:ipxe":
                options.append("tag:ipxe,encap:175,176,1b")
        if self._tftp:
            options += [f"66,{self._tftp}", f"150,{self._tftp}", f"255,{self._tftp}"]
        return options + self._options6(node, macs)

    def _options6(self, node: Node, macs: Sequence[str]) -> list[str]:
        """The same for DHCPv6, where the boot file is a URL always (RFC 5970 section 3.1)."""
        options = []
        if self._http6:
            for firmware, tags, file in self._files_of(node, macs, _WHO6, self._http6, f"{self._http6}/boot.ipxe"):
                url = file if "://" in file else f"tftp://{url_host(self._tftp6)}/{file}"
                if "://" in file or self._tftp6:
                    options.append(f"{tags},option6:59,{url}")
                if firmware == "http":
                    options.append(f"{tags},option6:16,{_HTTP_CLIENT6}")
        return options

    def _files_of(
        self, node: Node, macs: Sequence[str], who: Sequence[_Who], http: str, script: str
    ) -> Iterator[tuple[loaders.Firmware, str, str]]:
        """Firmware, dnsmasq's tags, and boot file."""
        for firmware, family, tags in who:
            first = loaders.first(node.boot_interface or "ipxe", firmware, family, image=self._image)
            if isinstance(first, str):
                continue
            if first.kind == "script":
                if family == "bios":
                    yield firmware, tags.split(",")[0], script  # iPXE's is the same for all
            elif first.kind == "tftp":
                yield firmware, tags, first.name
            else:
                image = image_name(node) if first.kind == "image" else ""
                name = f"uefi/{macs[0].replace(':', '-')}/{image}" if image and macs else first.name
                if name:
                    yield firmware, tags, f"{http}/{name}"

    def _bind(self, node: Node, tag: str, options: Sequence[str], macs: Sequence[str]) -> None:
        text = "".join(f"tag:{tag},{option}\n" for option in options)
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


def _tftp_address(settings: Settings) -> str:
    """The TFTP server's IPv4 address as machines reach it; empty when there is none."""
    boot = settings.boot
    found = boot.tftp_address or next((host for host, _ in parse_listen(boot.tftp_listen, "boot.tftp_listen") if ":" not in host), "")
    if found in _ANYWHERE:
        raise ConfigError("dhcp.provider dnsmasq must know where machines reach the TFTP server: set boot.tftp_address.")
    if not found and settings.dhcp.ipxe_script == "tftp":
        raise ConfigError("dhcp.ipxe_script is tftp, but there is no TFTP server: set boot.tftp_listen or boot.tftp_address.")
    return found


def _over_ipv6(settings: Settings) -> tuple[str, str]:
    """The TFTP server's IPv6 address and the boot HTTP server's URL over IPv6, as machines reach them; empty where there is none."""
    boot = settings.boot
    listens = [parse_listen(boot.tftp_listen, "boot.tftp_listen"), parse_listen(boot.http_listen, "boot.http_listen")]
    tftp, http = ([(host, port) for host, port in each if ":" in host] for each in listens)
    own = boot.address6
    tftp_host = next((own or host for host, _ in tftp if own or host != "::"), "")
    http_at = next(((own or host, port) for host, port in http if own or host != "::"), None)
    scheme = "https" if boot.http_tls_certificate else "http"
    return tftp_host, f"{scheme}://{url_host(http_at[0])}:{http_at[1]}" if http_at else ""


def _http_url(settings: Settings, tftp: str) -> str:
    boot = settings.boot
    if boot.http_url:
        return check_base_url(boot.http_url)
    host, port = next((each for each in parse_listen(boot.http_listen, "boot.http_listen") if ":" not in each[0]), ("", 0))
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
