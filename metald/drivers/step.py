"""What every interface is made of: the contexts of its calls, the outcomes of its steps, and the marks that make methods steps.

`base` says what each type of interface does.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

from metald.model import Internals, Node, PlannedStep, Port

if TYPE_CHECKING:
    from metald.drivers.base import Boot, Deploy, Inspect, Management, Network, Power, Rescue


class Phase(StrEnum):
    """What a driver step is for."""

    CLEAN = "clean"
    DEPLOY = "deploy"
    SERVICE = "service"
    VERIFY = "verify"


@runtime_checkable
class NodeContext(Protocol):
    """What a call about one node gets: the node and its ports as they are now, and its own other interfaces."""

    @property
    def node(self) -> Node: ...
    @property
    def ports(self) -> Sequence[Port]: ...
    @property
    def internals(self) -> Internals: ...
    @property
    def power(self) -> Power: ...
    @property
    def management(self) -> Management: ...
    @property
    def boot(self) -> Boot: ...
    @property
    def deploy(self) -> Deploy: ...
    @property
    def network(self) -> Network: ...
    @property
    def inspect(self) -> Inspect: ...
    @property
    def rescue(self) -> Rescue: ...


@runtime_checkable
class StepContext(NodeContext, Protocol):
    """What a step of a workflow gets on top."""

    @property
    def memo(self) -> dict[str, Any]:
        """Durable scratch of the workflow: JSON values that later steps and later tries of this step need.

        It is written with every journal boundary: at the step's end and by `checkpoint`.
        """

    def set(self, **fields: Any) -> None:
        """Change fields of the node, in the same transaction as the next boundary (`node` shows them at once)."""

    def set_internals(self, **fields: Any) -> None:
        """Change fields of the node's internals, in the same transaction as the next boundary."""

    @property
    def step(self) -> PlannedStep:
        """The plan's entry for the present step."""

    @property
    def following(self) -> Sequence[PlannedStep]:
        """The steps that are planned behind the present one."""

    async def checkpoint(self) -> None:
        """Make `memo` and the fields given to `set` durable now. A journal boundary: returns once committed."""

    def progress(self, **fields: Any) -> None:
        """Show how far the step is (`bytes`, `total`, `rate`, `eta`, `message`). Free, not durable."""

    def note(self, kind: str, **data: Any) -> None:
        """Add a line to the node's time-line (event `node.<kind>`), written with the next boundary."""


@dataclass(frozen=True, slots=True)
class Done:
    """The step has had its effect."""

    detail: str = ""
    following: Sequence[PlannedStep] | None = None
    """The steps that come now, in place of those that were planned behind this one (`StepContext.following`)."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The step goes on when `signal` arrives for the node, or fails at the deadline.

    When the signal comes the same step is called again from its start: it looks whether what it waited for is there,
    so a signal that came before the wait is not lost either.
    """

    signal: str
    """`ramdisk`, `heartbeat`, `power`, or a name of the driver's own; `timer` when only time is awaited."""
    timeout: float
    """Seconds until the step fails with DeadlineExceeded, or for `timer` until it is called again."""
    reason: str
    """What is awaited, in words for users; becomes part of the error at the deadline."""
    callback: bool = False
    """Whether the machine's ramdisk is to call: the node then shows `wait call-back`, `clean wait` and so on."""
    renew: bool = False
    """Whether the deadline begins anew when the step, called again, waits on."""
    instead: Sequence[PlannedStep] = ()
    """Steps that run at the deadline instead of failing, before the plan goes on behind this one."""
    look: Callable[[], Awaitable[None]] | None = None
    """Looks out for what no signal may tell of, and returns when there is something to see: the step is then called again. It
    is not durable; after a restart of metald the step is called again at once instead."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The workflow pauses until an operator says `unhold`."""

    detail: str = ""


Outcome = Done | Wait | Hold
StepMethod = Callable[..., Awaitable[Outcome]]
M = TypeVar("M", bound=StepMethod)


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step that an interface offers. Priority 0 means: only when asked for by name."""

    phase: Phase
    interface: str
    step: str
    priority: int
    abortable: bool = False
    requires_ramdisk: bool = False
    argsinfo: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Argument name to `{"description": text, "required": bool}`."""


def step(
    phase: Phase,
    priority: int,
    *,
    abortable: bool = False,
    requires_ramdisk: bool = False,
    argsinfo: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[M], M]:
    """Mark a method `async def name(self, ctx: StepContext, **args) -> Outcome` as a step of its interface."""

    def mark(method: M) -> M:
        marks = list(getattr(method, "_metald_steps", ()))
        marks.append((phase, priority, abortable, requires_ramdisk, dict(argsinfo or {})))
        method._metald_steps = tuple(marks)  # type: ignore[attr-defined]
        return method

    return mark


class Interface(ABC):
    """Base of every implementation. `kind` is one of the thirteen interface types, `name` the implementation's name."""

    kind: ClassVar[str]
    name: ClassVar[str]

    def properties(self) -> Mapping[str, str]:
        """The driver_info keys it reads, each with a help text."""
        return {}

    def stands_in(self, node: Node) -> str:  # noqa: ARG002
        """The name of the implementation that does the work for a node in place of this one; empty for itself."""
        return ""

    async def validate(self, ctx: NodeContext) -> None:  # noqa: B027  # most have nothing to check
        """Check the node's settings without touching hardware.

        Raises:
            Invalid: names what is missing or wrong.
        """

    def steps(self, phase: Phase) -> list[StepSpec]:
        """The marked steps of a phase."""
        return [StepSpec(phase, self.kind, name, *mark) for name, mark in _marked(cast(Any, type(self)), phase)]


@cache
def _marked(implementation: type[Any], phase: Phase) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Names and marks of the methods of a class that are steps of a phase."""
    marks = ((name, mark) for name in dir(implementation) for mark in getattr(getattr(implementation, name), "_metald_steps", ()))
    return tuple((name, mark[1:]) for name, mark in marks if mark[0] is phase)
