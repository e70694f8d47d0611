"""The registry of event types: what can happen, in one table, with the payload of each.

Every event that metald emits has its type here; tests hold the code to it, and the AsyncAPI document and
docs/reference/events.md are made from it. A payload may grow fields; none goes away, and none changes its meaning.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

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


class EventType(msgspec.Struct, frozen=True):
    """One type of event."""

    name: str
    text: str
    """What it tells of, as the end of "Tells of ..."."""
    payload: type[Payload]

    @property
    def of_node(self) -> bool:
        """Whether it is always about a node."""
        return self.name.startswith("node.")


_NODE: tuple[tuple[str, str, type[Payload]], ...] = (
    ("node.create", "a new node", NodeCreated),
    ("node.update", "a client's change of a node", Fields),
    ("node.delete", "a node that is gone", NodeDeleted),
    ("node.maintenance", "maintenance set or cleared, by a client or by a fault", MaintenanceSet),
    ("node.provision", "a move of the provision state", Provision),
    ("node.step_begun", "a step that begins", StepBegun),
    ("node.step", "the end of a step, a wait, or another try", Step),
    ("node.progress", "how far the running step has come", Progress),
    ("node.workflow", "the end of a workflow", WorkflowEnded),
    ("node.power", "a client's wish for a power change", PowerAsked),
    ("node.power_seen", "another power state than the one known", PowerSeen),
    ("node.boot_device", "a new boot device", BootDeviceSet),
    ("node.nmi", "a non-maskable interrupt that a client sent", Nothing),
    ("node.hardware", "a client's wish of the hardware, console included", Hardware),
    ("node.console", "a console that was opened or closed, or could not be opened again after a restart", ConsoleSwitched),
    ("node.vendor", "a vendor's method that a client called", Vendor),
    ("node.bmc_answer", "the answer to a raw command of a step", BmcAnswer),
    ("node.indicator", "an indicator light that a client set", Indicator),
    ("node.dhcp", "a question of the machine to the DHCP server", Lease),
    ("node.tftp", "a file that the machine asked for over TFTP", Fetched),
    ("node.http", "a file that the machine asked for over HTTP", Fetched),
    ("node.boot_stopped", "a boot that stopped, and the likely cause", BootStopped),
    ("node.ramdisk", "a ramdisk that called", Ramdisk),
    ("node.agent_lookup", "a deploy agent that asked which node it is on", Nothing),
    ("node.heartbeat", "a heartbeat of a deploy agent", Heartbeat),
    ("node.agent_token", "a deploy agent that asked again which node it is on", AgentToken),
    ("node.agent_logs", "the logs of a deploy agent that were kept", AgentLogs),
    ("node.agent_lost", "a deploy agent that went away in the middle of its work", AgentLost),
    ("node.erasure", "a disk that was erased wholly, or could not erase itself", Erasure),
    ("node.inventory", "an inventory that a ramdisk handed in", InventoryTaken),
    ("node.inspection", "hooks and rules that were applied to an inventory", Inspected),
    ("node.image_written", "an image that was written and checked", ImageWritten),
)

_RESOURCES = (
    "allocation",
    "chassis",
    "deploy_template",
    "inspection_rule",
    "port",
    "portgroup",
    "runbook",
    "volume_connector",
    "volume_target",
)


def _resource(word: str) -> list[EventType]:
    noun = word.replace("_", " ")
    made: type[Payload] = PortFacts if word == "port" else Nothing
    article = "an" if noun[0] in "aeiou" else "a"
    return [
        EventType(f"{word}.create", f"a new {noun}", made),
        EventType(f"{word}.update", f"a change of {article} {noun}", Fields),
        EventType(f"{word}.delete", f"{article} {noun} that is gone", made),
    ]


_ALL = (
    *(EventType(*row) for row in _NODE),
    *(one for word in _RESOURCES for one in _resource(word)),
    EventType("allocation.active", "an allocation that got its node", Nothing),
    EventType("allocation.failed", "an allocation that found no node", Failed),
    EventType("boot.unknown", "a machine that booted and is no node", UnknownBoot),
    EventType("boot.stopped", "a boot of a machine that is no node, and why it cannot go on", BootStopped),
    EventType("boot.dhcp", "a question to the DHCP server from a machine that is not known to be a node", Lease),
    EventType("boot.tftp", "a file that a machine that is not known to be a node asked for over TFTP", Fetched),
    EventType("boot.http", "a file that a machine that is not known to be a node asked for over HTTP", Fetched),
    EventType("command.rejected", "a message that was refused as a command", CommandRejected),
    EventType("events.dropped", "events that were let go before they could be told", Dropped),
)

EVENT_TYPES: MappingProxyType[str, EventType] = MappingProxyType({one.name: one for one in _ALL})
"""Every type of event, by name."""


def schemas(template: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """JSON Schemas (2020-12) of the payloads.

    Args:
        template: how one refers to another, as in `#/components/schemas/{name}`.

    Returns:
        For each event type the schema of its `data`; and the definitions that they refer to. They allow further fields,
        as readers must.
    """
    kinds = [one.payload for one in EVENT_TYPES.values()]
    found, definitions = msgspec.json.schema_components(kinds, ref_template=template)
    for schema in definitions.values():
        schema.pop("additionalProperties", None)
    return dict(zip(EVENT_TYPES, found, strict=True)), definitions
