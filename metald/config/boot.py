"""The sections `boot` and `dhcp`: what machines load over the network, and how they get addresses."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from metald.config.base import Duration, Positive, Seconds, Section

_LOADERS = (
    "pxelinux.0:/usr/lib/PXELINUX/pxelinux.0",
    "ldlinux.c32:/usr/lib/syslinux/modules/bios/ldlinux.c32",
    "bootx64.efi:/usr/lib/shim/shimx64.efi.signed",
    "grubx64.efi:/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
    "bootaa64.efi:/usr/lib/shim/shimaa64.efi.signed",
    "grubaa64.efi:/usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed",
)
"""Where Debian's packages have them."""


class Boot(Section, frozen=True):
    """The boot servers: what machines load over the network."""

    tftp_listen: Annotated[str, Meta(description="Address and port of the TFTP server. Empty: off.")] = ""
    http_listen: Annotated[str, Meta(description="Address and port of the boot HTTP server, `192.0.2.1:6386`. Empty: off.")] = ""
    http_url: Annotated[str, Meta(description="URL of the boot HTTP server as machines reach it; by default made of the address.")] = ""
    tftp_address: Annotated[str, Meta(description="IP address of the TFTP server as machines reach it; by default the listen address.")] = (
        ""
    )
    address6: Annotated[
        str,
        Meta(
            description="IPv6 address of the boot servers as machines reach it, for DHCPv6 (provider `dnsmasq`); by default the one that "
            "they listen on."
        ),
    ] = ""
    ramdisk_dir: Annotated[
        str, Meta(description="Where `kernel` and `initramfs` of the SSH ramdisk are; by default `ramdisk` below the state directory.")
    ] = ""
    ipxe_dir: Annotated[str, Meta(description="Where the iPXE binaries are (Debian's package `ipxe`).")] = "/usr/lib/ipxe"
    loader_file_paths: Annotated[
        list[str],
        Meta(
            description="Boot loaders that are not iPXE, each as NAME:/PATH: PXELINUX for BIOS (boot interface `pxe`), shim and GRUB for "
            "UEFI (`pxe`, `http`). By default where Debian's packages pxelinux, syslinux-common, shim-signed, grub-efi-*-signed have them."
        ),
    ] = msgspec.field(default_factory=lambda: list(_LOADERS))
    http_boot: Annotated[
        Literal["image", "loader"],
        Meta(
            description="What boot interface `http` has the firmware load. `image`: one small disk image with shim, GRUB, kernel and "
            "initramfs, made for the node. `loader`: shim, which loads GRUB, which loads the rest: for a GRUB with the module `http`."
        ),
    ] = "image"
    check_clients: Annotated[
        bool,
        Meta(
            description="Refuse a node's boot script and files to machines on the same wire whose MAC address (by the kernel's neighbour "
            "table) is none of the node's ports. Turn it off where another address answers for all (proxy ARP)."
        ),
    ] = True
    open_ramdisk: Annotated[
        bool,
        Meta(description="Serve `ramdisk/kernel` and `ramdisk/initramfs` to every machine, for boot configurations of your own."),
    ] = False
    cache_size: Annotated[
        Positive,
        Meta(
            description="Bytes of kernels, ramdisks and ISO images of other servers that are kept (`boot-files` in the state directory). "
            "The least recently used goes first."
        ),
    ] = 8 << 30
    kernel_append_params: Annotated[str, Meta(description="Kernel parameters for every ramdisk.")] = "nofb vga=normal console=ttyS0"
    http_workers: Annotated[
        int,
        Meta(
            ge=0,
            description="Processes that have the boot HTTP server's connections and send its files, beside the daemon; 0: it does that "
            "itself. One for each processor that bulk data may take.",
        ),
    ] = 0
    http_fronts: Annotated[
        list[str],
        Meta(
            description="Addresses or networks of proxies in front of the boot HTTP server, which are believed what they say of machines "
            "(X-Real-IP, X-Forwarded-For, X-Forwarded-Proto)."
        ),
    ] = msgspec.field(default_factory=list)
    http_accel: Annotated[
        str,
        Meta(
            description="Path of an internal location that such a proxy (nginx) serves this host's files from, such as `/metald-files`: "
            "files are then named to it (X-Accel-Redirect) and not sent by metald. Empty: off."
        ),
    ] = ""
    quiet_time: Annotated[
        Duration,
        Meta(
            description="Seconds without a sign of a machine that was started to boot from the network, after which the boot doctor says "
            "where it stopped; half of them while it loads, twice as many once it has its kernel."
        ),
    ] = 180.0
    http_connections: Annotated[Positive, Meta(description="Most connections that boot HTTP serves at once; others wait.")] = 4096
    http_stall_timeout: Annotated[
        Seconds, Meta(description="Seconds that a client may take for its request, or for 4 MiB of an answer, before it is cut off.")
    ] = 60.0
    http_bandwidth: Annotated[
        int,
        Meta(ge=0, description="Bytes a second that the boot HTTP server sends of files and images, all machines together; 0: no limit."),
    ] = 0
    http_bandwidth_per_client: Annotated[
        int, Meta(ge=0, description="Bytes a second that the boot HTTP server sends of files and images to one machine; 0: no limit.")
    ] = 0
    http_tls_certificate: Annotated[
        str, Meta(description="PEM file with the boot HTTP server's certificate and its chain; with it, it speaks HTTPS alone.")
    ] = ""
    http_tls_key: Annotated[str, Meta(description="PEM file with that certificate's private key.")] = ""
    tftp_transfers: Annotated[Positive, Meta(description="Most TFTP transfers at once; more wait for the clients' next try.")] = 2000
    tftp_transfers_per_client: Annotated[Positive, Meta(description="Most TFTP transfers at once to one address.")] = 256
    tftp_window: Annotated[Positive, Meta(description="Most blocks in flight to one TFTP client (windowsize).")] = 64
    tftp_single_port: Annotated[
        bool, Meta(description="Answer TFTP from the port that was asked, for address translation and firewalls that do not know TFTP.")
    ] = False
    tftp_bandwidth: Annotated[int, Meta(ge=0, description="Bytes a second that TFTP sends, all machines together; 0: no limit.")] = 0
    tftp_bandwidth_per_client: Annotated[int, Meta(ge=0, description="Bytes a second that TFTP sends to one machine; 0: no limit.")] = 0


class Dhcp(Section, frozen=True):
    """How machines get addresses."""

    provider: Annotated[
        Literal["none", "dnsmasq", "proxy", "lease"],
        Meta(
            description="`none`: somebody else's DHCP. `dnsmasq`: host and option files. `proxy`: tell machines their boot file beside "
            "another DHCP server that knows nothing of it. `lease`: hand out addresses too, where no other server does."
        ),
    ] = "none"
    interfaces: Annotated[list[str], Meta(description="Network interfaces on which `proxy` and `lease` answer.")] = msgspec.field(
        default_factory=list
    )
    ranges: Annotated[
        list[str],
        Meta(description="Addresses that `lease` hands out, one range for each network: `10.0.0.50-10.0.0.250/24 via 10.0.0.1`."),
    ] = msgspec.field(default_factory=list)
    lease_time: Annotated[int, Meta(ge=60, description="Seconds of a lease.")] = 3600
    dns: Annotated[list[str], Meta(description="IPv4 addresses of name servers that come with a lease.")] = msgspec.field(
        default_factory=list
    )
    answer_unknown: Annotated[
        bool, Meta(description="Let `proxy` and `lease` answer machines whose MAC address is no port's too, as auto-discovery needs.")
    ] = False
    watch: Annotated[
        list[str],
        Meta(
            description="Network interfaces on which DHCP between machines and other servers is overheard, for the boot doctor. "
            "Needs the capability CAP_NET_RAW. Empty: those of `interfaces` beside `proxy` and `lease`, where metald may."
        ),
    ] = msgspec.field(default_factory=list)
    dnsmasq_hostsdir: Annotated[str, Meta(description="The directory dnsmasq was given as `--dhcp-hostsdir`.")] = ""
    dnsmasq_optsdir: Annotated[str, Meta(description="The directory dnsmasq was given as `--dhcp-optsdir`.")] = ""
    dnsmasq_leases: Annotated[str, Meta(description="dnsmasq's lease file, to learn the addresses machines got.")] = ""
    ipxe_script: Annotated[Literal["http", "tftp"], Meta(description="How iPXE fetches its first script.")] = "http"
