"""The one typed tree of settings. conf/metald.toml and docs/reference/config.md are generated from it.

Settings come from defaults, then the file given by `--config`, then the environment (`METALD__SECTION__KEY`), the
later winning. A wrong setting is reported by `ConfigError` with where it stands, what is wrong and what is allowed;
unknown keys are errors too.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from metald.config.base import ConfigError, Duration, Positive, Seconds, Section
from metald.config.boot import Boot, Dhcp
from metald.config.broker import Amqp, Commands, Events
from metald.config.hardware import Drivers, Fake, Ipmi, Ssh, SshHost
from metald.config.inspection import Inspection

__all__ = [
    "Amqp",
    "Api",
    "Boot",
    "Commands",
    "Conductor",
    "ConfigError",
    "Console",
    "Dhcp",
    "Drivers",
    "Events",
    "Fake",
    "Images",
    "Inspection",
    "Ipmi",
    "Keystone",
    "Log",
    "Section",
    "Settings",
    "Ssh",
    "SshHost",
    "StoreSettings",
    "Watch",
    "is_loopback",
    "parse_listen",
]


class Watch(Section, frozen=True):
    """Streams of events over HTTP."""

    connections: Annotated[Positive, Meta(description="Most watchers at once; further ones are answered 503.")] = 5000
    heartbeat: Annotated[float, Meta(gt=0, description="Seconds without an event after which a stream shows that it lives.")] = 15.0
    stall: Annotated[float, Meta(gt=0, description="Seconds that a watcher may take for reading before it is cut off.")] = 30.0
    buffer: Annotated[Positive, Meta(description="Bytes of events that wait for a watcher before it is cut off.")] = 1 << 20


class Api(Section, frozen=True):
    """The Ironic-compatible HTTP API."""

    listen: Annotated[str, Meta(description="Address and port of the API, `host:port` or `[v6]:port`.")] = "127.0.0.1:6385"
    auth: Annotated[
        Literal["noauth", "http_basic", "keystone"],
        Meta(description="Who may call; see docs/howto/users.md. `noauth` is refused beyond loopback unless `allow_insecure` is set."),
    ] = "noauth"
    allow_insecure: Annotated[bool, Meta(description="Permit `noauth` on an address that other machines reach.")] = False
    htpasswd: Annotated[str, Meta(description="File of `user:bcrypt-hash` lines for `http_basic`.")] = ""
    users: Annotated[
        str, Meta(description="TOML file with the roles and the project of each user of `http_basic`. Empty: all are administrators.")
    ] = ""
    project_admin_can_manage_own_nodes: Annotated[
        bool, Meta(description="Whether the administrator of a project may create nodes for it, and delete its nodes.")
    ] = True
    service_role_elevated_access: Annotated[
        bool, Meta(description="Whether the role service in the project `service_project_name` sees and drives all nodes (Nova's account).")
    ] = False
    service_project_name: Annotated[str, Meta(description="Name of the project that the accounts of services are in.")] = "service"
    public_url: Annotated[str, Meta(description="Base of links in answers; by default what the client asked for.")] = ""
    tls_certificate: Annotated[str, Meta(description="PEM file with the server's certificate chain; turns TLS on.")] = ""
    tls_key: Annotated[str, Meta(description="PEM file with the certificate's private key.")] = ""
    max_body: Annotated[Positive, Meta(description="Largest request body in bytes.")] = 1 << 20
    max_provision_body: Annotated[Positive, Meta(description="Largest body of a provision request in bytes (config drives).")] = 64 << 20
    max_inspection_body: Annotated[Positive, Meta(description="Largest inventory in bytes that a ramdisk may send.")] = 16 << 20
    max_bulk: Annotated[Positive, Meta(description="Most nodes in one request that creates many.")] = 1000
    max_bulk_body: Annotated[Positive, Meta(description="Largest body in bytes of a request that creates many nodes.")] = 16 << 20
    max_depth: Annotated[Positive, Meta(description="Deepest nesting of a JSON body.")] = 25
    max_limit: Annotated[Positive, Meta(description="Most objects in one page of a list.")] = 1000
    max_connections: Annotated[
        Positive,
        Meta(
            description="Most connections at once, and never more than the limit of open files permits. Above it, the connection that has "
            "waited longest makes room."
        ),
    ] = 20000
    max_buffered: Annotated[
        Positive, Meta(description="Most bytes in memory of bodies that are still coming and answers that are not taken yet.")
    ] = 256 << 20
    header_timeout: Annotated[Duration, Meta(description="Seconds within which the whole head of a request must come; else 408.")] = 30.0
    body_timeout: Annotated[
        Duration, Meta(description="Seconds between two pieces of a body, else 408; the whole body has ten times as long.")
    ] = 60.0
    write_timeout: Annotated[Duration, Meta(description="Seconds within which a client must take 256 KiB or the rest of an answer.")] = 60.0
    idle_timeout: Annotated[Duration, Meta(description="Seconds that a connection may be silent between two requests.")] = 75.0
    lock_wait: Annotated[Seconds, Meta(description="Seconds that a request waits for a busy node before it answers 409.")] = 3.0
    max_wait: Annotated[Seconds, Meta(description="Most seconds that a request with `Prefer: wait` waits for a change.")] = 120.0
    watch: Watch = Watch()


class Keystone(Section, frozen=True):
    """The identity service that `api.auth` = `keystone` asks, and metald's own account there."""

    auth_url: Annotated[str, Meta(description="URL of the Identity API v3, such as `https://identity.example.org/v3`.")] = ""
    www_authenticate_uri: Annotated[str, Meta(description="URL that callers without a token are told of; by default `auth_url`.")] = ""
    username: Annotated[str, Meta(description="Name of metald's account; it must be allowed to validate tokens (role service).")] = ""
    password: Annotated[str, Meta(description="Its password; better given as `METALD__KEYSTONE__PASSWORD`.")] = ""
    user_domain: Annotated[str, Meta(description="Name of the domain of metald's account.")] = "Default"
    project: Annotated[str, Meta(description="Name of the project that metald's account logs in to.")] = ""
    project_domain: Annotated[str, Meta(description="Name of the domain of that project.")] = "Default"
    system_scope: Annotated[bool, Meta(description="Log in to the whole system instead of a project.")] = False
    ca_file: Annotated[str, Meta(description="PEM file with the authorities that Keystone's certificate is checked with.")] = ""
    cache_seconds: Annotated[Seconds, Meta(description="Seconds that a token is not asked about again, revoked ones included.")] = 60.0
    timeout: Annotated[float, Meta(gt=0, description="Seconds that Keystone may take for an answer.")] = 10.0


class StoreSettings(Section, frozen=True):
    """Where the state is kept."""

    url: Annotated[
        str,
        Meta(description="`sqlite:///path` or `postgresql://user:password@host/database`. Empty: `metald.sqlite` in the state directory."),
    ] = ""
    event_retention_days: Annotated[Positive, Meta(description="Days that events and the journal are kept.")] = 30
    timeout: Annotated[
        float, Meta(gt=0, description="Seconds that a write waits for a locked or lost database before it fails with 503.")
    ] = 10.0


class Images(Section, frozen=True):
    """Operating system images and their cache."""

    cache_dir: Annotated[str, Meta(description="Where images are kept; by default `images` below the state directory.")] = ""
    cache_size: Annotated[Positive, Meta(description="Largest size of the cache in bytes; the least recently used goes first.")] = 20 << 30
    file_roots: Annotated[list[str], Meta(description="Directories below which `file://` images may lie.")] = msgspec.field(
        default_factory=lambda: ["/var/lib/metald/files"]
    )
    cache_age: Annotated[
        Seconds, Meta(description="Seconds after which an image that no deployment used is removed; 0 keeps it until room is needed.")
    ] = 7 * 86400.0
    formats: Annotated[
        list[Literal["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi"]],
        Meta(description="Formats of images that may be deployed; all but `raw` are converted by qemu-img, in a cage of its own."),
    ] = msgspec.field(default_factory=lambda: ["raw", "qcow2"])
    registry_auth_file: Annotated[
        str, Meta(description="Logins for registries of `oci://` images: a JSON file as `docker login` or `podman login` write it.")
    ] = ""
    plain_registries: Annotated[list[str], Meta(description="Registries, as `host:port`, that are spoken to without TLS.")] = msgspec.field(
        default_factory=list
    )
    download_timeout: Annotated[
        Seconds, Meta(description="Seconds without a byte, or with less than a KiB for each of them, after which a download fails.")
    ] = 60.0
    downloads: Annotated[Positive, Meta(description="Most images that are downloaded at once; each is downloaded once.")] = 8
    conversions: Annotated[int, Meta(ge=0, description="Most images that are converted at once; 0: one for every two processors.")] = 0


class Conductor(Section, frozen=True):
    """Workflows: what is done by default and how long is waited."""

    name: Annotated[str, Meta(description="Name of this conductor; by default the host's name.")] = ""
    automated_clean: Annotated[bool, Meta(description="Clean nodes between instances.")] = True
    power_sync_interval: Annotated[Seconds, Meta(description="Seconds between two looks at each node's power; 0 never looks.")] = 60.0
    sensor_interval: Annotated[
        Seconds, Meta(description="Seconds between two readings of each node's sensors for `GET /metrics/sensors`; 0 never reads.")
    ] = 0.0
    force_power_state: Annotated[
        bool,
        Meta(
            description="Bring a node's power back to what was last asked for when it differs (Ironic's "
            "force_power_state_during_sync, which is on there). Off: report what is seen."
        ),
    ] = False
    deploy_callback_timeout: Annotated[
        Seconds, Meta(description="Seconds until a deploy ramdisk must have called; after half of them the machine is booted again.")
    ] = 1800.0
    clean_callback_timeout: Annotated[
        Seconds, Meta(description="Seconds until a clean ramdisk must have called; after half of them the machine is booted again.")
    ] = 1800.0
    rescue_callback_timeout: Annotated[Seconds, Meta(description="Seconds until a rescue ramdisk must have called.")] = 1800.0
    inspect_timeout: Annotated[Seconds, Meta(description="Seconds until an inspection's ramdisk must have sent its inventory.")] = 1800.0
    step_timeout: Annotated[float, Meta(gt=0, description="Seconds after which a step that neither ends nor waits fails.")] = 7200.0
    step_attempts: Annotated[Positive, Meta(description="How often a step that failed for a passing reason is tried.")] = 3
    retry_delay: Annotated[Seconds, Meta(description="Seconds before the second try; doubles with each, with jitter.")] = 2.0
    restart_grace: Annotated[
        Seconds, Meta(description="Least seconds that a waiting step gets after a restart; what it waits for may have come meanwhile.")
    ] = 120.0
    progress_interval: Annotated[
        Seconds, Meta(description="Least seconds between two events of one node that tell how far a step has come.")
    ] = 5.0
    drain_timeout: Annotated[
        Seconds, Meta(description="Seconds that SIGTERM waits for running steps before it leaves them for the next start.")
    ] = 10.0


class Console(Section, frozen=True):
    """Consoles of machines: how they are kept, and the ways in."""

    log: Annotated[bool, Meta(description="Write what consoles print to `console/<node>.log` below the state directory.")] = True
    log_size: Annotated[Positive, Meta(description="Bytes after which a console's log file is put aside.")] = 8 << 20
    log_files: Annotated[Positive, Meta(description="Log files kept of each console, the present one included.")] = 4
    scrollback: Annotated[Positive, Meta(description="Most bytes that somebody who opens a console gets of what was before.")] = 64 << 10
    readers: Annotated[Positive, Meta(description="Most people that may look at one console at once.")] = 32
    keepalive: Annotated[
        float, Meta(gt=0, description="Seconds of silence after which a BMC is asked whether its console still stands.")
    ] = 10.0
    reconnect_pause: Annotated[Seconds, Meta(description="Most seconds between two attempts to reach a console again.")] = 30.0
    token_lifetime: Annotated[Positive, Meta(description="Seconds in which the address in `console_info` must be opened.")] = 600
    tcp_host: Annotated[str, Meta(description="IP address of the TCP ports of consoles. They ask for no password.")] = "127.0.0.1"
    port_range: Annotated[
        str, Meta(description="TCP ports for consoles of the interface `ipmitool-socat`, as `10000:10999`. Empty: none.")
    ] = ""
    ssh_listen: Annotated[str, Meta(description="Address and port of the SSH way in, `ssh node-name@metald`. Empty: off.")] = ""
    ssh_authorized_keys: Annotated[
        str, Meta(description="File of the public keys that may open consoles over SSH, as OpenSSH's authorized_keys.")
    ] = ""


class Agent(Section, frozen=True):
    """Agents in ramdisks: the Ironic Python Agent, and the deploy interface `direct` that drives it."""

    heartbeat_timeout: Annotated[
        Positive, Meta(description="Seconds within which an agent shows that it lives; it calls two to three times as often.")
    ] = 300
    power_off_timeout: Annotated[
        Seconds, Meta(description="Seconds that an agent may take to power its machine off, before the BMC cuts the power.")
    ] = 35.0
    require_tls: Annotated[bool, Meta(description="Take heartbeats only of agents that are called over TLS.")] = True
    callback_networks: Annotated[
        list[str],
        Meta(
            description="Networks whose addresses agents may be called at, as `192.0.2.0/24`. Empty: each agent only at the address "
            "that its heartbeat came from; name the networks when a proxy stands in front of the API."
        ),
    ] = msgspec.field(default_factory=list)
    api_url: Annotated[str, Meta(description="URL of the API as ramdisks reach it; by default made of `api.listen`.")] = ""
    deploy_kernel: Annotated[
        str, Meta(description="URL (http, https or file) of the agent's kernel, for nodes without driver_info/deploy_kernel.")
    ] = ""
    deploy_ramdisk: Annotated[
        str, Meta(description="URL (http, https or file) of the agent's ramdisk, for nodes without driver_info/deploy_ramdisk.")
    ] = ""
    command_timeout: Annotated[
        Duration, Meta(description="Seconds that an agent may take to answer a request, and be out of reach before it is given up.")
    ] = 60.0
    poll_interval: Annotated[Duration, Meta(description="Longest pause in seconds between two looks at a command that runs.")] = 1.0
    image_download_source: Annotated[
        Literal["http", "local"],
        Meta(
            description="Where agents get images: `http`, from the image's own server; `local`, from metald's boot HTTP server, which "
            "fetches, checks and converts each image once. Nodes override it (driver_info, instance_info); file:// is always `local`."
        ),
    ] = "http"
    stream_raw_images: Annotated[bool, Meta(description="Have raw images written to the disk as they come, without a copy in memory.")] = (
        True
    )
    bios_bootloader: Annotated[
        bool,
        Meta(
            description="Have agents install a boot loader for BIOS behind partition images. They run the image's own programs for "
            "that: leave it off where images are not trusted."
        ),
    ] = False
    fast_track: Annotated[
        bool, Meta(description="Leave machines on with their agent behind inspection and cleaning, and use it again without a boot.")
    ] = False
    fast_track_timeout: Annotated[
        Positive, Meta(description="Seconds since its last heartbeat within which such an agent is used again.")
    ] = 300
    clean_step_priorities: Annotated[
        list[str],
        Meta(description="Other priorities for steps of automated cleaning, as `deploy.erase_devices:0`; 0 leaves the step out."),
    ] = msgspec.field(default_factory=list)
    deploy_logs_collect: Annotated[Literal["on_failure", "always", "never"], Meta(description="When the logs of an agent are kept.")] = (
        "on_failure"
    )
    deploy_logs_dir: Annotated[str, Meta(description="Where they are kept; by default `deploy-logs` below the state directory.")] = ""


class Log(Section, frozen=True):
    """Log lines, on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least severity that is logged.")] = "info"
    format: Annotated[Literal["text", "json"], Meta(description="`text` for people, `json` for machines.")] = "text"


class Settings(Section, frozen=True):
    """Everything that can be set."""

    state_dir: Annotated[str, Meta(min_length=1, description="Where metald keeps its own files.")] = "/var/lib/metald"
    user: Annotated[str, Meta(description="Account to change to after low ports are bound, when started as root. Empty: stay.")] = ""
    log: Log = Log()
    api: Api = Api()
    keystone: Keystone = Keystone()
    store: StoreSettings = StoreSettings()
    amqp: Amqp = Amqp()
    events: Events = Events()
    boot: Boot = Boot()
    dhcp: Dhcp = Dhcp()
    images: Images = Images()
    conductor: Conductor = Conductor()
    console: Console = Console()
    agent: Agent = Agent()
    inspection: Inspection = Inspection()
    drivers: Drivers = Drivers()


def parse_listen(text: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is ambiguous; write an IPv6 address as [address]:port")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not host:port with a port of 0 to 65535")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
