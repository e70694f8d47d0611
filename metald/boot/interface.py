"""The boot interfaces that load over the network: `ipxe`, `http-ipxe`, `pxe` and `http` (see `loaders.py` for what each loads).

They write no boot file. Preparing the ramdisk means that the node has the credentials of a boot, from which configurations are
rendered when the machine asks; cleaning up means that it has them no more and boots from its disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metald.boot import credentials, instance, loaders
from metald.boot.dhcp import DhcpProvider
from metald.boot.files import RAMDISK_FILES, ramdisk_dir
from metald.boot.fills import Fills
from metald.boot.render import is_boot_url, kernel_parameters
from metald.config import Settings
from metald.drivers.base import Boot, NodeContext, StepContext, booter
from metald.drivers.boot_mode import requested_boot_mode, wants_secure_boot
from metald.errors import Invalid, Unsupported
from metald.model import BootMode, Node

_MEMO = "boot_credentials"
_PASSING = frozenset({"clean", "inspect"})
"""Purposes after which the machine has nothing to do on the network. After others an instance lives there."""


class NetworkBoot(Boot):
    """What they have in common."""

    inspects = True
    boots_instances = True
    needs_tftp: ClassVar[bool] = False
    """Whether every loader of it comes by TFTP."""
    signed: ClassVar[bool] = False
    """Whether its loaders are signed, so that machines with secure boot run them."""
    patient: ClassVar[bool] = True
    """Whether machines can load a file that is still on its way here from another server."""
    boots_isos: ClassVar[bool] = True
    """Whether a loader of it boots ISO images."""

    def __init__(self, settings: Settings, dhcp: DhcpProvider, fills: Fills) -> None:
        self._dhcp = dhcp
        self._fills = fills
        self._ramdisk = ramdisk_dir(settings)
        self._kernel_parameters = settings.boot.kernel_append_params
        self._agent = settings.agent
        self._serving = bool(settings.boot.http_listen)
        self._serving_tftp = bool(settings.boot.tftp_listen or settings.boot.tftp_address)
        self._loaders = loaders.read_paths(settings.boot.loader_file_paths)
        self._isos = self.boots_isos and (self.name != "http" or settings.boot.http_boot == "image")

    def properties(self) -> Mapping[str, str]:
        """The driver_info keys it reads."""
        return {"kernel_append_params": "Kernel parameters of the ramdisk; %default% stands for the setting. Optional."}

    async def validate(self, ctx: NodeContext) -> None:
        """A port that boots from the network, a ramdisk, loaders, and kernel parameters that can stand in a configuration."""
        if not any(port.pxe_enabled for port in ctx.ports):
            raise Invalid(
                f"Node {ctx.node.label} has no port that boots from the network.",
                remedy="Create one: baremetal port create MAC --node UUID.",
            )
        self._check_servers(ctx.node)
        self._check_firmware(ctx.node)
        kernel_parameters(ctx.node, self._kernel_parameters)
        if ctx.deploy.agent and self._agent_files(ctx.node)["kernel"]:
            return
        missing = [file for file in RAMDISK_FILES if not (self._ramdisk / file).is_file()]
        if missing:
            raise Invalid(
                f"There is no ramdisk to boot: {self._ramdisk} lacks {' and '.join(missing)}.",
                remedy="Build it: metald ramdisk build.",
            )

    def _check_servers(self, node: Node) -> None:
        if not self._serving:
            raise Invalid(
                "The boot HTTP server is off, so no machine can boot from the network.",
                remedy="Set boot.http_listen to an address that machines reach.",
            )
        if self.needs_tftp and not self._serving_tftp:
            raise Invalid(
                f"Node {node.label}: boot interface {self.name} loads by TFTP, and there is no TFTP server.",
                remedy="Set boot.tftp_listen, or boot_interface to http.",
                field="boot_interface",
            )

    def _check_firmware(self, node: Node) -> None:
        """Whether the node's firmware, as far as somebody said what it is, can do what this interface needs."""
        if not self.signed and wants_secure_boot(node):
            raise Invalid(
                f"Node {node.label}: machines with secure boot do not run iPXE, which boot interface {self.name} loads: it is not signed.",
                remedy="Set boot_interface to pxe or http, whose loaders are signed, or secure_boot of its capabilities to false.",
                field="boot_interface",
            )

    def _needs_uefi(self, node: Node) -> None:
        if requested_boot_mode(node) is BootMode.BIOS:
            raise Invalid(
                f"Node {node.label}: boot interface {self.name} needs UEFI firmware, and the node's boot mode is bios.",
                remedy="Set boot_interface to ipxe or pxe, or boot_mode of its capabilities to uefi.",
                field="boot_interface",
            )

    def _needs_files(self, node: Node, *names: str) -> None:
        for name in names:
            path = self._loaders.get(name)
            if path is None or not path.is_file():
                raise Invalid(
                    f"Node {node.label}: boot interface {self.name} loads {name}, and there is no file {path or 'for it'}.",
                    remedy="Install it (Debian: pxelinux, syslinux-common; shim-signed, grub-efi-amd64-signed), "
                    "or set boot.loader_file_paths.",
                    field="boot_interface",
                )

    def check_instance(self, ctx: NodeContext) -> None:
        """See Boot.

        Raises:
            Unsupported: an ISO image, which neither PXELINUX nor GRUB boots.
        """
        wanted = ctx.deploy.instance_boot(ctx.node) or {}
        instance.checked(ctx.node, wanted)
        if wanted.get("kind") == "iso" and not self._isos:
            ways = "boot.http_boot to image" if self.boots_isos else "boot_interface to ipxe or http"
            raise Unsupported(
                f"Node {ctx.node.label}: the loaders of boot interface {self.name} boot no ISO image.",
                remedy=f"Set {ways}.",
                field="instance_info/boot_iso",
            )

    async def prepare_ramdisk(self, ctx: StepContext, purpose: str) -> None:
        """Give the node credentials of a boot, have its files here, and tell the DHCP server of its ports. Durable when it returns.

        Credentials that this workflow made before for the same purpose stay, for a ramdisk may be on its way with them.
        """
        info = ctx.node.driver_internal_info
        if not (credentials.wants_ramdisk(ctx.node) and ctx.memo.get(_MEMO) == _fingerprint(info)) or info.get("boot_purpose") != purpose:
            info = {**credentials.clear(info), **credentials.new_credentials(purpose)}
            if booter(ctx, purpose).agent:
                info["boot_agent"] = self._agent_files(ctx.node)
            ctx.set(driver_internal_info=info)
            ctx.memo[_MEMO] = _fingerprint(info)
            await ctx.checkpoint()
        await self._fetch(*(ctx.node.driver_internal_info.get("boot_agent") or {}).values())
        await self._dhcp.bind(ctx.node, ctx.ports)

    async def _fetch(self, *urls: str) -> None:
        """Begin to fetch what lies on other servers, so that a wrong URL is found before the machine is started.

        Raises:
            ImageError: one of them cannot be had.
        """
        for url in urls:
            if url.startswith(("http:", "https:")):
                fill = await self._fills.open(url)
                if not self.patient:
                    await fill.finished()

    def _agent_files(self, node: Node) -> dict[str, str]:
        """URLs of the kernel and the ramdisk with the agent; empty where they are those of `boot.ramdisk_dir`.

        Raises:
            Invalid: one of them is missing or no URL that a boot script may hold.
        """
        found = {}
        for name, default in (("kernel", self._agent.deploy_kernel), ("ramdisk", self._agent.deploy_ramdisk)):
            field = f"deploy_{name}"
            url = node.driver_info.get(field) or default or ""
            if url and not (isinstance(url, str) and is_boot_url(url)):
                raise Invalid(
                    f"Node {node.label}: driver_info/{field} cannot be loaded.",
                    remedy="Write a plain http, https or file URL.",
                    field=f"driver_info/{field}",
                )
            found[name] = url
        if bool(found["kernel"]) != bool(found["ramdisk"]):
            lacks = "ramdisk" if found["kernel"] else "kernel"
            raise Invalid(
                f"Node {node.label}: it has a deploy kernel or ramdisk, but not both.",
                remedy=f"Set driver_info/deploy_{lacks}.",
                field=f"driver_info/deploy_{lacks}",
            )
        return found

    async def clean_up_ramdisk(self, ctx: StepContext) -> None:
        """Take the credentials away. The DHCP entries go too, unless an instance needs its address."""
        purpose = ctx.node.driver_internal_info.get("boot_purpose")
        self._forget(ctx)
        if purpose in _PASSING:
            await self._dhcp.release(ctx.node, ctx.ports)

    async def prepare_instance(self, ctx: StepContext) -> None:
        """A network boot from now on leads to the disk, or to what the deploy interface says that the instance boots."""
        self._forget(ctx)
        wanted = ctx.deploy.instance_boot(ctx.node, ctx)
        info = ctx.node.driver_internal_info
        told = instance.with_instance(info, instance.checked(ctx.node, wanted) if wanted is not None else None)
        if told != info:
            ctx.set(driver_internal_info=told)
        if wanted is not None:
            ours = ("kernel", "ramdisk") if self.patient else ("kernel", "ramdisk", "iso")  # iPXE fetches an ISO image from where it is
            await self._fetch(*(url for part, url in wanted.items() if part in ours))
            await self._dhcp.bind(ctx.node, ctx.ports)

    async def clean_up_instance(self, ctx: StepContext) -> None:
        """The instance is gone: no credentials, nothing to boot, no addresses."""
        self._forget(ctx)
        info = ctx.node.driver_internal_info
        if instance.KEY in info:
            ctx.set(driver_internal_info=instance.with_instance(info, None))
        await self._dhcp.release(ctx.node, ctx.ports)

    @staticmethod
    def _forget(ctx: StepContext) -> None:
        info = ctx.node.driver_internal_info
        cleared = credentials.clear(info)
        if cleared != info:
            ctx.set(driver_internal_info=cleared)
        ctx.memo.pop(_MEMO, None)


def _fingerprint(info: Mapping[str, object]) -> object:
    """What names the credentials in the workflow's memo without being one of them."""
    return info.get("boot_client_public_key")


class IpxeBoot(NetworkBoot):
    """iPXE, which firmware loads by TFTP or by HTTP unless the card holds it; the rest by HTTP."""

    name = "ipxe"


class HttpIpxeBoot(NetworkBoot):
    """iPXE, which UEFI firmware loads by HTTP; nothing by TFTP."""

    name = "http-ipxe"

    def _check_firmware(self, node: Node) -> None:
        super()._check_firmware(node)
        self._needs_uefi(node)


class PxeBoot(NetworkBoot):
    """PXELINUX for BIOS, shim and GRUB for UEFI: everything by TFTP."""

    name = "pxe"
    needs_tftp = True
    signed = True
    patient = False
    boots_isos = False

    def _check_firmware(self, node: Node) -> None:
        super()._check_firmware(node)
        mode = requested_boot_mode(node)
        if mode is BootMode.BIOS:
            self._needs_files(node, "pxelinux.0", "ldlinux.c32")
        elif mode is BootMode.UEFI:
            self._needs_files(node, *_uefi_names(node))


class HttpBoot(NetworkBoot):
    """UEFI HTTP boot without iPXE: an image with shim and GRUB, or both file by file (`boot.http_boot`)."""

    name = "http"
    signed = True
    patient = False

    def _check_firmware(self, node: Node) -> None:
        super()._check_firmware(node)
        self._needs_uefi(node)
        self._needs_files(node, *_uefi_names(node))


def _uefi_names(node: Node) -> tuple[str, str]:
    """shim and GRUB of the node's processor."""
    family: loaders.Family = "arm64" if node.properties.get("cpu_arch") in ("aarch64", "arm64") else "x86_64"
    return loaders.SIGNED[family], loaders.GRUB[family]
