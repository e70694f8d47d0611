"""Planning: which steps a verb starts for a node, and what of the node's settings stands against it. Nothing is done here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from metald.config import Settings
from metald.drivers.base import Interface
from metald.drivers.registry import Registry
from metald.errors import Invalid, WrongState
from metald.model import Node, PlannedStep, ProvisionState, Verb
from metald.statemachine.context import NodeView
from metald.statemachine.templates import with_templates
from metald.statemachine.workflows import clean, deploy, service, single, teardown, verify
from metald.store.store import Store

Steps = Sequence[Mapping[str, Any]]


class Planner:
    """Makes plans.

    Args:
        store: the state.
        registry: hardware types and interfaces.
        settings: defaults and timeouts.
    """

    def __init__(self, store: Store, registry: Registry, settings: Settings) -> None:
        self._store = store
        self._registry = registry
        self._settings = settings

    def steps(
        self,
        node: Node,
        verb: Verb,
        *,
        clean_steps: Steps | None = None,
        deploy_steps: Steps | None = None,
        service_steps: Steps | None = None,
        disable_ramdisk: bool = False,
    ) -> list[PlannedStep]:
        """The steps of the workflow that the verb starts.

        Raises:
            Invalid: a step is not offered, its arguments are wrong, or the node's hardware cannot do it.
            WrongState: the verb starts no workflow.
        """
        settings = self._settings.conductor
        match verb:
            case Verb.MANAGE:
                return verify.plan(self._registry, node)
            case Verb.PROVIDE:
                return clean.plan(self._registry, node, settings)
            case Verb.CLEAN:
                return clean.plan_manual(self._registry, node, settings, clean_steps or (), disable_ramdisk=disable_ramdisk)
            case Verb.DEPLOY | Verb.REBUILD:
                return deploy.plan(self._registry, node, settings, with_templates(self._store, node, deploy_steps))
            case Verb.DELETE:
                return teardown.plan(self._registry, node, settings)
            case Verb.SERVICE:
                return service.plan(self._registry, node, settings, service_steps or (), disable_ramdisk=disable_ramdisk)
            case Verb.INSPECT | Verb.ADOPT | Verb.RESCUE | Verb.UNRESCUE:
                return single.plan(self._registry, node, self._settings, verb)
            case _:
                raise WrongState(f'"{verb.value}" starts no workflow.', field="target")

    async def misfits(self, node: Node, verb: Verb) -> AsyncIterator[Invalid]:
        """What of the node's settings stands against the verb, as far as it can be known without the hardware."""
        if verb not in (Verb.DEPLOY, Verb.REBUILD):
            return
        view = NodeView(self._store, self._registry, node.uuid)
        needed: list[Interface] = [view.power, view.deploy]
        if view.deploy.uses_ramdisk:
            needed += [view.management, view.boot]
        for interface in needed:
            try:
                await interface.validate(view)
            except Invalid as error:
                text = f"Failed to validate deploy or power info for node {node.uuid}. Error: {error.message}"
                found = Invalid(text, remedy=error.remedy, field=error.field)
                found.__cause__ = error
                yield found


def starts_workflow(node: Node, verb: Verb) -> bool:
    """Whether the verb starts a workflow from where the node is; some only move the node, end or resume a workflow."""
    return verb not in (Verb.ABORT, Verb.UNHOLD) and (verb is not Verb.MANAGE or node.provision_state is ProvisionState.ENROLL)
