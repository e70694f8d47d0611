"""The deploy interface `autodetect`: the node's image says which interface deploys it.

It does nothing itself: the registry puts the chosen interface in its place wherever the node's deploy interface is asked for
(`Interface.stands_in`). The node keeps the name `autodetect`, so that its next instance is looked at anew.

What is in a container registry is known by its manifest alone. Until that was asked for, as the deployment's first step, the plan
is that for a disk image; for a container the steps are exchanged. What was found counts for that deployment and no other: under the
same tag may be something else by the next one.
"""

from __future__ import annotations

import msgspec

from metald.drivers.agent import images
from metald.drivers.agent.deploy import AgentDeploy
from metald.drivers.base import Done, NodeContext, Outcome, StepContext
from metald.drivers.root_device import parse_hints, root_hints
from metald.errors import ImageError, Invalid
from metald.images.config_drive import check_config_drive
from metald.images.registry import parse
from metald.model import Node, PlannedStep, ProvisionState

KEY = "detected_deploy_interface"
"""Where `driver_internal_info` says which interface deploys the image of a registry, in a list behind the workflow that found it."""
_DEPLOYING = frozenset({ProvisionState.DEPLOYING, ProvisionState.WAIT_CALL_BACK, ProvisionState.DEPLOY_HOLD})
_OF_CONTAINERS = {"write_image": "execute_bootc_install", "prepare_instance_boot": "set_boot_to_disk"}
"""Steps of `bootc` in the places of those of `direct`."""


class AutodetectDeploy(AgentDeploy):
    """See the module."""

    name = "autodetect"

    def stands_in(self, node: Node) -> str:
        """The interface for what `instance_info` holds; empty for an image of a registry that was not asked for yet.

        A network-booted instance only where `ironic_ramdisk_deploy` asks for it, for a kernel and a ramdisk come with
        partition images too; what is in a registry by `bootc` or `direct`; an installer's second stage or kickstart, or a tree of
        packages, by `anaconda`; everything else by `direct`.
        """
        info = node.instance_info
        source = info.get("image_source")
        source = source if isinstance(source, str) else ""
        if info.get("ironic_ramdisk_deploy") and (info.get("boot_iso") or (info.get("kernel") and info.get("ramdisk"))):
            return "ramdisk"
        if source.startswith("oci://"):
            return _found(node)
        if info.get("stage2") or info.get("ks_template") or (source.startswith("http") and source.endswith("/")):
            return "anaconda"
        return "direct"

    async def validate(self, ctx: NodeContext) -> None:
        """What both interfaces for images of a registry need; the rest shows once it is known which of them it is.

        Raises:
            Invalid: names the field and the remedy.
        """
        node = ctx.node
        try:
            parse(images.request(node, self._settings).url)
        except ImageError as error:
            raise Invalid(f"Node {node.label}: {error.message}", remedy=error.remedy, field="instance_info/image_source") from None
        parse_hints(root_hints(node), node.label)
        if node.instance_info.get("configdrive"):
            check_config_drive(node.instance_info["configdrive"], node.label)

    async def prepare(self, ctx: StepContext) -> Outcome:
        """Ask the registry what the image is; the interface for it then prepares the deployment.

        Raises:
            ImageError: the registry cannot be reached, or does not tell of the image.
        """
        node = ctx.node
        ctx.progress(message="Asking the registry for the image's manifest")
        container = await self.images.holds_container(images.request(node, self._settings))
        name = "bootc" if container else "direct"
        ctx.set(driver_internal_info={**node.driver_internal_info, KEY: [node.workflow, name]})
        following = [_exchanged(step) for step in ctx.following] if container else ctx.following
        what = "a container" if container else "a disk image"
        return Done(f"The registry has {what}: {name} deploys it.", following=[ctx.step, *following])


def _found(node: Node) -> str:
    """What the deployment that is under way found out of its image."""
    workflow, name = node.driver_internal_info.get(KEY) or ("", "")
    return str(name) if node.provision_state in _DEPLOYING and workflow == node.workflow else ""


def _exchanged(step: PlannedStep) -> PlannedStep:
    if step.interface != "deploy" or step.in_band or step.step not in _OF_CONTAINERS:
        return step
    return msgspec.structs.replace(step, step=_OF_CONTAINERS[step.step])
