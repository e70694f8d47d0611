"""The contracts between the engine and everything that touches a machine.

A hardware type names the implementations that work together; an implementation ("interface") is a small object built
once per daemon, which holds no node state: whatever it needs of a node comes in through the context of the call.

Rules that every implementation keeps:

- Every method is a coroutine that never blocks the loop and has a deadline of its own.
- Failures are typed (`metald.errors`): `WorldError` and below when the machine said no, `Invalid` when the node's
  settings are wrong. The text names cause and remedy and never a secret.
- Steps may run twice: look first, then act. A step that is called again after a crash finds what it did already.
- `validate` never talks to hardware.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from metald.drivers.board import Board
from metald.drivers.step import (
    Done,
    Hold,
    Interface,
    NodeContext,
    Outcome,
    Phase,
    StepContext,
    StepMethod,
    StepSpec,
    Wait,
    step,
)
from metald.errors import Unsupported
from metald.model import BootDevice, Node, PlannedStep, PowerState, PowerTarget

__all__ = [
    "Boot",
    "Deploy",
    "Done",
    "HardwareType",
    "Hold",
    "Inspect",
    "Interface",
    "Management",
    "Network",
    "NodeContext",
    "Outcome",
    "Phase",
    "Power",
    "Rescue",
    "Sensor",
    "StepContext",
    "StepMethod",
    "StepSpec",
    "Wait",
    "booter",
    "ramdisk_again",
    "step",
]


@dataclass(frozen=True, slots=True)
class Sensor:
    """One reading of one sensor."""

    name: str
    type: str
    """What it measures, in IPMI's words: `Temperature`, `Fan`, `Voltage`, `Power Supply` ..."""
    value: float | None
    """None where it has no number, or no reading at present."""
    units: str
    """Such as `°C` or `RPM`; empty where there is none."""
    health: str
    """`ok`, `warning`, `critical` or `failed`."""
    states: Sequence[str]
    """What holds at present, in words."""


class Power(Interface):
    """Turns machines on and off."""

    kind = "power"

    @abstractmethod
    async def get_power_state(self, ctx: NodeContext) -> PowerState:
        """Ask the hardware.

        Raises:
            DriverError: the BMC cannot be asked.
        """

    @abstractmethod
    async def set_power_state(self, ctx: NodeContext, target: PowerTarget, *, timeout: float | None = None) -> None:
        """Bring the machine to `target` and return once the hardware says it is there.

        A target that is reached already is no error and causes no effect, but REBOOT and SOFT_REBOOT always act.

        Args:
            timeout: seconds to wait for the change; the implementation's setting when None.

        Raises:
            DriverError: the BMC refused or cannot be asked.
            DeadlineExceeded: the power did not change in time.
        """

    def supported_targets(self, ctx: NodeContext) -> frozenset[PowerTarget]:  # noqa: ARG002
        """The targets that `set_power_state` takes."""
        return frozenset(PowerTarget)


class Management(Board, Interface):
    """Boot device and NMI, and what `Board` offers: indicators, boot mode, secure boot, virtual media."""

    kind = "management"

    @abstractmethod
    def supported_boot_devices(self, ctx: NodeContext) -> Sequence[BootDevice]:
        """The devices that `set_boot_device` takes."""

    @abstractmethod
    async def get_boot_device(self, ctx: NodeContext) -> tuple[BootDevice | None, bool | None]:
        """The next boot device and whether it is persistent; (None, None) when unknown."""

    @abstractmethod
    async def set_boot_device(self, ctx: NodeContext, device: BootDevice, *, persistent: bool = False) -> None:
        """Choose the boot device for the next boot, or for all. Honours the node's boot mode."""

    async def sensors(self, ctx: NodeContext) -> Sequence[Sensor]:
        """Read every sensor of the machine once. May take a while the first time.

        Raises:
            Unsupported: this implementation cannot.
            DriverError: the BMC cannot be asked.
        """
        raise self._cannot(ctx, "read sensors")

    async def parts(self, ctx: NodeContext) -> Sequence[Mapping[str, Any]]:
        """What the BMC knows of the machine's replaceable parts: `name` and `info` each. May take a while.

        Raises:
            Unsupported: this implementation cannot.
            DriverError: the BMC cannot be asked.
        """
        raise self._cannot(ctx, "read parts")

    async def network(self, ctx: NodeContext) -> Mapping[str, Any]:
        """How the BMC itself is on the network.

        Raises:
            Unsupported: this implementation cannot.
            DriverError: the BMC cannot be asked.
        """
        raise self._cannot(ctx, "read the BMC's network settings")

    async def event_log(self, ctx: NodeContext) -> Sequence[Mapping[str, Any]]:
        """The BMC's own log of events, oldest first. May take a while.

        Raises:
            Unsupported: this implementation cannot.
            DriverError: the BMC cannot be asked.
        """
        raise self._cannot(ctx, "read an event log")

    def _cannot(self, ctx: NodeContext, what: str) -> Unsupported:
        return Unsupported(f"Node {ctx.node.label}: management interface {self.name} cannot {what}.")

    def exchange(self, ctx: NodeContext) -> Sequence[Mapping[str, Any]]:
        """What was said to the BMC last and what it answered, oldest first: `at` and `what` each, without secrets.

        Raises:
            Unsupported: this implementation keeps no record.
        """
        raise Unsupported(f"Node {ctx.node.label}: management interface {self.name} keeps no record of what it said to the BMC.")

    async def inject_nmi(self, ctx: NodeContext) -> None:
        """Send a non-maskable interrupt.

        Raises:
            Unsupported: this implementation cannot.
        """
        raise Unsupported(f"Driver {ctx.node.driver} does not support inject_nmi (disabled or not implemented).")


def ramdisk_again(timeout: float, boots: int, of: str = "deploy") -> Sequence[PlannedStep]:
    """The engine's steps that boot a ramdisk once more which was prepared already.

    Args:
        timeout: seconds until it must have called, for all boots together.
        boots: how many there may be.
        of: the interface type whose ramdisk it is: `deploy`, `inspect` or `rescue`.
    """
    waited_for = {"timeout": timeout, "boots": boots, **({"of": of} if of != "deploy" else {})}
    return (
        PlannedStep(interface="power", step="power_off", requires_ramdisk=False),
        PlannedStep(interface="management", step="set_boot_device", args={"device": "pxe"}, requires_ramdisk=False),
        PlannedStep(interface="power", step="power_on", requires_ramdisk=False),
        PlannedStep(interface="deploy", step="wait_ramdisk", args=waited_for, requires_ramdisk=False),
    )


class Boot(Interface):
    """Makes the machine's next network boot load what the workflow wants."""

    kind = "boot"
    inspects: ClassVar[bool] = False
    """Whether it boots ramdisks for inspections. Where it does not, somebody else does."""
    boots_instances: ClassVar[bool] = False
    """Whether `prepare_instance` can have the machine boot its instance from the network (`Deploy.netboots`)."""

    def check_instance(self, ctx: NodeContext) -> None:  # who boots only disks has nothing to check
        """Whether the instance can be booted from the network, as far as the node's settings tell.

        Raises:
            Invalid: names the field and the remedy.
        """

    @abstractmethod
    async def prepare_ramdisk(self, ctx: StepContext, purpose: str) -> None:
        """Arrange that the next boot loads the ramdisk for `purpose` (`deploy`, `clean`, `rescue`, `inspect`).

        Creates the credentials of that boot (see `boot/credentials.py`) unless this workflow has them already.
        """

    @abstractmethod
    async def clean_up_ramdisk(self, ctx: StepContext) -> None:
        """Take the ramdisk and its credentials away."""

    @abstractmethod
    async def prepare_instance(self, ctx: StepContext) -> None:
        """Arrange that the next boot loads the deployed instance."""

    @abstractmethod
    async def clean_up_instance(self, ctx: StepContext) -> None:
        """Undo `prepare_instance`."""


class Deploy(Interface):
    """Puts an instance on the machine by its deploy steps."""

    kind = "deploy"
    uses_ramdisk: ClassVar[bool] = True
    """Whether steps marked `requires_ramdisk` run in a booted ramdisk, which the workflow then boots before them."""
    in_band: ClassVar[bool] = False
    """Whether the ramdisk offers steps of its own, which are asked for once it has called (`agent_steps`)."""
    calls_by: ClassVar[str] = "ramdisk"
    """The signal by which its ramdisk calls."""
    agent: ClassVar[bool] = False
    """Whether its ramdisk holds the Ironic Python Agent."""
    netboots: ClassVar[bool] = False
    """Whether instances boot from the network (`instance_boot`), so that deploying one needs no ramdisk."""
    installs: ClassVar[bool] = False
    """Whether what boots is an installer, whose end is waited for (`install`) before the instance boots from the disk."""

    def instance_boot(self, node: Node, ctx: StepContext | None = None) -> dict[str, str] | None:  # noqa: ARG002
        """What the instance boots from the network: its kind and the URLs of its parts; None when it boots from its disk.

        Args:
            node: whose instance it is.
            ctx: the step's that arranges the boot, when there is one.

        Raises:
            Invalid: `instance_info` lacks a part.
        """
        return None

    async def install(self, ctx: StepContext) -> Outcome:
        """Wait until the installer has written the disk."""
        raise Unsupported(f"Node {ctx.node.label}: deploy interface {self.name} boots no installer.")

    @property
    def fast_track(self) -> bool:
        """Whether a ramdisk that has done its work stays, and is used again (`reusable`) without another boot."""
        return False

    async def reusable(self, ctx: StepContext) -> bool:  # noqa: ARG002
        """Whether a ramdisk runs on the machine that takes work now."""
        return False

    async def prepare(self, ctx: StepContext) -> Outcome:  # noqa: ARG002
        """Before the machine is touched: check and fetch what the deployment needs."""
        return Done()

    @abstractmethod
    async def ramdisk_ready(self, ctx: StepContext) -> bool:
        """Whether the ramdisk of this boot has called and takes work."""

    async def agent_steps(self, ctx: StepContext, phase: str, automatic: bool) -> Outcome:  # noqa: ARG002
        """Ask the ramdisk for the steps that it offers for a phase, and put them into the plan.

        Args:
            ctx: the step's.
            phase: a `Phase`.
            automatic: whether steps that nobody asked for are to run.

        Raises:
            Invalid: a step that was asked for is not offered.
        """
        raise Unsupported(f"Node {ctx.node.label}: the ramdisk of deploy interface {self.name} offers no {phase} steps.")

    async def agent_step(self, ctx: StepContext) -> Outcome:
        """Have the ramdisk carry out the present step, which is one of its own."""
        raise Unsupported(f"Node {ctx.node.label}: the ramdisk of deploy interface {self.name} has no step {ctx.step.step}.")

    async def tear_down(self, ctx: StepContext) -> None:
        """Forget the instance: caches, config drives, files."""


class Inspect(Interface):
    """Finds out what is inside the machine."""

    kind = "inspect"
    in_ramdisk: ClassVar[bool] = False
    """Whether a ramdisk finds out, which the workflow boots where the boot interface can."""
    calls_by: ClassVar[str] = ""
    """The signal by which that ramdisk calls before it can be asked; empty where it is not asked, but tells."""
    agent: ClassVar[bool] = False
    """Whether its ramdisk holds the Ironic Python Agent."""

    async def ramdisk_ready(self, ctx: StepContext) -> bool:  # noqa: ARG002
        """Whether the ramdisk of this boot has called and takes work."""
        return True

    @abstractmethod
    async def inspect_hardware(self, ctx: StepContext) -> Outcome:
        """Record the machine's properties (`ctx.set(properties=...)`), at once or by waiting for its ramdisk."""


class Rescue(Interface):
    """Boots an operator's ramdisk on a machine whose instance is broken."""

    kind = "rescue"
    in_ramdisk: ClassVar[bool] = False
    """Whether the workflow boots a ramdisk before `rescue`, and the instance behind `unrescue`."""
    calls_by: ClassVar[str] = "heartbeat"
    """The signal by which that ramdisk calls."""
    agent: ClassVar[bool] = False
    """Whether its ramdisk holds the Ironic Python Agent."""

    async def ramdisk_ready(self, ctx: StepContext) -> bool:  # noqa: ARG002
        """Whether the ramdisk of this boot has called and takes work."""
        return True

    @abstractmethod
    async def rescue(self, ctx: StepContext) -> Outcome:
        """Let the operator into the rescue ramdisk; the password is `instance_info["hashed_rescue_password"]`, SHA-512 crypt."""

    @abstractmethod
    async def unrescue(self, ctx: StepContext) -> Outcome:
        """Arrange that the machine boots its instance again."""


def booter(ctx: NodeContext, purpose: str) -> Deploy | Inspect | Rescue:
    """The interface that has a ramdisk booted for a purpose (`inspect`, `rescue`, or one of the deploy interface's)."""
    if purpose == "inspect":
        return ctx.inspect
    return ctx.rescue if purpose == "rescue" else ctx.deploy


class Network(Interface):
    """Connects machines to provisioning, cleaning and tenant networks."""

    kind = "network"

    async def add_provisioning_network(self, ctx: StepContext) -> None:
        """Let the machine's ports boot from the network: DHCP provider entries."""

    async def remove_provisioning_network(self, ctx: StepContext) -> None:
        """Undo `add_provisioning_network`."""

    async def configure_tenant_networks(self, ctx: StepContext) -> None:
        """Connect the ports to what the instance asked for."""

    async def unconfigure_tenant_networks(self, ctx: StepContext) -> None:
        """Undo `configure_tenant_networks`."""


@dataclass(frozen=True, slots=True)
class HardwareType:
    """A named family of machines and the implementations that work on them, best first per interface type."""

    name: str
    interfaces: Mapping[str, Sequence[str]]
    any_combination: bool = False
    """Whether implementations listed by other hardware types are admitted too (fake-hardware)."""
