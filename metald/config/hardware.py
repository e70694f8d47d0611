"""Settings of hardware types and of what reaches the hardware."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from metald.config.base import Positive, Seconds, Section


class Fake(Section, frozen=True):
    """fake-hardware: how slow and how unreliable it pretends to be. Seconds per call, failures as a share of calls."""

    power_delay: Seconds = 0.0
    management_delay: Seconds = 0.0
    boot_delay: Seconds = 0.0
    deploy_delay: Seconds = 0.0
    bios_delay: Seconds = 0.0
    console_delay: Seconds = 0.0
    firmware_delay: Seconds = 0.0
    inspect_delay: Seconds = 0.0
    network_delay: Seconds = 0.0
    raid_delay: Seconds = 0.0
    rescue_delay: Seconds = 0.0
    storage_delay: Seconds = 0.0
    vendor_delay: Seconds = 0.0
    failure_rate: Annotated[float, Meta(ge=0, le=1, description="Share of power and deploy calls that fail.")] = 0.0


class Ipmi(Section, frozen=True):
    """BMCs over RMCP+."""

    command_timeout: Annotated[Seconds, Meta(description="Seconds until one command has been answered, retries included.")] = 10.0
    login_window: Annotated[
        Positive, Meta(description="Most logins in flight at once; fewer while answers are seen to wait in queues.")
    ] = 256
    command_rate: Annotated[
        Seconds, Meta(description="Most commands per second to one BMC, with a second's worth at once. 0: no limit.")
    ] = 50.0
    breaker_failures: Annotated[Positive, Meta(description="Failures in a row after which a BMC is left alone for a while.")] = 3
    breaker_pause: Annotated[
        float,
        Meta(gt=0, description="Seconds that it is left alone at first. Twice as long after each further failure, for background work."),
    ] = 2.0
    breaker_longest: Annotated[Seconds, Meta(description="Most seconds that background work leaves a BMC alone.")] = 120.0
    power_poll: Annotated[Seconds, Meta(description="Longest pause in seconds between two looks while a power change is awaited.")] = 0.5
    login_timeout: Annotated[Seconds, Meta(description="Seconds after which a BMC that does not answer a login is held to be dead.")] = 5.0
    session_idle: Annotated[Seconds, Meta(description="Seconds until an unused session is closed; BMCs have few session slots.")] = 5.0
    power_timeout: Annotated[Seconds, Meta(description="Seconds that a power change may take where the caller does not say.")] = 60.0
    soft_power_timeout: Annotated[Seconds, Meta(description="Seconds that a soft power off may take unless the caller says.")] = 600.0
    sockets: Annotated[Positive, Meta(description="UDP sockets per address family, shared by all BMCs.")] = 1
    ipmitool: Annotated[str, Meta(description="The program that the interface `ipmitool` runs.")] = "ipmitool"


class Ssh(Section, frozen=True):
    """SSH connections to ramdisks."""

    connect_timeout: Annotated[Seconds, Meta(description="Seconds for a connection and its handshake.")] = 20.0
    keepalive: Annotated[Seconds, Meta(description="Seconds between keepalives; three unanswered ones end the connection.")] = 5.0
    handshakes: Annotated[Positive, Meta(description="Most handshakes in flight at once.")] = 16
    minimum_disk: Annotated[Positive, Meta(description="Smallest disk in bytes that a node without root device hints gets.")] = 4 << 30


class SshHost(Section, frozen=True):
    """Hypervisor hosts that the hardware type `ssh` reaches: one SSH connection for each host."""

    known_hosts: Annotated[
        str, Meta(description="File of host keys that are trusted, as OpenSSH writes it, for nodes whose driver_info has no ssh_host_key.")
    ] = "/etc/ssh/ssh_known_hosts"
    connect_timeout: Annotated[Seconds, Meta(description="Seconds for a connection and its handshake.")] = 15.0
    command_timeout: Annotated[Seconds, Meta(description="Seconds until a command on a host has ended.")] = 60.0
    keepalive: Annotated[Seconds, Meta(description="Seconds between keepalives; three unanswered ones end the connection.")] = 10.0
    idle: Annotated[Seconds, Meta(description="Seconds until an unused connection is closed.")] = 300.0
    handshakes: Annotated[Positive, Meta(description="Most hosts that are being connected to at once.")] = 16
    channels: Annotated[
        Positive, Meta(description="Most commands at once on one connection, and consoles on one: sshd's MaxSessions is 10 by default.")
    ] = 8
    pause: Annotated[Seconds, Meta(description="Seconds that a host is left alone after it could not be reached.")] = 5.0
    listing_age: Annotated[
        Seconds, Meta(description="Most seconds that a host's list of machines may be old when power sync reads a power state from it.")
    ] = 10.0
    power_poll: Annotated[Seconds, Meta(description="Longest pause in seconds between two looks while a power change is awaited.")] = 1.0
    power_timeout: Annotated[Seconds, Meta(description="Seconds that a power change may take where the caller does not say.")] = 60.0
    soft_power_timeout: Annotated[Seconds, Meta(description="Seconds that a soft power off may take unless the caller says.")] = 600.0
    libvirt_uri: Annotated[str, Meta(description="Libvirt connection on the host, for nodes that name none.")] = "qemu:///system"


class Drivers(Section, frozen=True):
    """Hardware types and their settings."""

    enabled_hardware_types: Annotated[list[str], Meta(description="Hardware types that nodes may use.")] = msgspec.field(
        default_factory=lambda: ["ipmi", "fake-hardware"]
    )
    fake: Fake = Fake()
    ipmi: Ipmi = Ipmi()
    ssh: Ssh = Ssh()
    ssh_host: SshHost = SshHost()
