"""The deploy interface `bootc`: the agent runs a bootable container, which installs itself to the root disk."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from metald.drivers.agent import images
from metald.drivers.agent.base import CustomAgentDeploy
from metald.drivers.base import Done, NodeContext, Outcome, Phase, StepContext, step
from metald.drivers.root_device import parse_hints, root_hints
from metald.errors import Invalid
from metald.images.config_drive import check_config_drive
from metald.model import BootDevice

_COMMAND = "standby.execute_bootc_install"


class BootcDeploy(CustomAgentDeploy):
    """See the module."""

    name = "bootc"

    async def validate(self, ctx: NodeContext) -> None:
        """The image is a container, and root device hints and config drive can be used.

        Raises:
            Invalid: names the field and the remedy.
        """
        node = ctx.node
        source = node.instance_info.get("image_source")
        if not isinstance(source, str) or not source.startswith("oci://"):
            raise Invalid(
                f"Node {node.label}: deploy interface bootc installs containers only.",
                remedy="Set instance_info/image_source to oci://REGISTRY/NAME:TAG.",
                field="instance_info/image_source",
            )
        parse_hints(root_hints(node), node.label)
        if node.instance_info.get("configdrive"):
            check_config_drive(node.instance_info["configdrive"], node.label)

    @step(Phase.DEPLOY, 80, requires_ramdisk=True)
    async def execute_bootc_install(self, ctx: StepContext) -> Outcome:
        """Have the agent fetch the container and install it, with the config drive, to the root disk."""
        return await self.guarded(ctx, lambda: self._install(ctx))

    async def _install(self, ctx: StepContext) -> Outcome:
        info = ctx.node.instance_info

        async def params() -> Mapping[str, Any]:
            # As Ironic has it: a pull secret is the image service's password, and goes in base64.
            secret = info.get("image_pull_secret") or info.get("image_server_password")
            given = info.get("configdrive")
            return {
                "image_source": info["image_source"],
                "instance_info": {key: info[key] for key in ("bootc_authorized_keys", "bootc_tpm2_luks") if key in info},
                "pull_secret": base64.b64encode(str(secret).encode()).decode() if secret else None,
                "configdrive": await images.config_drive(given, ctx.node) if given else None,
            }

        await self.commands.carry_out(ctx, _COMMAND, params, _COMMAND)
        return Done("The container has installed itself.")

    @step(Phase.DEPLOY, 60, requires_ramdisk=True)
    async def set_boot_to_disk(self, ctx: StepContext) -> Outcome:
        """Make the disk the machine's boot device."""
        if BootDevice.DISK in ctx.management.supported_boot_devices(ctx):
            await ctx.management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
        return Done()
