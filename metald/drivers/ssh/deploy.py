"""The deploy interface `ssh`: metald drives a ramdisk over SSH, and the ramdisk pulls the image straight onto the disk.

Rules: a step looks before it acts. The writer in the ramdisk outlives the connection and metald itself, so that a disk is
written once; a step that is called again follows it. What was written is read back and compared. Nothing a client says
reaches the ramdisk but as a number, a digest or bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from metald.config import Settings
from metald.drivers.base import Deploy, Done, NodeContext, Outcome, Phase, StepContext, step
from metald.drivers.boot_mode import requested_boot_mode
from metald.drivers.root_device import Disk, choose, parse_hints, root_hints
from metald.drivers.ssh import efi
from metald.drivers.ssh.connection import Connections
from metald.drivers.ssh.erase import Eraser, identity, method_of
from metald.drivers.ssh.layout import Layout, drive_place, erase_ranges, read_layout
from metald.drivers.ssh.ramdisk import Ramdisk, WrittenWrong
from metald.errors import DeployError, WorldError
from metald.images.cache import CachedImage, ImageCache
from metald.images.config_drive import build_config_drive, check_config_drive
from metald.images.request import ImageRequest, node_request
from metald.model import BootDevice, BootMode, Node
from metald.model.boot import boot_id

IMAGE_KEY = "deploy_image"
"""Where `driver_internal_info` says which raw disk the ramdisk may fetch; `ImageCache.image_for` reads it."""

_ENTRY_TITLE = "metald instance"


class SshDeploy(Deploy):
    """See the module.

    Args:
        settings: all of them.
        images: the image cache.
    """

    name = "ssh"

    def __init__(self, settings: Settings, images: ImageCache) -> None:
        self._images = images
        self._connections = Connections(settings.drivers.ssh)
        self.handshakes = self._connections.handshakes
        self._minimum_disk = settings.drivers.ssh.minimum_disk
        self._eraser = Eraser(self.ramdisk)
        self._formats = tuple(settings.images.formats)

    async def validate(self, ctx: NodeContext) -> None:
        """Image, checksum, root device hints and config drive can be used, as far as their words tell.

        Raises:
            Invalid: names the field and the remedy.
        """
        node = ctx.node
        self._request(node)
        parse_hints(root_hints(node), node.label)
        if node.instance_info.get("configdrive"):
            check_config_drive(node.instance_info["configdrive"], node.label)

    def _request(self, node: Node) -> ImageRequest:
        """The image of a deployment. Raises Invalid."""
        return node_request(node, self._formats)

    async def prepare(self, ctx: StepContext) -> Outcome:
        """Bring the image into the cache and note which it is, so that the boot server gives it to this node's ramdisk."""
        image = await self._image(ctx)
        return Done(f"The image is in the cache: {image.format}, {image.size} bytes.")

    async def _image(self, ctx: StepContext) -> CachedImage:
        """The image in the cache, fetched if it must be, and known to the boot server."""
        node = ctx.node
        image = await self._images.fetch(self._request(node), ctx.progress, holder=node.uuid)
        wanted = {"sha512": image.sha512, "size": image.size, "format": image.format}
        if node.driver_internal_info.get(IMAGE_KEY) != wanted:
            ctx.set(driver_internal_info={**node.driver_internal_info, IMAGE_KEY: wanted})
            await ctx.checkpoint()
        return image

    async def ramdisk_ready(self, ctx: StepContext) -> bool:
        """Whether the ramdisk of the node's present boot has called."""
        facts = ctx.node.driver_internal_info.get("ramdisk")
        boot = boot_id(ctx.node)
        return bool(boot) and isinstance(facts, dict) and facts.get("boot") == boot

    async def tear_down(self, ctx: StepContext) -> None:
        """Forget the instance: its hold on the image and its config drive."""
        info = ctx.node.driver_internal_info
        if IMAGE_KEY in info:
            ctx.set(driver_internal_info={key: value for key, value in info.items() if key != IMAGE_KEY})
        await self._images.release(ctx.node.uuid)

    async def ramdisk(self, node: Node) -> Ramdisk:
        """The ramdisk of the node's present boot. Raises like `Connections.to`."""
        return Ramdisk(await self._connections.to(node), node.label)

    async def _root_disk(self, ctx: StepContext, ramdisk: Ramdisk) -> Disk:
        """The disk by the node's hints; the one that `write_image` took when it has run.

        Names hold for one boot of the ramdisk; after another one the disk is looked for by what it says of itself.
        """
        known: dict[str, Any] | None = ctx.memo.get("root_disk")
        if known is not None and known["boot"] == boot_id(ctx.node):
            return Disk(**known["disk"])
        disks = await ramdisk.disks()
        if known is not None:
            wanted = Disk(**known["disk"])
            found = next((disk for disk in disks if identity(disk) == identity(wanted)), None)
            if found is None:
                raise DeployError(f"Node {ctx.node.label}: the root disk {wanted} is gone. Found: {_listed(disks)}.")
            return found
        return choose(disks, root_hints(ctx.node), ctx.node.label, minimum=self._minimum_disk)

    @step(Phase.DEPLOY, 80, requires_ramdisk=True)
    async def write_image(self, ctx: StepContext) -> Outcome:
        """Write the image to the root disk and read it back."""
        image = await self._image(ctx)
        ramdisk = await self.ramdisk(ctx.node)
        disk = await self._root_disk(ctx, ramdisk)
        if image.size > disk.size:
            raise DeployError(
                f"Node {ctx.node.label}: the image has {image.size} bytes, the disk {disk} has {disk.size}.",
                remedy="Use a smaller image or a larger disk (properties/root_device).",
            )
        ctx.memo["root_disk"] = {"boot": boot_id(ctx.node), "disk": asdict(disk)}
        await ctx.checkpoint()
        state = await self._write(ctx, ramdisk, disk, image)
        ctx.note("image_written", disk=disk.name, bytes=image.size, seconds=state.get("seconds"), sha512=image.sha512)
        return Done(f"{image.size} bytes written to {disk} and read back in {state.get('seconds')} s.")

    async def _write(self, ctx: StepContext, ramdisk: Ramdisk, disk: Disk, image: CachedImage) -> dict[str, Any]:
        """Write the image; when it is the cache that was damaged, fetch it anew and write once more."""
        show = _shower(ctx, f"to {disk.name}")
        try:
            return await ramdisk.write(disk, "image", size=image.size, sha512=image.sha512, show=show)
        except WrittenWrong:
            if not await self._images.drop_if_damaged(image):
                raise
        image = await self._image(ctx)
        return await ramdisk.write(disk, "image", size=image.size, sha512=image.sha512, show=show)

    @step(Phase.DEPLOY, 70, requires_ramdisk=True)
    async def write_configdrive(self, ctx: StepContext) -> Outcome:
        """Write the config drive to a partition labelled config-2, made at the end of the disk when there is none."""
        given = ctx.node.instance_info.get("configdrive")
        if not given:
            return Done("There is no config drive.")
        ramdisk = await self.ramdisk(ctx.node)
        disk = await self._root_disk(ctx, ramdisk)
        drive = await self._config_drive(ctx, given)
        layout = await read_layout(ramdisk, disk)
        place = drive_place(layout, ctx.node, ctx.memo.get("config_drive_first"))
        if place.size < drive["size"]:
            raise DeployError(
                f"Node {ctx.node.label}: the config drive has {drive['size']} bytes, the partition for it {place.size}.",
                remedy="Make the config drive smaller.",
            )
        if place.changes:
            ctx.memo["config_drive_first"] = place.offset
            await ctx.checkpoint()
            await ramdisk.patch(disk, place.changes)
        show = _shower(ctx, "config drive")
        await ramdisk.write(disk, "configdrive", size=drive["size"], sha512=drive["sha512"], offset=place.offset, show=show)
        return Done(f"{drive['size']} bytes in partition {place.number}.")

    async def _config_drive(self, ctx: StepContext, given: str | Mapping[str, Any]) -> dict[str, Any]:
        """The config drive's size and digest; built once per workflow, for its bytes carry the time they were made."""
        known: dict[str, Any] | None = ctx.memo.get("config_drive")
        if known is not None and self._images.image_for(ctx.node, "configdrive") is not None:
            return known
        data = await build_config_drive(given, ctx.node)
        kept = await self._images.store_config_drive(ctx.node.uuid, data)
        made = ctx.memo["config_drive"] = {"size": kept.size, "sha512": kept.sha512}
        await ctx.checkpoint()
        return made

    @step(Phase.DEPLOY, 60, requires_ramdisk=True)
    async def prepare_instance_boot(self, ctx: StepContext) -> Outcome:
        """Make the disk bootable in the machine's firmware mode, and the disk its boot device."""
        node = ctx.node
        ramdisk = await self.ramdisk(node)
        disk = await self._root_disk(ctx, ramdisk)
        layout = await read_layout(ramdisk, disk)
        if layout.table is not None and layout.table.repaired:
            await ramdisk.patch(disk, layout.table.render())
        mode = requested_boot_mode(node) or BootMode(node.driver_internal_info["ramdisk"].get("boot_mode", "bios"))
        detail = await self._uefi(node, ramdisk, layout) if mode is BootMode.UEFI else _bios(node, layout)
        await ctx.management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
        return Done(detail)

    async def _uefi(self, node: Node, ramdisk: Ramdisk, layout: Layout) -> str:
        """Check that the firmware will find a loader; add a boot entry where the firmware takes one."""
        partition = layout.esp()
        if partition is None:
            raise DeployError(
                f"Node {node.label}: the image has no EFI system partition, but the machine boots by UEFI.",
                remedy="Use an image for UEFI, or set capabilities boot_mode:bios in properties.",
            )
        files = await ramdisk.loaders(layout.disk, partition.number)
        loader = efi.choose_loader(files)
        if loader is None:
            raise DeployError(
                f"Node {node.label}: there is no EFI loader on the image's EFI system partition.", remedy="Use an image for UEFI."
            )
        variables = await ramdisk.boot_variables()
        if not variables and not efi.has_fallback(files):
            raise DeployError(
                f"Node {node.label}: the image boots by {loader}, which the firmware does not know, and the ramdisk cannot tell it.",
                remedy="Boot the ramdisk by UEFI, or use an image with EFI/BOOT/BOOTX64.EFI.",
            )
        try:
            for name, content in efi.plan(variables, _ENTRY_TITLE, efi.load_option(_ENTRY_TITLE, partition, loader)) if variables else ():
                await ramdisk.put_boot_variable(name, content)
        except WorldError as error:
            if error.transient or not efi.has_fallback(files):
                raise
            return f"boots by its fallback loader; the firmware took no boot entry ({error})"
        return f"boots by {loader}"

    @step(Phase.DEPLOY, 40, requires_ramdisk=True)
    async def tear_down_agent(self, ctx: StepContext) -> Outcome:
        """Everything is on the disk; the ramdisk has done its work."""
        ramdisk = await self.ramdisk(ctx.node)
        await ramdisk.flush([await self._root_disk(ctx, ramdisk)])
        await self._connections.close(boot_id(ctx.node))
        await self._images.release(ctx.node.uuid)
        return Done()

    @step(Phase.CLEAN, 99, abortable=True, requires_ramdisk=True)
    async def erase_devices_metadata(self, ctx: StepContext) -> Outcome:
        """Wipe partition tables and the signatures of file systems, RAID and LVM from every writable disk."""
        ramdisk = await self.ramdisk(ctx.node)
        disks = [disk for disk in await ramdisk.disks() if disk.size and not disk.read_only]
        for number, disk in enumerate(disks, start=1):
            ctx.progress(message=f"Wiping {disk.name}", done=number - 1, total=len(disks))
            layout = await read_layout(ramdisk, disk)
            await ramdisk.zero(disk, erase_ranges(layout))
        await self._connections.close(boot_id(ctx.node))
        return Done(f"Wiped: {_listed(disks)}.")

    @step(Phase.CLEAN, 0, abortable=True, requires_ramdisk=True)
    async def erase_devices(self, ctx: StepContext) -> Outcome:
        """Erase every writable disk wholly: by itself where it offers that, else with zeros (`erase`)."""
        ramdisk = await self.ramdisk(ctx.node)
        disks = [disk for disk in await ramdisk.disks() if disk.size and not disk.read_only]
        return await self._erased(ctx, ramdisk, disks, disks)

    @step(Phase.CLEAN, 0, abortable=True, requires_ramdisk=True)
    async def erase_devices_express(self, ctx: StepContext) -> Outcome:
        """Have the disks erase themselves that do so within minutes (NVMe); wipe tables and signatures of the others."""
        ramdisk = await self.ramdisk(ctx.node)
        disks = [disk for disk in await ramdisk.disks() if disk.size and not disk.read_only]
        quick = [disk for disk in disks if method_of(await ramdisk.erasures(disk), ctx.node).startswith("nvme")]
        for disk in disks:
            if disk not in quick:
                await ramdisk.zero(disk, erase_ranges(await read_layout(ramdisk, disk)))
        return await self._erased(ctx, ramdisk, quick, disks)

    async def _erased(self, ctx: StepContext, ramdisk: Ramdisk, wanted: Sequence[Disk], told: Sequence[Disk]) -> Outcome:
        for disk in wanted:
            waits = await self._eraser.erase(ctx, ramdisk, disk)
            if waits is not None:
                return waits
        await self._connections.close(boot_id(ctx.node))
        return Done(f"Erased: {_listed(told)}.")

    async def close(self) -> None:
        """Close every connection to ramdisks."""
        await self._connections.close_all()


def _listed(disks: Sequence[Disk]) -> str:
    return "; ".join(map(str, disks)) or "no disk"


def _bios(node: Node, layout: Layout) -> str:
    if not layout.has_boot_code:
        raise DeployError(
            f"Node {node.label}: the image has no boot code for BIOS, but the machine boots by BIOS.",
            remedy="Use an image for BIOS, or set capabilities boot_mode:uefi in properties.",
        )
    return "boots by its boot sector"


def _shower(ctx: StepContext, what: str) -> Callable[[dict[str, Any]], None]:
    """Shows the state of a writer as progress: bytes, total, rate (bytes a second), eta (seconds until this phase ends)."""
    began: dict[str, float] = {}

    def show(state: dict[str, Any]) -> None:
        phase, done, total, seconds = (state.get(key) for key in ("phase", "bytes", "total", "seconds"))
        if not isinstance(done, int) or not isinstance(total, int) or not isinstance(seconds, float):
            return
        took = seconds - began.setdefault(str(phase), seconds)
        rate = done / took if took > 0 else 0.0
        verb = "Reading back" if phase == "verify" else "Writing"
        again = f", taken up again {state['retries']} times" if state.get("retries") else ""
        eta = round((total - done) / rate, 1) if rate else None
        ctx.progress(message=f"{verb} {what}{again}", bytes=done, total=total, rate=int(rate), eta=eta)

    return show
