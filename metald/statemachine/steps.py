"""The steps that every workflow shares: power, boot device, ramdisk, network. Each looks before it acts.

A step is `async (context, **args) -> Done | Wait`. Names are (interface, step), so that the time-line reads like the
field's own: `power.power_on`, `boot.prepare_ramdisk`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from metald.drivers.base import Done, Hold, Outcome, Wait, booter, ramdisk_again
from metald.errors import DriverError, Invalid
from metald.model import BootDevice, Event, PlannedStep, PowerState, PowerTarget, now
from metald.model.catalogue import Allocation
from metald.statemachine import firmware
from metald.statemachine.context import Context
from metald.statemachine.hardware_steps import HARDWARE_STEPS
from metald.statemachine.inspection import findings

CoreStep = Callable[..., Awaitable[Outcome]]


BOOTS = 2
"""How often a machine is booted for a ramdisk within the time that its call may take."""

_WAS_OFF = "was_off"
"""In a workflow's memo: the step that is restarting the machine and has switched it off already."""

_OF_ONE_BOOT = frozenset(
    {
        "agent_secret_token",
        "agent_secret_token_pregenerated",
        "agent_url",
        "agent_called_from",
        "agent_verify_ca",
        "agent_last_heartbeat",
        "agent_version",
        "agent_status",
        "agent_status_message",
        "agent_image_token",
        "ramdisk",
    }
)


def _observed(context: Context, state: PowerState, *, restarted: bool = False) -> None:
    internal = dict(context.node.driver_internal_info)
    if context.node.power_state != state:
        internal["last_power_state_change"] = now().isoformat()
    if state is PowerState.OFF or restarted:
        # What ran on the machine is gone: its proofs of identity go with it, so that the next boot gets its own.
        internal = {key: value for key, value in internal.items() if key not in _OF_ONE_BOOT}
    internal["power_wanted"] = state.value
    context.set(power_state=state, driver_internal_info=internal)


async def verify(context: Context) -> Outcome:
    """Ask the BMC for the power state: proof that it is there and lets us in."""
    await context.power.validate(context)
    state = await context.power.get_power_state(context)
    if state is PowerState.ERROR:
        raise DriverError(
            f"Node {context.node.label}: its power state cannot be read.", remedy="Check the BMC's address, user and password."
        )
    _observed(context, state)
    return Done(f"The BMC answers; the machine is {state.value.removeprefix('power ')}.")


async def refuse(context: Context, reason: str, remedy: str) -> Outcome:  # noqa: ARG001
    """Fail with what was wrong with the steps that a client asked for."""
    raise Invalid(reason, remedy=remedy)


async def change_power(context: Context, target: str, timeout: float | None = None) -> Outcome:
    """Bring the machine to a power target that a client asked for."""
    wanted = PowerTarget(target)
    if wanted in (PowerTarget.REBOOT, PowerTarget.SOFT_REBOOT):
        await _restart(context, wanted, timeout)
        return Done()
    await context.power.set_power_state(context, wanted, timeout=timeout)
    off = wanted in (PowerTarget.OFF, PowerTarget.SOFT_OFF)
    _observed(context, PowerState.OFF if off else PowerState.ON)
    return Done()


async def _restart(context: Context, target: PowerTarget, timeout: float | None = None) -> None:
    """Switch the machine off and on, once.

    A machine that is on tells nobody whether it was off meanwhile. That it was is written down before it is switched on, so that
    a second run after a crash does only what is left. Where it must never be off, its driver restarts it, perhaps a second time.
    """
    if context.node.disable_power_off:
        await context.power.set_power_state(context, target, timeout=timeout)
    else:
        cursor = context.workflow.cursor
        if context.memo.get(_WAS_OFF) != cursor:
            off = PowerTarget.SOFT_OFF if target is PowerTarget.SOFT_REBOOT else PowerTarget.OFF
            await context.power.set_power_state(context, off, timeout=timeout)
            context.memo[_WAS_OFF] = cursor
            await context.checkpoint()
        await context.power.set_power_state(context, PowerTarget.ON, timeout=timeout)
        context.memo.pop(_WAS_OFF, None)
    _observed(context, PowerState.ON, restarted=True)


async def power_off(context: Context) -> Outcome:
    """Power the machine off, unless it is off or must never be."""
    if context.node.disable_power_off:
        return Done("The node must not be powered off.")
    await context.power.set_power_state(context, PowerTarget.OFF)
    _observed(context, PowerState.OFF)
    return Done()


async def power_on(context: Context) -> Outcome:
    """Power the machine on, unless it is on; where it must never be powered off, restart it once instead."""
    if context.node.disable_power_off and context.node.power_state is PowerState.ON:
        await context.power.set_power_state(context, PowerTarget.REBOOT)
        _observed(context, PowerState.ON, restarted=True)
        return Done()
    await context.power.set_power_state(context, PowerTarget.ON)
    _observed(context, PowerState.ON)
    return Done()


async def reboot(context: Context) -> Outcome:
    """Restart the machine."""
    await _restart(context, PowerTarget.REBOOT)
    return Done()


async def set_boot_device(context: Context, device: str, persistent: bool = False) -> Outcome:
    """Choose what the machine boots next. A disk is left to the firmware where the management interface cannot choose it."""
    if device == BootDevice.DISK and BootDevice.DISK not in context.management.supported_boot_devices(context):
        return Done("The firmware finds the disk by itself.")
    await context.management.set_boot_device(context, BootDevice(device), persistent=persistent)
    return Done(device)


async def prepare_deploy(context: Context) -> Outcome:
    """Check and fetch what the deployment needs, before the machine is touched."""
    await context.power.validate(context)
    await context.deploy.validate(context)
    if context.deploy.uses_ramdisk:
        await context.management.validate(context)
        await context.boot.validate(context)
    return await context.deploy.prepare(context)


async def wait_ramdisk(context: Context, timeout: float, boots: int = 1, of: str = "deploy") -> Outcome:
    """Wait until the ramdisk of this boot has called; in between boot the machine again.

    A network boot can fail for a passing reason: a lost datagram, or a metald that was restarting when the firmware asked.
    The machine then sits in front of nothing, or in what its disk held before, and only another boot leads on.

    Args:
        timeout: seconds for all boots together.
        boots: how many there are to be, the present one included.
        of: the interface type whose ramdisk it is.
    """
    whose = booter(context, of)
    if await whose.ramdisk_ready(context):
        return Done()
    share = timeout / boots
    again = ramdisk_again(timeout - share, boots - 1, of) if boots > 1 else ()
    return Wait(whose.calls_by, share, "the ramdisk to boot and call", callback=True, instead=again)


async def reuse_ramdisk(context: Context) -> Outcome:
    """Leave out the boot of the ramdisk when one runs that takes work."""
    steps = list(context.following)
    waits = next((at for at, step in enumerate(steps) if step.step == "wait_ramdisk"), None)
    if waits is None or not await context.deploy.reusable(context):
        return Done("The ramdisk is booted.")
    return Done("The ramdisk that runs is used again.", following=steps[waits + 1 :])


async def install(context: Context) -> Outcome:
    """Wait until the installer that was booted has written the disk."""
    return await context.deploy.install(context)


async def agent_steps(context: Context, phase: str, automatic: bool) -> Outcome:
    """Put the steps that the ramdisk offers into the plan."""
    return await context.deploy.agent_steps(context, phase, automatic)


def release(context: Context) -> None:
    """The claim on the node ends with its instance, in the same transaction."""
    node = context.node
    claim = context.rows_of(Allocation).get(node.allocation_uuid) if node.allocation_uuid else None
    if claim is not None:
        context.delete(claim)
        context.notes.append(Event(type="allocation.delete", node_uuid=node.uuid, subject=claim.uuid))


async def begin_cleaning(context: Context) -> Outcome:
    """The instance is gone: its data leaves the node, and cleaning begins."""
    if context.node.provision_state == "deleting":
        context.fire("clean")
        release(context)
        context.set(instance_info={}, instance_uuid=None, instance_name=None, allocation_uuid=None)
    return Done()


async def boot_inspection(context: Context, timeout: float, required: bool = False) -> Outcome:
    """Put the boot of the ramdisk that inspects into the plan, as far as the node's boot interface can have it booted.

    Args:
        context: the step's.
        timeout: seconds until the ramdisk must have called.
        required: whether an inspection that somebody else must boot fails (`inspection.require_managed_boot`).
    """
    await context.inspect.validate(context)
    try:
        if not context.boot.inspects:
            raise Invalid(
                f"Node {context.node.label}: boot interface {context.boot.name} boots no ramdisks for inspections.",
                remedy="Use another boot interface, or turn inspection.require_managed_boot off and see to the boot.",
                field="boot_interface",
            )
        await context.boot.validate(context)
    except Invalid:
        if required or context.inspect.calls_by:
            raise
        return Done("Whoever else boots machines here boots the ramdisk.", following=[*inspection_boot(None), *context.following])
    up = inspection_boot("inspect")
    if context.inspect.calls_by:
        waited_for = {"timeout": timeout, "boots": BOOTS, "of": "inspect"}
        up.append(PlannedStep(interface="deploy", step="wait_ramdisk", args=waited_for, requires_ramdisk=False))
    return Done(following=[*up, *context.following])


def inspection_boot(purpose: str | None) -> list[PlannedStep]:
    """The steps that start the machine from the network: with metald's ramdisk for a purpose, or with what others offer it."""
    offer: list[tuple[str, str, dict[str, Any]]] = []
    if purpose is not None:
        offer = [("network", "add_provisioning_network", {}), ("boot", "prepare_ramdisk", {"purpose": purpose})]
    steps = [("power", "power_off", {}), *offer, ("management", "set_boot_device", {"device": "pxe"}), ("power", "power_on", {})]
    return [PlannedStep(interface=interface, step=step, args=args, requires_ramdisk=False) for interface, step, args in steps]


async def inspect_hardware(context: Context, options: dict[str, Any] | None = None) -> Outcome:
    """Find out what is inside the machine.

    Args:
        context: the step's.
        options: the settings of `inspection`, as they were when the inspection began.
    """
    await context.inspect.validate(context)
    outcome = await context.inspect.inspect_hardware(context)
    if isinstance(outcome, Done):
        await findings.keep(context)
        await findings.use(context, options or {})
        context.set(inspection_finished_at=now())
    return outcome


async def adopt(context: Context) -> Outcome:
    """Take over a machine that runs its instance already: check its settings and read its power."""
    await context.power.validate(context)
    await context.management.validate(context)
    _observed(context, await context.power.get_power_state(context))
    return Done()


async def rescue(context: Context) -> Outcome:
    """Let the operator into the rescue ramdisk; the password is forgotten once it is set."""
    await context.rescue.validate(context)
    outcome = await context.rescue.rescue(context)
    if isinstance(outcome, Done) and outcome.following is None:
        info = {k: v for k, v in context.node.instance_info.items() if k not in ("rescue_password", "hashed_rescue_password")}
        context.set(instance_info=info)
    return outcome


async def unrescue(context: Context) -> Outcome:
    """Arrange that the machine boots its instance again."""
    await context.rescue.validate(context)
    return await context.rescue.unrescue(context)


async def hold(context: Context) -> Outcome:
    """Pause until an operator says `unhold`."""
    if context.memo.pop("unheld", False):
        return Done("unheld")
    return Hold("Held until somebody asks for unhold.")


async def pause(context: Context, seconds: float = 0) -> Outcome:
    """Wait a while."""
    if context.memo.get("paused") == context.workflow.cursor:
        return Done()
    context.memo["paused"] = context.workflow.cursor
    return Wait("timer", float(seconds), f"{seconds} seconds")


async def prepare_ramdisk(context: Context, purpose: str) -> Outcome:
    """Arrange that the next boot loads a ramdisk, in the firmware mode that is asked for."""
    told = await firmware.match_boot_mode(context)
    await context.boot.prepare_ramdisk(context, purpose)
    return Done(told)


async def prepare_instance(context: Context) -> Outcome:
    """Arrange that the next boot loads the instance, with secure boot if it asks for it."""
    await context.boot.prepare_instance(context)
    return Done(await firmware.match_secure_boot(context, True))


async def clean_up_instance(context: Context) -> Outcome:
    """Undo `prepare_instance`."""
    await context.boot.clean_up_instance(context)
    return Done(await firmware.match_secure_boot(context, False))


def _passed_on(interface: str, method: str) -> CoreStep:
    """A step that is nothing but one call of one of the node's interfaces."""

    async def passed_on(context: Context, **args: Any) -> Outcome:
        await getattr(getattr(context, interface), method)(context, **args)
        return Done()

    return passed_on


_PASSED_ON = (
    ("network", "add_provisioning_network"),
    ("network", "remove_provisioning_network"),
    ("network", "configure_tenant_networks"),
    ("network", "unconfigure_tenant_networks"),
    ("boot", "clean_up_ramdisk"),
    ("deploy", "tear_down"),
)

CORE_STEPS: Mapping[tuple[str, str], CoreStep] = MappingProxyType(
    {
        **{(interface, method): _passed_on(interface, method) for interface, method in _PASSED_ON},
        ("boot", "prepare_ramdisk"): prepare_ramdisk,
        ("boot", "prepare_instance"): prepare_instance,
        ("boot", "clean_up_instance"): clean_up_instance,
        ("power", "verify"): verify,
        ("power", "change"): change_power,
        ("power", "power_off"): power_off,
        ("power", "power_on"): power_on,
        ("power", "reboot"): reboot,
        ("management", "set_boot_device"): set_boot_device,
        ("clean", "validate_steps"): refuse,
        ("service", "validate_steps"): refuse,
        ("deploy", "prepare"): prepare_deploy,
        ("deploy", "wait_ramdisk"): wait_ramdisk,
        ("deploy", "agent_steps"): agent_steps,
        ("deploy", "begin_cleaning"): begin_cleaning,
        ("deploy", "install"): install,
        ("deploy", "reuse_ramdisk"): reuse_ramdisk,
        ("deploy", "adopt"): adopt,
        ("inspect", "boot"): boot_inspection,
        ("inspect", "inspect_hardware"): inspect_hardware,
        ("rescue", "rescue"): rescue,
        ("rescue", "unrescue"): unrescue,
        **HARDWARE_STEPS,
    }
)
"""The engine's own steps by (interface, step)."""

RESERVED: Mapping[str, CoreStep] = MappingProxyType(
    {"hold": hold, "wait": pause, "power_on": power_on, "power_off": power_off, "reboot": reboot}
)
"""Steps that a client may put into any list of steps, under whatever interface."""


def engine_step(interface: str, step: str) -> CoreStep | None:
    """The engine's own step of this name, if there is one."""
    return CORE_STEPS.get((interface, step)) or RESERVED.get(step)
