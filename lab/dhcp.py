"""Who hands out addresses and boot files on a lab's wire, and how dnsmasq is told to.

Made so that machines do not wait: iPXE waits 18 s for router advertisements that never come, and for a second DHCP server
unless it is told that there is none; dnsmasq asks by ping whether an address is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal

Dhcp = Literal["dnsmasq", "boot-file", "addresses", "none"]
"""`dnsmasq`: told by metald's files. `boot-file`: knows nothing of metald but one boot file for each kind of firmware. `addresses`:
knows nothing of booting, so metald must tell beside it. `none`: metald is the only one."""

FIRST_LEASE, LAST_LEASE = 100, 250
_MATCHES = (
    "set:ipxe,175",
    "set:efi,option:client-arch,7",
    "set:efi,option:client-arch,9",
    "set:efi-arm64,option:client-arch,11",
    "set:efi-http,option:client-arch,16",
    "set:efi-http,option:client-arch,17",
    "set:efi-arm64-http,option:client-arch,19",
    # The same over IPv6 (RFC 5970): option 61 is the architecture, 15 the user class.
    "set:efi6,option6:61,00:07",
    "set:efi6,option6:61,00:09",
    "set:efi6-arm64,option6:61,00:0b",
    "set:efi6-http,option6:61,00:10",
    "set:efi6-arm64-http,option6:61,00:13",
)


@dataclass(frozen=True, slots=True)
class Wire:
    """What a bridged network is made of.

    Attributes:
        dhcp: who answers machines.
        boot_files: with `boot-file`, the file for each of `bios`, `efi`, `efi-http`, `ipxe`; `HTTP` in it stands for the URL of
            metald's boot HTTP server.
        ipv6: machines get IPv6 addresses too, and metald has one.
        vlan: machines are on access ports of this VLAN, which reaches this host tagged; 0: no VLANs.
        watched: metald overhears it.
    """

    dhcp: Dhcp = "dnsmasq"
    boot_files: Mapping[str, str] = field(default_factory=dict)
    ipv6: bool = False
    vlan: int = 0
    watched: bool = False


_TAGS = {
    "bios": "tag:!ipxe,tag:!efi,tag:!efi-http",
    "efi": "tag:!ipxe,tag:efi",
    "efi-http": "tag:!ipxe,tag:efi-http",
    "ipxe": "tag:ipxe",
}


def command(wire: Wire, network: IPv4Network, ula: str, directory: Path, log: Path, http: str, tftp: str) -> list[str]:
    """The command line of dnsmasq on the interface `bridge`.

    Args:
        ula: the wire's IPv6 prefix, such as `fd00:1:2:3:`.
        directory: has the folders `hosts` and `opts` and gets the file `leases`.
        http, tftp: metald's servers.
    """
    argv = ["dnsmasq", "--conf-file=/dev/null", "--keep-in-foreground", "--port=0", "--pid-file=", "--user=root", "--group=root"]
    argv += ["--interface=bridge", "--bind-interfaces", "--no-hosts", "--no-resolv"]
    argv += ["--dhcp-authoritative", "--no-ping", "--log-dhcp", f"--log-facility={log}", f"--dhcp-leasefile={directory / 'leases'}"]
    argv += [f"--dhcp-range={network[FIRST_LEASE]},{network[LAST_LEASE]},255.255.255.0,1h", "--enable-ra"]
    argv += [f"--dhcp-range={ula}:100,{ula}:1ff,slaac,64,1h" if wire.ipv6 else f"--dhcp-range={ula}:,ra-only"]
    argv += [f"--dhcp-match={match}" for match in _MATCHES] + ["--dhcp-userclass=set:ipxe6,iPXE"]
    match wire.dhcp:
        case "dnsmasq":
            argv += [f"--dhcp-hostsdir={directory / 'hosts'}", f"--dhcp-optsdir={directory / 'opts'}"]
            argv += ["--dhcp-option=encap:175,176,1b"]
        case "boot-file":
            argv += ["--dhcp-option-force=tag:efi-http,60,HTTPClient"]
            if "ipxe" in wire.boot_files:  # else iPXE needs whoever does tell it a file
                argv += ["--dhcp-option=encap:175,176,1b"]
            for kind, file in wire.boot_files.items():
                argv.append(f"--dhcp-boot={_TAGS[kind]},{file.replace('HTTP', http)},,{tftp}")
    return argv
