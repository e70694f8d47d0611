"""The door for what hardware does beyond power, boot device and provisioning.

Rules:

- What a client need not wait for is a workflow of its own: durable before it is answered, exclusive, journaled, resumed
  after a crash (so it may run twice), its failure in the node's `last_error`.
- What a client waits for is asked of the hardware within the request, with the driver's own deadlines.
- What the node's interfaces cannot do is refused with the reason, in the words that Ironic's clients know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metald.drivers.base import Sensor
from metald.drivers.board import Indicator, unsupported
from metald.drivers.noop import Absent
from metald.drivers.optional import Console, Vendor, VendorMethod, handler
from metald.errors import Conflict, Invalid, MetaldError, NotFound
from metald.model import BiosSetting, BootMode, Event, FirmwareComponent, Node, PlannedStep, ProvisionState, Workflow, WorkflowKind
from metald.model.caller import Caller
from metald.statemachine.context import NodeView
from metald.statemachine.door import Door
from metald.statemachine.workflows import hardware
from metald.store.changes import Change

P = ProvisionState
_UNSTABLE = frozenset(
    {
        P.DEPLOYING,
        P.WAIT_CALL_BACK,
        P.CLEANING,
        P.CLEAN_WAIT,
        P.VERIFYING,
        P.DELETING,
        P.INSPECTING,
        P.INSPECT_WAIT,
        P.ADOPTING,
        P.RESCUING,
        P.RESCUE_WAIT,
        P.UNRESCUING,
        P.SERVICING,
        P.SERVICE_WAIT,
    }
)


class Hardware(Door):
    """Accepts what clients want of a machine's hardware."""

    def vendor_methods(self, node_uuid: str) -> Mapping[str, VendorMethod]:
        """The vendor methods of a node, by name."""
        vendor = self._registry.for_node(self._node(node_uuid), "vendor")
        return vendor.methods() if isinstance(vendor, Vendor) else {}

    async def call_vendor(self, node_uuid: str, method: str, verb: str, args: Mapping[str, Any], caller: Caller) -> tuple[bool, Any]:
        """Call a vendor method of a node.

        Args:
            node_uuid: which node.
            method: name of the method.
            verb: the HTTP method that it was called with.
            args: what it is given.
            caller: who asks.

        Returns:
            Whether the method is asynchronous, and if not, what it returned.

        Raises:
            NotFound: there is no such node.
            Invalid: there is no such method, or it does not take the HTTP method or the arguments.
            Busy: something drives the node that the method must not disturb.
        """
        spec = handler(self.vendor_methods(node_uuid), method, verb, args)
        view = self._view(node_uuid)
        vendor = self._registry.for_node(view.node, "vendor")
        await vendor.validate(view)
        if spec.asynchronous and spec.exclusive:
            # `last_error` is not cleared: the method says nothing about what went wrong before.
            await self._run(node_uuid, hardware.plan("vendor", "call_vendor", method=method, args=dict(args)), {}, caller)
            return True, None
        if spec.exclusive:
            await self._undriven(node_uuid)
        found = await getattr(vendor, method)(view, **args)
        await self._tell(node_uuid, "vendor", caller, method=method)
        return spec.asynchronous, None if spec.asynchronous else found

    def driver_vendor_methods(self, driver: str) -> Mapping[str, VendorMethod]:
        """The vendor methods of a hardware type, by name."""
        vendor = self._default_vendor(driver)
        return vendor.driver_methods() if vendor is not None else {}

    async def call_driver_vendor(self, driver: str, method: str, verb: str, args: Mapping[str, Any]) -> tuple[bool, Any]:
        """Call a vendor method of a hardware type; see `call_vendor`."""
        spec = handler(self.driver_vendor_methods(driver), method, verb, args)
        found = await getattr(self._default_vendor(driver), method)(**args)
        return spec.asynchronous, None if spec.asynchronous else found

    def _default_vendor(self, driver: str) -> Vendor | None:
        names = self._registry.supported(driver, "vendor")
        found = self._registry.interface("vendor", names[0]) if names else None
        return found if isinstance(found, Vendor) else None

    async def sensors(self, node_uuid: str) -> Sequence[Sensor]:
        """Every sensor of a machine, read once.

        Raises:
            Unsupported: its management interface reads none.
            DriverError: the BMC cannot be asked.
        """
        view = await self._manageable(node_uuid)
        return await view.management.sensors(view)

    async def parts(self, node_uuid: str) -> Sequence[Mapping[str, Any]]:
        """What a machine's BMC knows of its replaceable parts; errors as of `sensors`."""
        view = await self._manageable(node_uuid)
        return await view.management.parts(view)

    async def bmc_network(self, node_uuid: str) -> Mapping[str, Any]:
        """How a machine's BMC is on the network; errors as of `sensors`."""
        view = await self._manageable(node_uuid)
        return await view.management.network(view)

    async def event_log(self, node_uuid: str) -> Sequence[Mapping[str, Any]]:
        """The log of a machine's BMC, oldest first; errors as of `sensors`."""
        view = await self._manageable(node_uuid)
        return await view.management.event_log(view)

    async def exchange(self, node_uuid: str) -> Sequence[Mapping[str, Any]]:
        """What was said to a machine's BMC last and what it answered, oldest first, without secrets.

        Raises:
            Unsupported: its management interface keeps no record.
        """
        view = await self._manageable(node_uuid)
        return view.management.exchange(view)

    async def indicators(self, node_uuid: str) -> Sequence[Indicator]:
        """The lights of a machine."""
        view = await self._manageable(node_uuid)
        return await view.management.indicators(view)

    async def get_indicator(self, node_uuid: str, label: str) -> str:
        """The state of the light `name@component`.

        Raises:
            Invalid: there is none of that name.
        """
        name, component = _indicator(label)
        view = await self._manageable(node_uuid)
        return await view.management.get_indicator_state(view, component, name)

    async def set_indicator(self, node_uuid: str, label: str, state: str, caller: Caller) -> None:
        """Change the light `name@component`, at once.

        Raises:
            Invalid: there is none of that name, or it has no such state.
            Busy: a workflow drives the node.
        """
        name, component = _indicator(label)
        view = await self._manageable(node_uuid)
        await self._undriven(node_uuid)
        await view.management.set_indicator_state(view, component, name, state)
        await self._tell(node_uuid, "indicator", caller, indicator=label, state=state)

    async def console(self, node_uuid: str) -> Mapping[str, Any] | None:
        """Where the machine's console is; None when it is not enabled."""
        view = self._view(node_uuid)
        if not view.node.console_enabled:
            return None
        return await (await self._console(view)).info(view)

    async def set_console(self, node_uuid: str, enabled: bool, caller: Caller) -> None:
        """Start opening or closing the machine's console; what is so already stays.

        Raises:
            Unsupported: the node has no console interface.
            Busy: something drives the node.
        """
        view = self._view(node_uuid)
        await self._console(view)
        if view.node.console_enabled is not enabled:
            plan = hardware.plan("console", "switch_console", enabled=enabled)
            await self._run(node_uuid, plan, {"last_error": None}, caller)

    async def resume_consoles(self) -> None:
        """After the daemon has started: open every console that is enabled. One that cannot be is disabled, with the reason."""
        for node in [node for node in self._store.table(Node).all() if node.console_enabled]:
            view = NodeView(self._store, self._registry, node.uuid)
            try:
                await (await self._console(view)).start(view)
            except NotFound:
                continue
            except MetaldError as error:
                text = f"The console could not be opened again: {error}"
                async with self._store.owning(node.uuid):
                    found = self._store.table(Node).get(node.uuid)
                    if found is not None:
                        event = Event(type="node.console", node_uuid=node.uuid, severity="ERROR", data={"enabled": False, "error": text})
                        await self._store.commit(Change(save=[found.changed(console_enabled=False, last_error=text)], events=[event]))

    async def _console(self, view: NodeView) -> Console:
        console = self._registry.for_node(view.node, "console")
        await console.validate(view)
        if not isinstance(console, Console):
            raise unsupported(view, "console")
        return console

    async def set_boot_mode(self, node_uuid: str, mode: BootMode, caller: Caller) -> None:
        """Start changing the firmware mode.

        Raises:
            Conflict: the node is on its way from one state to another.
            Busy: something drives the node.
        """
        await self._settled(node_uuid)
        await self._run(node_uuid, hardware.plan("management", "set_boot_mode", mode=mode.value), {"last_error": None}, caller)

    async def set_secure_boot(self, node_uuid: str, on: bool, caller: Caller) -> None:
        """Start turning secure boot on or off; see `set_boot_mode`."""
        await self._settled(node_uuid)
        await self._run(node_uuid, hardware.plan("management", "set_secure_boot", on=on), {"last_error": None}, caller)

    async def _settled(self, node_uuid: str) -> None:
        view = await self._manageable(node_uuid)
        state = view.node.provision_state
        if state in _UNSTABLE:
            raise Conflict(
                f"Node is in {state.value} state. Since node is transitioning, the boot mode will not be set as this may interfere "
                "with ongoing changes and result in erroneous modification. Try again later.",
                field="target",
            )

    async def virtual_media(self, node_uuid: str) -> Any:
        """What the BMC says of its virtual drives."""
        view = await self._manageable(node_uuid)
        return await view.management.get_virtual_media(view)

    async def attach_virtual_media(self, node_uuid: str, device: str, url: str, source: str, caller: Caller) -> None:
        """Start putting an image into a virtual drive.

        Raises:
            Busy: something drives the node.
        """
        await self._manageable(node_uuid)
        plan = hardware.plan("management", "attach_virtual_media", device=device, url=url, source=source)
        await self._run(node_uuid, plan, {"last_error": None}, caller)

    async def detach_virtual_media(self, node_uuid: str, devices: Sequence[str], caller: Caller) -> None:
        """Start emptying virtual drives, all of them when `devices` is empty.

        Raises:
            Busy: something drives the node.
        """
        await self._manageable(node_uuid)
        plan = hardware.plan("management", "detach_virtual_media", devices=list(devices))
        await self._run(node_uuid, plan, {"last_error": None}, caller)

    async def set_raid(self, node_uuid: str, config: dict[str, Any], caller: Caller) -> None:
        """Store the RAID that the next step is to make.

        Raises:
            NotFound: the node has no RAID interface, and more than nothing is wanted.
            Busy: a workflow drives the node, which may read what is wanted.
        """
        await self._free(node_uuid)
        async with self._store.owning(node_uuid):
            node = self._node(node_uuid)
            if config and isinstance(self._registry.for_node(node, "raid"), Absent):
                raise NotFound(f"Driver {node.driver} does not support raid (disabled or not implemented).", field="raid_interface")
            if node.reservation is not None:
                raise self._busy(node)
            event = Event(type="node.update", node_uuid=node_uuid, user=caller.user, data={"fields": ["target_raid_config"]})
            await self._store.commit(Change(save=[node.changed(target_raid_config=config)], events=[event]))

    def bios(self, node_uuid: str) -> Sequence[BiosSetting]:
        """The BIOS settings as they were last seen."""
        return self._view(node_uuid).internals.bios

    def firmware(self, node_uuid: str) -> Sequence[FirmwareComponent]:
        """The firmware components as they were last seen."""
        return self._view(node_uuid).internals.firmware

    async def _manageable(self, node_uuid: str) -> NodeView:
        view = self._view(node_uuid)
        await view.management.validate(view)
        return view

    async def _undriven(self, node_uuid: str) -> None:
        await self._free(node_uuid)
        node = self._node(node_uuid)
        if node.reservation is not None:
            raise self._busy(node)

    async def _tell(self, node_uuid: str, kind: str, caller: Caller, **data: Any) -> None:
        await self._store.commit(Change(events=[Event(type=f"node.{kind}", node_uuid=node_uuid, user=caller.user, data=data)]))

    async def _run(self, node_uuid: str, plan: list[PlannedStep], fields: dict[str, Any], caller: Caller) -> None:
        await self._free(node_uuid)
        async with self._store.owning(node_uuid):
            node = self._node(node_uuid)
            if node.reservation is not None or node.target_power_state is not None:
                raise self._busy(node)
            workflow = Workflow(
                node_uuid=node_uuid,
                kind=WorkflowKind.HARDWARE,
                steps=plan,
                requested_by=caller.user,
                request_id=caller.request_id,
            )
            data = {"step": plan[0].step, "method": plan[0].args.get("method")}
            event = Event(type="node.hardware", node_uuid=node_uuid, user=caller.user, data=data)
            await self._start(node, workflow, fields, event)


def _indicator(label: str) -> tuple[str, str]:
    name, at, component = label.partition("@")
    if not at:
        raise Invalid(f'Malformed indicator name "{label[:80]}"', remedy="It is name@component.", field="indicator")
    return name, component
