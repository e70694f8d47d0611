"""The deploy interface `direct`: the Ironic Python Agent in the ramdisk writes the image and makes the disk bootable."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Any

from metald.drivers.agent import images
from metald.drivers.agent.base import CustomAgentDeploy
from metald.drivers.base import Done, NodeContext, Outcome, Phase, StepContext, step
from metald.drivers.boot_mode import requested_boot_mode
from metald.drivers.root_device import parse_hints, root_hints
from metald.errors import Invalid
from metald.images.cache import CachedImage
from metald.images.config_drive import build_config_drive, check_config_drive
from metald.model import BootDevice, BootMode, Node

IMAGE_TOKEN = "agent_image_token"  # noqa: S105  # the name of one
"""Where `driver_internal_info` has the secret of the image's URL (`boot/credentials.py`); it ends with the machine's power."""
IMAGE_KEY = "deploy_image"
"""Where `driver_internal_info` says which raw disk the ramdisk may fetch; `ImageCache.image_for` reads it."""


class AgentDeploy(CustomAgentDeploy):
    """See the module."""

    name = "direct"

    def properties(self) -> Mapping[str, str]:
        """The driver_info keys it reads."""
        return {**super().properties(), "image_download_source": "Where the agent gets images: http or local. Optional."}

    async def validate(self, ctx: NodeContext) -> None:
        """Image, checksum, root device hints and config drive can be used, as far as their words tell.

        Raises:
            Invalid: names the field and the remedy.
        """
        node = ctx.node
        images.is_local(node, self._settings, images.request(node, self._settings))
        if images.is_partition(node.instance_info):
            self._check_loader(node)
        parse_hints(root_hints(node), node.label)
        if node.instance_info.get("configdrive"):
            check_config_drive(node.instance_info["configdrive"], node.label)

    def _check_loader(self, node: Node) -> None:
        if requested_boot_mode(node) is BootMode.BIOS and not self._settings.agent.bios_bootloader:
            raise Invalid(
                f"Node {node.label}: agents install no boot loader for BIOS, which a partition image needs.",
                remedy="Use a whole-disk image, boot by UEFI, or set agent.bios_bootloader: programs of the image are run then.",
                field="instance_info/image_type",
            )

    async def prepare(self, ctx: StepContext) -> Outcome:
        """Bring the image into the cache when the agent is to get it from metald."""
        image = await self._image(ctx)
        return Done(f"The image is in the cache: {image.format}, {image.size} bytes." if image else "The agent fetches the image.")

    async def _image(self, ctx: StepContext) -> CachedImage | None:
        """The image in the cache, known to the boot server; None when the agent fetches it elsewhere."""
        node = ctx.node
        asked = images.request(node, self._settings)
        if not images.is_local(node, self._settings, asked):
            return None
        image = await self.images.fetch(asked, ctx.progress, holder=node.uuid)
        wanted = images.described(image)
        if node.driver_internal_info.get(IMAGE_KEY) != wanted:
            ctx.set(driver_internal_info={**node.driver_internal_info, IMAGE_KEY: wanted})
            await ctx.checkpoint()
        return image

    async def tear_down(self, ctx: StepContext) -> None:
        """Forget the instance: its hold on the image and its config drive."""
        info = ctx.node.driver_internal_info
        if IMAGE_KEY in info:
            ctx.set(driver_internal_info={key: value for key, value in info.items() if key != IMAGE_KEY})
        await self.images.release(ctx.node.uuid)

    # -- metald's own steps

    @step(Phase.DEPLOY, 80, requires_ramdisk=True)
    async def write_image(self, ctx: StepContext) -> Outcome:
        """Have the agent write the image and the config drive to the root disk."""
        return await self.guarded(ctx, lambda: self._write(ctx))

    async def _write(self, ctx: StepContext) -> Outcome:
        began = time.monotonic()
        image = await self._image(ctx)

        async def params() -> Mapping[str, Any]:
            node = ctx.node
            url = self._own_url(ctx, "image") if image is not None else ""
            info = images.image_info(node, images.request(node, self._settings), self._settings, image, url)
            given = node.instance_info.get("configdrive")
            return {"image_info": info, "configdrive": await self._config_drive(ctx, given) if given else None}

        # The agent finds the root device and the boot mode in the node that it was last told of, with its steps.
        command = await self.commands.carry_out(ctx, "standby.prepare_image", params, "standby.prepare_image")
        found = command.command_result
        said = str(found.get("result") or "") if isinstance(found, Mapping) else str(found or "")
        written = {"sha512": image.sha512, "bytes": image.size} if image else {"bytes": 0}
        ctx.note("image_written", disk=_device(said), seconds=round(time.monotonic() - began, 3), **written)
        return Done(said[:1000])

    def _own_url(self, ctx: StepContext, what: str) -> str:
        """The URL of what metald itself serves to this boot of the agent, whoever booted it."""
        info = ctx.node.driver_internal_info
        if not info.get(IMAGE_TOKEN):
            info = {**info, IMAGE_TOKEN: secrets.token_urlsafe(32)}
            ctx.set(driver_internal_info=info)
        return f"{images.own_url(self._settings, str(info.get('agent_url')))}/boot/{ctx.node.uuid}/{info[IMAGE_TOKEN]}/{what}"

    async def _config_drive(self, ctx: StepContext, given: str | Mapping[str, Any]) -> str:
        """The config drive as the agent takes it: packed, or the URL of a large one."""
        data = await build_config_drive(given, ctx.node)
        text = await asyncio.to_thread(images.packed, data)
        if len(text) <= images.INLINE or not self._settings.boot.http_listen:
            return text
        await self.images.store_config_drive(ctx.node.uuid, data)
        return self._own_url(ctx, "configdrive")

    @step(Phase.DEPLOY, 60, requires_ramdisk=True)
    async def prepare_instance_boot(self, ctx: StepContext) -> Outcome:
        """Have the agent make the disk bootable, and make the disk the machine's boot device."""
        return await self.guarded(ctx, lambda: self._bootable(ctx))

    async def _bootable(self, ctx: StepContext) -> Outcome:
        node = ctx.node
        mode = requested_boot_mode(node)
        partition, raid = images.is_partition(node.instance_info), _software_raid(node)
        detail = "boots by its own loader"
        if partition or raid or mode is BootMode.UEFI:
            found = await self.commands.ask(ctx, "standby.get_partition_uuids")
            root = (node.instance_info.get("image_rootfs_uuid") if raid else None) or found.get("root uuid")
            if root:
                ctx.set(driver_internal_info={**node.driver_internal_info, "root_uuid_or_disk_id": root})

            async def params() -> Mapping[str, Any]:
                return {
                    "root_uuid": root,
                    "efi_system_part_uuid": found.get("efi system partition uuid"),
                    "prep_boot_part_uuid": found.get("PReP Boot partition uuid"),
                    "target_boot_mode": (mode or BootMode.BIOS).value,
                }

            await self.commands.carry_out(ctx, "image.install_bootloader", params, "image.install_bootloader")
            detail = "boots by the loader that the agent installed"
        if BootDevice.DISK in ctx.management.supported_boot_devices(ctx):
            await ctx.management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
        return Done(detail)


def _software_raid(node: Node) -> bool:
    """Whether the root disk may be one that the agent made of others, each of which needs a loader of its own."""
    disks = node.target_raid_config.get("logical_disks")
    return any(isinstance(disk, Mapping) and disk.get("controller") == "software" for disk in disks or ())


def _device(said: str) -> str:
    """The disk in the agent's words `... written to device /dev/sda root_uuid=...`."""
    return said.partition("written to device ")[2].partition(" ")[0] or "the root disk"
