"""The one door for everything that drives a machine: for HTTP and for AMQP.

Rules:

- Nothing is accepted before it is durable: a request's workflow, the node's new state and the event are one change.
- A node is driven by one workflow at a time. Who comes while it runs waits a few seconds, then is told that the node is
  locked; reading never waits.
- What asks hardware is part of a workflow. Accepting costs milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from metald.config import Settings
from metald.drivers.registry import Registry
from metald.errors import Conflict, Invalid, MetaldError, Unsupported, WrongState
from metald.model import (
    INTERFACES,
    BootDevice,
    Event,
    Node,
    PlannedStep,
    PowerTarget,
    ProvisionState,
    Verb,
    Workflow,
    WorkflowKind,
    WorkflowState,
    now,
    password,
)
from metald.model.caller import Caller
from metald.statemachine import admission
from metald.statemachine.context import NodeView
from metald.statemachine.door import Door
from metald.statemachine.engine import Engine
from metald.statemachine.journal import moved
from metald.statemachine.observations import of_step
from metald.statemachine.plan import refused
from metald.statemachine.planning import Planner
from metald.statemachine.runner import UNHOLD, shown
from metald.statemachine.workflows import power
from metald.store.changes import Change
from metald.store.store import Store

_KINDS: Mapping[Verb, WorkflowKind] = {
    Verb.PROVIDE: WorkflowKind.CLEAN,
    Verb.CLEAN: WorkflowKind.CLEAN,
    Verb.DEPLOY: WorkflowKind.DEPLOY,
    Verb.REBUILD: WorkflowKind.DEPLOY,
    Verb.DELETE: WorkflowKind.TEARDOWN,
    Verb.INSPECT: WorkflowKind.INSPECT,
    Verb.ADOPT: WorkflowKind.ADOPT,
    Verb.RESCUE: WorkflowKind.RESCUE,
    Verb.UNRESCUE: WorkflowKind.UNRESCUE,
    Verb.SERVICE: WorkflowKind.SERVICE,
}
_NO_POWER = frozenset({ProvisionState.CLEANING, ProvisionState.CLEAN_WAIT})


class Conductor(Door):
    """Accepts what clients want of machines.

    Args:
        store: the state.
        registry: hardware types and interfaces.
        engine: runs the workflows.
        settings: defaults and timeouts.
    """

    def __init__(self, store: Store, registry: Registry, engine: Engine, settings: Settings) -> None:
        super().__init__(store, registry, engine, settings)
        self.table = engine.table
        self.planner = Planner(store, registry, settings)

    async def provision(
        self,
        node_uuid: str,
        verb: Verb,
        caller: Caller,
        *,
        configdrive: str | dict[str, Any] | None = None,
        clean_steps: Sequence[Mapping[str, Any]] | None = None,
        deploy_steps: Sequence[Mapping[str, Any]] | None = None,
        service_steps: Sequence[Mapping[str, Any]] | None = None,
        rescue_password: str | None = None,
        disable_ramdisk: bool = False,
    ) -> None:
        """Start what `verb` asks for. Durable when it returns.

        Raises:
            NotFound: there is no such node.
            WrongState: the verb does not lead on from the node's state.
            Busy: a workflow owns the node, and still did after a short wait.
            NotAllowed: the node is protected.
            Invalid: the node is in maintenance or retired, or the steps are wrong.
        """
        node = self._node(node_uuid)
        hashed = await asyncio.to_thread(password.hashed, rescue_password) if rescue_password is not None else None
        if verb in (Verb.DEPLOY, Verb.REBUILD) and node.maintenance:
            raise admission.in_maintenance(node)
        if node.reservation is not None and verb in self.table.verbs(node.provision_state):
            await self._free(node_uuid)
        async with self._store.owning(node_uuid):
            node = self._node(node_uuid)
            self._admit(node, verb)
            if verb is Verb.ABORT:
                await self._abort(node, caller)
                return
            if verb is Verb.MANAGE and node.provision_state is not ProvisionState.ENROLL:
                await self._move(node, verb, {"last_error": None}, caller)
                return
            if verb is Verb.UNHOLD:
                await self._unhold(node, caller)
                return
            fields = _asked_with(node, verb, configdrive, hashed)
            async for misfit in self.planner.misfits(node, verb):
                raise misfit
            given = {"clean_steps": clean_steps, "deploy_steps": deploy_steps, "service_steps": service_steps}
            try:
                steps = self.planner.steps(node, verb, **given, disable_ramdisk=disable_ramdisk)
            except Invalid as error:
                # Ironic takes the request, and its clients look for the reason on the node.
                if verb not in (Verb.CLEAN, Verb.SERVICE):
                    raise
                steps = refused(verb, error)
            await self._begin(node, verb, _KINDS.get(verb, WorkflowKind.VERIFY), steps, fields, caller)

    def _admit(self, node: Node, verb: Verb) -> None:
        for reason in admission.blockers(self.table, node, verb, self.hostname):
            raise reason

    async def _begin(
        self, node: Node, verb: Verb, kind: WorkflowKind, steps: list[PlannedStep], fields: dict[str, Any], caller: Caller
    ) -> None:
        workflow = Workflow(node_uuid=node.uuid, kind=kind, steps=steps, requested_by=caller.user, request_id=caller.request_id)
        fields = {
            **fields,
            **shown(self._engine.definition(kind), steps[0] if steps else None),
            "last_error": None,
            "reservation": self.hostname,
            "workflow": workflow.uuid,
        }
        fields, fact = moved(self.table, node, fields, verb.value, workflow)
        saves: list[Any] = [workflow, node.changed(**fields)]
        old = self._store.table(Workflow).get(node.workflow) if node.workflow else None
        if old is not None and not old.state.ended:
            saves.append(
                old.changed(state=WorkflowState.ABORTED, cause="superseded", last_error=f"Superseded by {verb.value}.", ended_at=now())
            )
            self._engine.forget(old)
        committed = await self._store.commit(Change(save=saves, delete=self._past(node), events=[fact, *of_step(workflow)]))
        self._engine.start(cast(Workflow, committed.saved[0]))

    async def _move(self, node: Node, verb: Verb, fields: dict[str, Any], caller: Caller) -> None:
        """Follow a verb that needs no workflow."""
        changed, fact = moved(self.table, node, fields, verb.value, None)
        fact = msgspec.structs.replace(fact, user=caller.user)
        await self._store.commit(Change(save=[node.changed(**changed)], events=[fact]))

    async def _unhold(self, node: Node, caller: Caller) -> None:
        workflow = self._store.table(Workflow).get(node.workflow) if node.workflow else None
        if workflow is None or workflow.wait_for != UNHOLD:
            await self._move(node, Verb.UNHOLD, {}, caller)
            return
        await self._engine.wake(node, workflow, UNHOLD, {}, [])

    async def _abort(self, node: Node, caller: Caller) -> None:
        workflow = self._store.table(Workflow).get(node.workflow) if node.workflow else None
        if workflow is None or workflow.state.ended:
            await self._move(node, Verb.ABORT, {}, caller)
            return
        step = workflow.steps[workflow.cursor] if workflow.cursor < len(workflow.steps) else None
        if step is not None and node.provision_state is ProvisionState.CLEAN_WAIT and step.step != "wait_ramdisk" and not step.abortable:
            # The step must not be cut short: the abort takes effect once it has ended, and shows until then.
            shown_step = {**node.clean_step, "abort_after": True}
            await self._store.commit(Change(save=[workflow.changed(abort_requested=True), node.changed(clean_step=shown_step)]))
            return
        await self._engine.abort(workflow)

    async def set_power(self, node_uuid: str, target: PowerTarget, caller: Caller, *, timeout: float | None = None) -> None:
        """Start a power change. Durable when it returns.

        Args:
            node_uuid: which node.
            target: on, off, reboot, or the soft forms of the latter two.
            caller: who asks.
            timeout: seconds the change may take; the driver's own when None.

        Raises:
            NotFound: there is no such node.
            WrongState: the node is being cleaned.
            Conflict: the node must never be powered off.
            Unsupported: the power interface does not know the target.
            Busy: something else drives the node, and still did after a short wait.
        """
        await self._free(node_uuid)
        async with self._store.owning(node_uuid):
            node = self._node(node_uuid)
            if node.provision_state in _NO_POWER:
                raise WrongState(
                    f'The requested action "{target.value}" can not be performed on node "{node.uuid}" while it is in state '
                    f'"{node.provision_state.value}".',
                    field="target",
                )
            off = target in (PowerTarget.OFF, PowerTarget.SOFT_OFF)
            if off and node.disable_power_off:
                raise Conflict(f"Node {node.uuid} has disable_power_off set and can not be powered off.", field="target")
            if node.reservation is not None or node.target_power_state is not None:
                raise self._busy(node)
            view = NodeView(self._store, self._registry, node_uuid)
            if target not in view.power.supported_targets(view):
                raise Unsupported(f"The power interface of node {node.uuid} does not support {target.value}.", field="target")
            await view.power.validate(view)
            workflow = Workflow(
                node_uuid=node.uuid,
                kind=WorkflowKind.POWER,
                steps=power.plan(target, timeout),
                requested_by=caller.user,
                request_id=caller.request_id,
            )
            fields = {"last_error": None, "target_power_state": PowerTarget.OFF if off else PowerTarget.ON}
            fact = Event(type="node.power", node_uuid=node.uuid, user=caller.user, data={"target": target.value, "from": node.power_state})
            await self._start(node, workflow, fields, fact)

    async def get_boot_device(self, node_uuid: str) -> tuple[BootDevice | None, bool | None]:
        """Ask the hardware for its next boot device and whether it is persistent."""
        view = self._view(node_uuid)
        await view.management.validate(view)
        return await view.management.get_boot_device(view)

    async def set_boot_device(self, node_uuid: str, device: BootDevice, *, persistent: bool, caller: Caller) -> None:
        """Set the boot device, at once.

        Raises:
            Busy: a workflow drives the node.
            Invalid: the device is not supported.
        """
        await self._free(node_uuid)
        view = self._view(node_uuid)
        if view.node.reservation is not None:
            raise self._busy(view.node)
        if device not in view.management.supported_boot_devices(view):
            names = ", ".join(view.management.supported_boot_devices(view))
            raise Invalid(f"Invalid boot device {device.value} specified.", remedy=f"Supported: {names}.", field="boot_device")
        await view.management.validate(view)
        await view.management.set_boot_device(view, device, persistent=persistent)
        fact = Event(
            type="node.boot_device", node_uuid=node_uuid, user=caller.user, data={"device": device.value, "persistent": persistent}
        )
        await self._store.commit(Change(events=[fact]))

    def supported_boot_devices(self, node_uuid: str) -> Sequence[BootDevice]:
        """What `set_boot_device` takes for this node."""
        view = self._view(node_uuid)
        return view.management.supported_boot_devices(view)

    async def inject_nmi(self, node_uuid: str, caller: Caller) -> None:
        """Send a non-maskable interrupt to the machine."""
        view = self._view(node_uuid)
        await view.management.validate(view)
        await view.management.inject_nmi(view)
        await self._store.commit(Change(events=[Event(type="node.nmi", node_uuid=node_uuid, user=caller.user)]))

    async def validate(self, node_uuid: str) -> dict[str, str | None]:
        """Check each interface's settings without touching hardware.

        Returns:
            For each interface type but vendor: None when good, else the reason.
        """
        view = self._view(node_uuid)
        found: dict[str, str | None] = {}
        for kind in INTERFACES:
            if kind == "vendor":
                continue
            try:
                await self._registry.for_node(view.node, kind).validate(view)
                found[kind] = None
            except MetaldError as error:
                found[kind] = str(error)
        return found

    def progress(self, node_uuid: str) -> dict[str, Any]:
        """How far the node's running step is."""
        return self._engine.progress(node_uuid)

    async def timeline(self, node_uuid: str) -> list[Event]:
        """What happened to a node, oldest first: the last thousand events."""
        self._node(node_uuid)
        return await self._store.events(node_uuid=node_uuid, newest=True)


def _asked_with(node: Node, verb: Verb, configdrive: str | dict[str, Any] | None, hashed: str | None) -> dict[str, Any]:
    """The node's fields that change with a request."""
    if configdrive is not None:
        return {"instance_info": {**node.instance_info, "configdrive": configdrive}}
    if hashed is not None:
        return {"instance_info": {**node.instance_info, "hashed_rescue_password": hashed}}
    return {"inspection_started_at": now(), "inspection_finished_at": None} if verb is Verb.INSPECT else {}
