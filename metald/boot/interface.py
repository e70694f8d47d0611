"""The boot interface `ipxe`: machines load iPXE, iPXE loads what the node's state calls for.

It writes no boot file. Preparing the ramdisk means that the node has the credentials of a boot, from which scripts are
rendered when the machine asks; cleaning up means that it has them no more and boots from its disk.
"""

from __future__ import annotations

from collections.abc import Mapping

from metald.boot import credentials, instance
from metald.boot.dhcp import DhcpProvider
from metald.boot.files import RAMDISK_FILES, ramdisk_dir
from metald.boot.render import is_boot_url, kernel_parameters
from metald.config import Settings
from metald.drivers.base import Boot, NodeContext, StepContext, booter
from metald.errors import Invalid
from metald.model import Node

_MEMO = "boot_credentials"
_PASSING = frozenset({"clean", "inspect"})
"""Purposes after which the machine has nothing to do on the network. After others an instance lives there."""


class IpxeBoot(Boot):
    """Network boot by iPXE over HTTP."""

    name = "ipxe"
    inspects = True
    boots_instances = True

    def __init__(self, settings: Settings, dhcp: DhcpProvider) -> None:
        self._dhcp = dhcp
        self._ramdisk = ramdisk_dir(settings)
        self._kernel_parameters = settings.boot.kernel_append_params
        self._agent = settings.agent
        self._serving = bool(settings.boot.http_listen)

    def properties(self) -> Mapping[str, str]:
        """The driver_info keys it reads."""
        return {"kernel_append_params": "Kernel parameters of the ramdisk; %default% stands for the setting. Optional."}

    async def validate(self, ctx: NodeContext) -> None:
        """A port that boots from the network, a ramdisk, and kernel parameters that can stand in a script."""
        if not any(port.pxe_enabled for port in ctx.ports):
            raise Invalid(
                f"Node {ctx.node.label} has no port that boots from the network.",
                remedy="Create one: baremetal port create MAC --node UUID.",
            )
        if not self._serving:
            raise Invalid(
                "The boot HTTP server is off, so no machine can boot from the network.",
                remedy="Set boot.http_listen to an address that machines reach.",
            )
        kernel_parameters(ctx.node, self._kernel_parameters)
        if ctx.deploy.agent and self._agent_files(ctx.node)["kernel"]:
            return
        missing = [file for file in RAMDISK_FILES if not (self._ramdisk / file).is_file()]
        if missing:
            raise Invalid(
                f"There is no ramdisk to boot: {self._ramdisk} lacks {' and '.join(missing)}.",
                remedy="Build it: metald ramdisk build.",
            )

    def check_instance(self, ctx: NodeContext) -> None:
        """See Boot."""
        instance.checked(ctx.node, ctx.deploy.instance_boot(ctx.node) or {})

    async def prepare_ramdisk(self, ctx: StepContext, purpose: str) -> None:
        """Give the node credentials of a boot and the DHCP server its ports. Durable when it returns.

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
        await self._dhcp.bind(ctx.node, ctx.ports)

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


class PxeBoot(IpxeBoot):
    """The same under the name that clients give to network boot in general: plain PXE firmware is handed iPXE."""

    name = "pxe"
