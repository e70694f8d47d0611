"""Builds plans: which steps of which interfaces, in what order.

Steps of interfaces run by priority, highest first; among equals by the interface's own rank. A step of priority 0 runs
only when somebody asks for it by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from metald.drivers.base import Deploy, Phase, StepSpec
from metald.drivers.registry import Registry
from metald.errors import Invalid
from metald.model import Node, PlannedStep, Verb
from metald.statemachine.steps import BOOTS, RESERVED

STEP_INTERFACES: Mapping[str, int] = MappingProxyType(
    {"vendor": 7, "power": 6, "management": 5, "firmware": 4, "deploy": 3, "bios": 2, "raid": 1}
)
"""Interfaces that may offer steps, with their rank among equal priorities."""


def core(interface: str, step: str, **args: Any) -> PlannedStep:
    """One of the engine's own steps."""
    return PlannedStep(interface=interface, step=step, args=args, requires_ramdisk=False)


def offered(registry: Registry, node: Node, phase: Phase) -> dict[tuple[str, str], StepSpec]:
    """Every step that the node's interfaces offer for a phase."""
    found = {}
    for kind in STEP_INTERFACES:
        if registry.supported(node.driver, kind):
            for spec in registry.for_node(node, kind).steps(phase):
                found[kind, spec.step] = spec
    return found


def ordered(specs: Sequence[StepSpec]) -> list[StepSpec]:
    """Steps in the order in which they run."""
    return sorted(specs, key=lambda s: (-s.priority, -STEP_INTERFACES[s.interface], s.step))


def planned(spec: StepSpec, args: Mapping[str, Any] | None = None, priority: int | None = None) -> PlannedStep:
    """A plan's entry for an offered step."""
    return PlannedStep(
        interface=spec.interface,
        step=spec.step,
        args=dict(args or {}),
        priority=spec.priority if priority is None else priority,
        abortable=spec.abortable,
        requires_ramdisk=spec.requires_ramdisk,
    )


def automatic(registry: Registry, node: Node, phase: Phase) -> list[PlannedStep]:
    """The steps that run without being asked for."""
    return [planned(spec) for spec in ordered([s for s in offered(registry, node, phase).values() if s.priority > 0])]


def requested(registry: Registry, node: Node, phase: Phase, steps: Sequence[Mapping[str, Any]], field: str) -> list[PlannedStep]:
    """The steps that a client asked for, in the client's order.

    Args:
        registry: hardware types and interfaces.
        node: for which node.
        phase: what the steps are for.
        steps: items of `interface`, `step`, `args`.
        field: name of the request's field, for errors.

    Raises:
        Invalid: a step is not offered, or an argument is missing or unknown.
    """
    known = offered(registry, node, phase)
    plan = []
    for item in steps:
        if item["step"] in RESERVED:
            plan.append(_reserved(item, field))
            continue
        spec = known.get((item["interface"], item["step"]))
        if spec is None and in_band(registry, node) and item["interface"] in STEP_INTERFACES:
            plan.append(_of_agent(item, phase))
            continue
        if spec is None:
            names = ", ".join(f"{i}.{s}" for i, s in sorted(known)) or "none"
            raise Invalid(
                f"Node {node.label} has no {phase.value} step {item['interface']}.{item['step']}.",
                remedy=f"It offers: {names}.",
                field=field,
            )
        args = item.get("args") or {}
        _check_args(spec, args, field)
        plan.append(planned(spec, args, item.get("priority")))
    return plan


def in_band(registry: Registry, node: Node) -> bool:
    """Whether the node's ramdisk offers steps of its own, which nobody knows before it runs."""
    return cast(Deploy, registry.for_node(node, "deploy")).in_band


def _of_agent(item: Mapping[str, Any], phase: Phase) -> PlannedStep:
    """A step that only the ramdisk can offer; whether it does is found out when it runs."""
    return PlannedStep(
        interface=item["interface"],
        step=item["step"],
        args=dict(item.get("args") or {}),
        priority=item.get("priority") or 0,
        in_band=phase.value,
    )


def refused(verb: Verb, error: Invalid) -> list[PlannedStep]:
    """The plan of steps that cannot be run: it fails with the reason before anything is done to the machine."""
    return [core(verb.value, "validate_steps", reason=error.message, remedy=error.remedy)]


def without_ramdisk(steps: Sequence[PlannedStep], field: str) -> list[PlannedStep]:
    """Steps that are to run without a ramdisk.

    Raises:
        Invalid: one of them needs it.
    """
    needy = [step for step in steps if step.requires_ramdisk]
    if needy:
        raise Invalid(
            f"Step {needy[0].interface}.{needy[0].step} requires booting a ramdisk.", remedy="Leave disable_ramdisk away.", field=field
        )
    return list(steps)


def _reserved(item: Mapping[str, Any], field: str) -> PlannedStep:
    args = item.get("args") or {}
    seconds = args.get("seconds", 0)
    if set(args) - ({"seconds"} if item["step"] == "wait" else set()) or not isinstance(seconds, int | float) or seconds < 0:
        raise Invalid(f"Step {item['step']} has wrong arguments.", remedy="Only wait takes one: seconds, a number.", field=field)
    return PlannedStep(
        interface=item["interface"], step=item["step"], args=dict(args), priority=item.get("priority") or 0, requires_ramdisk=False
    )


def _check_args(spec: StepSpec, args: Mapping[str, Any], field: str) -> None:
    missing = [n for n, info in spec.argsinfo.items() if info.get("required") and n not in args]
    unknown = [n for n in args if n not in spec.argsinfo]
    if missing or unknown:
        what = f"needs the argument {missing[0]}" if missing else f"does not know the argument {unknown[0]}"
        raise Invalid(
            f"Step {spec.interface}.{spec.step} {what}.", remedy=f"Its arguments: {', '.join(spec.argsinfo) or 'none'}.", field=field
        )


def ramdisk_up(purpose: str, timeout: float, *, ask: Phase | None = None, automatic: bool = False, of: str = "deploy") -> list[PlannedStep]:
    """The steps from whatever the machine does now to a ramdisk that has called.

    Args:
        purpose: what it is booted for.
        timeout: seconds until it must have called.
        ask: the phase whose steps the ramdisk is asked for then; None asks for none.
        automatic: whether steps of the ramdisk run that nobody asked for.
        of: the interface type whose ramdisk it is.
    """
    whose = {"of": of} if of != "deploy" else {}
    return [
        core("power", "power_off"),
        core("network", "add_provisioning_network"),
        core("boot", "prepare_ramdisk", purpose=purpose),
        core("management", "set_boot_device", device="pxe"),
        core("power", "power_on"),
        core("deploy", "wait_ramdisk", timeout=timeout, boots=BOOTS, **whose),
        *([core("deploy", "agent_steps", phase=ask.value, automatic=automatic)] if ask else []),
    ]


def reused(deploy: Deploy, up: list[PlannedStep]) -> list[PlannedStep]:
    """The steps of `ramdisk_up`, which are left out when the deploy interface's ramdisk runs already."""
    return [core("deploy", "reuse_ramdisk"), *up] if deploy.fast_track else up


def ramdisk_down() -> list[PlannedStep]:
    """The steps that end a ramdisk and leave the machine off."""
    return [
        core("power", "power_off"),
        core("boot", "clean_up_ramdisk"),
        core("network", "remove_provisioning_network"),
    ]
