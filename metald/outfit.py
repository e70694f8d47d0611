"""What this daemon works with: its ways to BMCs, ramdisks, agents, hosts, images and consoles, and by them the hardware types and
interfaces, the built-in ones and those of installed packages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metald.boot import dhcp
from metald.boot.fills import Fills, fills_of
from metald.boot.interface import HttpBoot, HttpIpxeBoot, IpxeBoot, PxeBoot
from metald.config import ConfigError, Settings
from metald.console.consoles import Consoles
from metald.drivers import fake, types
from metald.drivers.agent.anaconda import AnacondaDeploy
from metald.drivers.agent.autodetect import AutodetectDeploy
from metald.drivers.agent.base import CustomAgentDeploy
from metald.drivers.agent.bootc import BootcDeploy
from metald.drivers.agent.deploy import AgentDeploy
from metald.drivers.agent.netboot import RamdiskDeploy
from metald.drivers.agent.raid import AgentRaid
from metald.drivers.agent.rescue import AgentRescue
from metald.drivers.base import HardwareType, Interface
from metald.drivers.inspect_agent import AgentInspect
from metald.drivers.ipmi.console import PyghmiConsole, SocatConsole
from metald.drivers.ipmi.hub import IpmiHub
from metald.drivers.ipmi.ipmitool import Ipmitool, IpmitoolManagement, IpmitoolPower
from metald.drivers.ipmi.management import PyghmiManagement
from metald.drivers.ipmi.power import PyghmiPower
from metald.drivers.ipmi.vendor import IpmitoolVendor, PyghmiVendor
from metald.drivers.network_noop import NoopNetwork
from metald.drivers.noop import Noop, NoopManagement, absents
from metald.drivers.registry import Registry, outsiders
from metald.drivers.ssh.deploy import SshDeploy
from metald.drivers.ssh.inspect import SshInspect
from metald.drivers.ssh_host.console import SshConsole
from metald.drivers.ssh_host.hosts import Hosts
from metald.drivers.ssh_host.management import SshManagement
from metald.drivers.ssh_host.power import SshPower
from metald.images.cache import ImageCache
from metald.limits import Queue


class Outfit(NamedTuple):
    """What there is one of for all nodes."""

    hub: IpmiHub
    images: ImageCache
    ssh: SshDeploy
    direct: AgentDeploy
    hosts: Hosts
    consoles: Consoles
    fills: Fills
    registry: Registry

    @property
    def queues(self) -> list[Queue]:
        """Who waits for what here."""
        logins = [self.hub.window.queue, self.ssh.handshakes.queue, self.hosts.handshakes.queue]
        return [*logins, self.images.downloads.queue, self.images.conversions.queue]


async def fit_out(stack: contextlib.AsyncExitStack, settings: Settings) -> Outfit:
    """Make all of it; the stack closes it.

    Raises:
        ConfigError: a setting cannot work.
    """
    state_dir = Path(settings.state_dir)
    hub = IpmiHub(settings.drivers.ipmi)
    await hub.start()
    stack.push_async_callback(hub.close)
    images = ImageCache(settings.images, state_dir)
    ssh = SshDeploy(settings, images)
    stack.push_async_callback(ssh.close)
    direct = AgentDeploy(settings, images)
    stack.push_async_callback(direct.close)
    hosts = Hosts(settings.drivers.ssh_host)
    stack.push_async_callback(hosts.close)
    consoles = await stack.enter_async_context(Consoles(settings.console, state_dir))
    fills = fills_of(settings)
    stack.push_async_callback(fills.close)
    known = registry(settings, hub, ssh, direct, hosts, consoles, fills)
    return Outfit(hub, images, ssh, direct, hosts, consoles, fills, known)


def registry(
    settings: Settings, hub: IpmiHub, ssh: SshDeploy, direct: AgentDeploy, hosts: Hosts, consoles: Consoles, fills: Fills
) -> Registry:
    """The hardware types that the settings enable, with every interface.

    Raises:
        ConfigError: an enabled type is not known, or an interface cannot work with its settings.
    """
    hardware = fake.FakeHardware(settings.drivers.fake)
    ipmitool = Ipmitool(settings.drivers.ipmi)
    images = direct.images
    interfaces: list[Interface] = [
        PyghmiPower(hub, settings.drivers.ipmi),
        PyghmiManagement(hub, settings.drivers.ipmi),
        IpmitoolPower(settings.drivers.ipmi, ipmitool),
        IpmitoolManagement(settings.drivers.ipmi, ipmitool),
        PyghmiVendor(hub),
        PyghmiConsole(hub, consoles),
        SocatConsole(hub, consoles),
        IpmitoolVendor(settings.drivers.ipmi, ipmitool),
        SshPower(hosts),
        SshManagement(hosts),
        SshConsole(hosts, consoles),
        *(kind(settings, dhcp.provider(settings), fills) for kind in (IpxeBoot, PxeBoot, HttpBoot, HttpIpxeBoot)),
        direct,
        CustomAgentDeploy(settings, images, direct.client),
        RamdiskDeploy(settings, images, direct.client),
        AnacondaDeploy(settings, images, direct.client),
        BootcDeploy(settings, images, direct.client),
        AutodetectDeploy(settings, images, direct.client),
        AgentRaid(direct),
        AgentRescue(direct, settings.conductor.rescue_callback_timeout),
        ssh,
        NoopNetwork(),
        Noop("storage"),
        NoopManagement(),
        SshInspect(ssh),
        AgentInspect(settings.conductor.inspect_timeout),
        *fake.interfaces(hardware),
        fake.FakeGraphicalConsole(hardware, consoles),
        *absents(),
    ]
    more_types, more_interfaces = outsiders(settings)
    return Registry(_enabled(settings, more_types), [*interfaces, *more_interfaces])


def enabled_types(settings: Settings) -> list[HardwareType]:
    """The hardware types that the settings enable, of those built in and those that packages add.

    Raises:
        ConfigError: one is not known.
    """
    return _enabled(settings, outsiders(settings)[0])


def _enabled(settings: Settings, more: Sequence[HardwareType]) -> list[HardwareType]:
    known = {found.name: found for found in (*types.BUILT_IN, *more)}
    names = settings.drivers.enabled_hardware_types
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"drivers.enabled_hardware_types: {unknown[0]!r} is not known. Known: {', '.join(sorted(known))}.")
    return [known[name] for name in names]
