"""The deploy interface `anaconda`: the Anaconda installer, booted from the network, writes the disk by a kickstart file.

The installer reports its start, end or failure as a heartbeat without a callback URL. It proves itself by a token that it does
not ask for: it stands in its kickstart file, which only who has the instance's token may fetch. Cleaning, rescue and service
go by the Ironic Python Agent, as with the other interfaces of its.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from metald.drivers.agent.base import AgentBased
from metald.drivers.agent.netboot import check_boot, needed
from metald.drivers.base import Done, NodeContext, Outcome, StepContext, Wait
from metald.errors import DeployError, Invalid
from metald.images import kickstart
from metald.images.config_drive import check_config_drive
from metald.images.sources import fetch_small, open_allowed
from metald.model import Node, ProvisionState

PREGENERATED = "agent_secret_token_pregenerated"
"""In `driver_internal_info` when the agent's token is one that nobody may ask for."""

_INSTALLED = "installed"
_FETCH_TIME = 30.0
_DEPLOYING = frozenset({ProvisionState.DEPLOYING, ProvisionState.WAIT_CALL_BACK, ProvisionState.DEPLOY_HOLD})


class AnacondaDeploy(AgentBased):
    """See the module."""

    name = "anaconda"
    netboots = True
    installs = True

    async def validate(self, ctx: NodeContext) -> None:
        """The installer's files, an image, and a config drive that can stand in a kickstart file.

        Raises:
            Invalid: names the field and the remedy.
        """
        node = ctx.node
        self.instance_boot(node)
        source = needed(node, "image_source")["image_source"]
        if not source.startswith(("http://", "https://")) or any(letter.isspace() for letter in source):
            raise Invalid(
                f"Node {node.label}: the installer cannot fetch its image.",
                remedy="Set instance_info/image_source to an http or https URL; one that ends with a slash is a tree of packages.",
                field="instance_info/image_source",
            )
        given = node.instance_info.get("configdrive")
        if given:
            check_config_drive(given, node.label)
            if isinstance(given, str):
                raise Invalid(
                    f"Node {node.label}: a packed config drive cannot stand in a kickstart file.",
                    remedy="Give it as an object.",
                    field="instance_info/configdrive",
                )
        check_boot(ctx)

    async def prepare(self, ctx: StepContext) -> Outcome:
        """Fetch and check the node's kickstart template."""
        url = ctx.node.instance_info.get("ks_template")
        info = {key: value for key, value in ctx.node.driver_internal_info.items() if key != kickstart.TEMPLATE}
        if url:
            info[kickstart.TEMPLATE] = await self._template(str(url), ctx.node)
        ctx.set(driver_internal_info=info)
        return Done("The kickstart template is the node's own." if url else "The kickstart template is metald's.")

    async def _template(self, url: str, node: Node) -> str:
        if url.startswith("file:"):
            data = await asyncio.to_thread(_read, url, self._settings.images.file_roots)
        elif url.startswith(("http://", "https://")):
            data = await fetch_small(url, _FETCH_TIME, kickstart.LARGEST)
        else:
            data = b""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = ""
        if not text or len(data) > kickstart.LARGEST:
            raise Invalid(
                f"Node {node.label}: its kickstart template cannot be read.",
                remedy=f"Set instance_info/ks_template to an http, https or file URL of a text of up to {kickstart.LARGEST >> 10} KiB.",
                field="instance_info/ks_template",
            )
        kickstart.check(text, node.label)
        return text

    def instance_boot(self, node: Node, ctx: StepContext | None = None) -> dict[str, str] | None:
        """The installer until it has ended, which is given its token here; nothing afterwards.

        Raises:
            Invalid: `instance_info` lacks a part.
        """
        if ctx is not None:
            if node.provision_state not in _DEPLOYING or ctx.memo.get(_INSTALLED):
                return None
            _give_token(ctx)
        source = str(node.instance_info.get("image_source") or "")
        boot = {"kind": "anaconda", **needed(node, "kernel", "ramdisk")}
        if kickstart.is_path(source):
            return {**boot, "repo": source}
        return {**boot, **needed(node, "stage2")}

    async def install(self, ctx: StepContext) -> Outcome:
        """See Deploy."""
        _give_token(ctx)
        info = ctx.node.driver_internal_info
        match info.get("agent_status"):
            case "end":
                ctx.memo[_INSTALLED] = True
                ctx.set(driver_internal_info={key: value for key, value in info.items() if key != kickstart.TEMPLATE})
                return Done(str(info.get("agent_status_message") or "installed")[:1000])
            case "error":
                raise DeployError(
                    f"Node {ctx.node.label}: the installer failed: {info.get('agent_status_message') or 'it does not say why'}.",
                    remedy="Look at the machine's console.",
                )
        timeout = float(self._settings.conductor.deploy_callback_timeout)
        return Wait("heartbeat", timeout, "the installer to report", callback=True, renew=True)


def _give_token(ctx: StepContext) -> None:
    info: dict[str, Any] = dict(ctx.node.driver_internal_info)
    if not (info.get("agent_secret_token") and info.get(PREGENERATED)):
        ctx.set(driver_internal_info={**info, "agent_secret_token": secrets.token_urlsafe(32), PREGENERATED: True})


def _read(url: str, roots: Any) -> bytes:
    file, _ = open_allowed(url, roots)
    with file:
        return file.read(kickstart.LARGEST + 1)
