"""What is in the data of each type of event. `eventtypes.py` says which type has which.

Rule: a payload may grow fields; none goes away, and none changes its meaning.
"""

from __future__ import annotations

import msgspec

from metald.model.states import Fault, PowerState, PowerTarget, ProvisionState


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all payloads: the `data` of an event."""


class Nothing(Payload, frozen=True, kw_only=True):
    """No facts beside those of the envelope."""


class NodeCreated(Payload, frozen=True, kw_only=True):
    """A node was enrolled."""

    name: str | None = None
    driver: str


class NodeDeleted(Payload, frozen=True, kw_only=True):
    """A node was removed; who owned it, for those who may know."""

    name: str | None = None
    owner: str | None = None
    lessee: str | None = None
    shard: str | None = None


class Fields(Payload, frozen=True, kw_only=True):
    """Which fields changed."""

    fields: list[str] = []


class MaintenanceSet(Payload, frozen=True, kw_only=True):
    """Maintenance was set or cleared, by a client or because the power state could not be read."""

    maintenance: bool
    reason: str | None = None
    fault: Fault | None = None
    """What metald found wrong, while that keeps the node out of service."""
    exchange: list[str] = []
    """What was said to the BMC last, when its power could not be read."""


class Provision(Payload, frozen=True, kw_only=True):
    """The provision state moved."""

    event: str
    """The verb that was asked for, or the internal event of the workflow."""
    from_: ProvisionState = msgspec.field(name="from")
    to: ProvisionState
    target: str | None = None
    previous_target: str | None = None
    workflow: str | None = None
    """UUID of the workflow that moves it."""
    kind: str | None = None
    """Kind of that workflow."""
    cause: str | None = None
    """Code of the failure, if it failed."""
    seconds: float | None = None
    """How long the node was in the state that it left."""
    error: str | None = None


class Step(Payload, frozen=True, kw_only=True):
    """A line of the journal: a step ended, waits, or is tried again; `next` has begun."""

    kind: str
    """Kind of the workflow."""
    interface: str
    step: str
    outcome: str
    """`done`, `wait`, `hold`, `retry`, `failed`."""
    attempt: int
    seconds: float
    detail: str = ""
    next: str | None = None
    """`interface.step` of the step that begins with the end of this one."""


class StepBegun(Payload, frozen=True, kw_only=True):
    """A step begins; tries after the first are told of by the try before."""

    kind: str
    """Kind of the workflow."""
    interface: str
    step: str
    place: int
    """Which of the workflow's steps it is, from 1 on."""
    steps: int
    """How many steps the workflow has, as far as is known now."""


class Progress(Payload, frozen=True, kw_only=True):
    """How far the running step has come; at most one for a node in `conductor.progress_interval` seconds."""

    message: str | None = None
    bytes: int | None = None
    done: int | None = None
    total: int | None = None
    rate: int | None = None
    """Bytes per second."""
    eta: float | None = None
    """Seconds that are left."""


class WorkflowEnded(Payload, frozen=True, kw_only=True):
    """A workflow ended."""

    kind: str
    state: str
    cause: str | None = None
    error: str | None = None
    seconds: float
    target: PowerTarget | None = None
    """What a client asked for, when it was a power change."""
    exchange: list[str] = []
    """What was said to the BMC last, when it was the BMC that failed."""


class PowerAsked(Payload, frozen=True, kw_only=True):
    """A client asked for a power change."""

    target: PowerTarget
    from_: PowerState | None = msgspec.field(name="from")


class PowerSeen(Payload, frozen=True, kw_only=True):
    """The machine's power is not what it was."""

    from_: PowerState | None = msgspec.field(name="from")
    to: PowerState | None
    wanted: str | None = None
    """The power state that was last asked for."""
    workflow: str | None = None
    """UUID of the workflow that looked, or that changed it; none when metald just looked now and then."""
    kind: str | None = None
    """Kind of that workflow."""


class BootDeviceSet(Payload, frozen=True, kw_only=True):
    """A client set the boot device."""

    device: str
    persistent: bool


class Hardware(Payload, frozen=True, kw_only=True):
    """A client asked for something of the hardware that takes a while: boot mode, secure boot, console, virtual media."""

    step: str
    method: str | None = None


class Vendor(Payload, frozen=True, kw_only=True):
    """A client called a vendor's method."""

    method: str


class BmcAnswer(Payload, frozen=True, kw_only=True):
    """What the BMC answered to a raw command of a step; `data` in hexadecimal."""

    netfn: int
    command: int
    data: str


class Indicator(Payload, frozen=True, kw_only=True):
    """A client set an indicator light."""

    indicator: str
    state: str


class Fetched(Payload, frozen=True, kw_only=True):
    """A boot server answered a request of the machine."""

    client: str | None = None
    """Its IP address."""
    file: str
    bytes: int = 0
    seconds: float | None = None
    status: int | None = None
    method: str | None = None
    blksize: int | None = None
    windowsize: int | None = None
    retransmits: int | None = None
    probe: str | None = None
    """`size` when only the size was asked for, as UEFI firmware does first; `absent`: a file that boot loaders can do without."""
    handed_over: bool | None = None
    """Whether a front (`boot.http_fronts`) sends it, which does not say how much arrived."""
    error: str | None = None


class Lease(Payload, frozen=True, kw_only=True):
    """The DHCP server was asked by the machine."""

    client: str | None = None
    """The address that the machine was given."""
    mac: str | None = None
    file: str | None = None
    """The boot file that it was told."""
    asked: str | None = None
    """`discover`, `request`, `decline`, `inform`."""
    answer: str | None = None
    """`offer`, `ack`, `nak`; none when there was no answer."""
    firmware: str | None = None
    """`pxe`, `http` (UEFI HTTP boot), `ipxe`, or `system` for one that is not booting from the network."""
    architecture: str | None = None
    machine_id: bool | None = None
    """Whether it told its UUID (option 97)."""
    machine: str | None = None
    """That UUID."""
    server: str | None = None
    """Another DHCP server that answered, or that the machine chose."""
    overheard: bool | None = None
    """Whether it was said between others (`dhcp.watch`)."""
    count: int | None = None
    """How often it asked just that since it was last told of."""
    error: str | None = None


class UnknownBoot(Payload, frozen=True, kw_only=True):
    """A machine that booted has no MAC address that is a port."""

    client: str
    mac: list[str]
    file: str | None = None


class BootStopped(Payload, frozen=True, kw_only=True):
    """The boot doctor found out why a machine does not boot."""

    stage: str
    """How far it came: `power`, `dhcp`, `loader`, `script`, `kernel`, `ramdisk`."""
    seconds: float
    """Since it was last seen; 0 where it did not wait for that."""
    cause: str
    """A code, such as `two-dhcp-servers`, `mtu`, `wrong-architecture`, `secure-boot`."""
    error: str
    """The likely cause, a sentence."""
    seen: str
    """The last thing that was seen of it."""
    remedy: str | None = None
    mac: str | None = None


class BootWarning(Payload, frozen=True, kw_only=True):
    """The boot doctor found something wrong that may not keep this boot from going on."""

    stage: str
    """How far it had come when that was found; see `node.boot_stopped`."""
    cause: str
    """A code: `two-dhcp-servers`."""
    warning: str
    """A sentence."""
    remedy: str | None = None
    mac: str | None = None


class Ramdisk(Payload, frozen=True, kw_only=True):
    """The ramdisk of this boot called."""

    address: str
    port: int | None = None
    uptime: float | None = None
    boot_mode: str | None = None
    macs: list[str] | None = None


class Heartbeat(Payload, frozen=True, kw_only=True):
    """A deploy agent called."""

    url: str | None = None
    status: str | None = None
    message: str | None = None


class AgentToken(Payload, frozen=True, kw_only=True):
    """A deploy agent asked again which node it is on."""

    address: str | None = None
    """Where it asked from."""
    reason: str
    """Why it was given a token, or none."""


class AgentLogs(Payload, frozen=True, kw_only=True):
    """The logs of a deploy agent were kept."""

    file: str
    bytes: int


class AgentLost(Payload, frozen=True, kw_only=True):
    """A deploy agent went away in the middle of its work."""

    reason: str


class Erasure(Payload, frozen=True, kw_only=True):
    """A disk was erased wholly, or could not erase itself."""

    disk: str
    method: str
    """`nvme`, `nvme-crypto`, `ata`, `ata-enhanced`, or `zero` where it was overwritten."""
    error: str | None = None
    """Why it could not erase itself; it is overwritten then."""


class InventoryTaken(Payload, frozen=True, kw_only=True):
    """A ramdisk handed in an inventory."""

    interfaces: int


class Inspected(Payload, frozen=True, kw_only=True):
    """Hooks and rules were applied to an inventory."""

    rules: list[str] = []
    """UUIDs of the rules whose conditions held."""
    ports: int = 0


class ImageWritten(Payload, frozen=True, kw_only=True):
    """An image is on the disk."""

    disk: str
    bytes: int
    seconds: float | None = None
    sha512: str | None = None


class PortFacts(Payload, frozen=True, kw_only=True):
    """A port was made or removed."""

    address: str | None = None


class ConsoleSwitched(Payload, frozen=True, kw_only=True):
    """A machine's console is open now, or is not any more."""

    enabled: bool
    error: str | None = None
    """Why it could not be opened again after a restart."""


class Failed(Payload, frozen=True, kw_only=True):
    """It failed."""

    error: str


class CommandRejected(Payload, frozen=True, kw_only=True):
    """A message was no command, or its sender may not send it."""

    verb: str
    reason: str
    id: str | None = None
    """What the sender calls it."""


class Dropped(Payload, frozen=True, kw_only=True):
    """Stands where events were let go before they could be told; not stored."""

    first: int
    last: int
    count: int
