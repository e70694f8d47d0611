"""Power, boot devices and consoles of real libvirt domains, by way of Debian's sshd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from metald.console.stream import ConsoleStream
from metald.drivers.ssh_host.console import SshConsole
from metald.drivers.ssh_host.hosts import Hosts, background
from metald.drivers.ssh_host.management import SshManagement
from metald.drivers.ssh_host.power import SshPower
from metald.errors import HostRefused, Invalid
from metald.model import BootDevice, PowerState, PowerTarget
from tests.support.bmc import Context
from tests.support.hypervisor import HypervisorHost, hosts, hypervisor

pytestmark = pytest.mark.qemu

HOSTILE = 'it\'s $(touch hacked) ; -`id` "q"'
CARD, OTHER, TWIN = "52:54:00:aa:00:01", "52:54:00:aa:00:02", "52:54:00:aa:00:03"
CARDS = f"<interface type='user'><mac address='{TWIN}'/><model type='virtio'/></interface>"


@pytest.fixture(scope="module")
def host() -> Iterator[HypervisorHost]:
    with hypervisor() as made:
        made.start_libvirt()
        made.define("one", CARD)
        made.define(HOSTILE.replace("&", "&amp;"), OTHER, boot="", devices=CARDS)
        made.define("7", "52:54:00:aa:00:04", devices=CARDS)
        yield made


def order(host: HypervisorHost, name: str, *more: str) -> str:
    text = host.virsh("dumpxml", name, *more)
    return text[text.index("<os>") : text.index("</os>")]


@pytest.mark.parametrize("name", ["one", HOSTILE, "7"])
async def test_power_goes_on_and_off_and_is_looked_at_first(host: HypervisorHost, name: str) -> None:
    ctx = host.context(ssh_machine=name)
    async with hosts() as made:
        power = SshPower(made)
        await power.validate(ctx)
        for target, state in ((PowerTarget.ON, PowerState.ON), (PowerTarget.OFF, PowerState.OFF)):
            for _ in range(2):
                await power.set_power_state(ctx, target)
                assert await power.get_power_state(ctx) is state
        management = SshManagement(made)
        await management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
        await management.set_boot_device(ctx, BootDevice.PXE)
        assert await management.get_boot_device(ctx) == (BootDevice.PXE, False)
        await management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
    for folder in (Path.home(), host.folder, Path.cwd()):
        assert not (folder / "hacked").exists()  # what the name says was done by no shell


@pytest.mark.parametrize("keep", [False, True])
async def test_a_reboot_ends_with_the_machine_on_wherever_it_began(host: HypervisorHost, keep: bool) -> None:
    ctx = host.context(ssh_machine="one", node={"disable_power_off": keep})
    async with hosts() as made:
        power = SshPower(made)
        for _ in range(2):
            before = host.virsh("domstate", "one")
            await power.set_power_state(ctx, PowerTarget.REBOOT)
            assert await power.get_power_state(ctx) is PowerState.ON
        assert "running" in before
        await SshManagement(made).inject_nmi(ctx)
        await power.set_power_state(host.context(ssh_machine="one"), PowerTarget.OFF)


async def test_a_boot_device_for_one_boot_is_for_one_and_a_persistent_one_stays(host: HypervisorHost) -> None:
    ctx = host.context(ssh_machine="one")
    async with hosts() as made:
        power, management = SshPower(made), SshManagement(made)
        await management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
        assert await management.get_boot_device(ctx) == (BootDevice.DISK, True)
        for _ in range(2):
            await management.set_boot_device(ctx, BootDevice.PXE)
            assert await management.get_boot_device(ctx) == (BootDevice.PXE, False)
        await power.set_power_state(ctx, PowerTarget.ON)
        assert order(host, "one").index("'network'") < order(host, "one").index("'hd'")
        assert "hush" in host.virsh("dumpxml", "one", "--security-info")
        assert await management.get_boot_device(ctx) == (BootDevice.DISK, True)
        await management.set_boot_device(ctx, BootDevice.PXE, persistent=True)  # while it runs
        await management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
        await power.set_power_state(ctx, PowerTarget.REBOOT)
        assert order(host, "one").index("'hd'") < order(host, "one").index("'network'")
        assert "hush" in host.virsh("dumpxml", "one", "--security-info")
        await power.set_power_state(ctx, PowerTarget.OFF)


async def test_a_persistent_boot_device_takes_the_place_of_one_for_one_boot(host: HypervisorHost) -> None:
    ctx = host.context(ssh_machine="one")
    async with hosts() as made:
        management = SshManagement(made)
        await management.set_boot_device(ctx, BootDevice.PXE)
        await management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
        assert await management.get_boot_device(ctx) == (BootDevice.DISK, True)


async def test_a_device_that_the_machine_lacks_is_refused(host: HypervisorHost) -> None:
    async with hosts() as made:
        with pytest.raises(HostRefused, match="has no cdrom"):
            await SshManagement(made).set_boot_device(host.context(ssh_machine="one"), BootDevice.CDROM)
        with pytest.raises(Invalid, match="wanboot"):
            await SshManagement(made).set_boot_device(host.context(ssh_machine="one"), BootDevice.WANBOOT)


async def test_an_order_in_the_devices_is_kept_to(host: HypervisorHost) -> None:
    disk = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><boot order='1'/></disk>"
    host.define("ranked", "52:54:00:aa:00:09", boot="", devices=disk.replace("sata", "ide").replace("sda", "hda"))
    ctx = host.context(ssh_machine="ranked")
    async with hosts() as made:
        management = SshManagement(made)
        assert await management.get_boot_device(ctx) == (BootDevice.CDROM, True)
        await management.set_boot_device(ctx, BootDevice.PXE, persistent=True)
        assert await management.get_boot_device(ctx) == (BootDevice.PXE, True)
        assert host.virsh("dumpxml", "ranked").count("<boot order=") == 2


async def test_a_machine_is_found_by_the_addresses_of_its_ports(host: HypervisorHost) -> None:
    async with hosts() as made:
        assert (await made.place(host.context(ports=(CARD.upper(),)))).key == host.virsh("domuuid", "one").strip()
        with pytest.raises(HostRefused, match="two or more machines"):
            await made.place(host.context(ports=(TWIN,)))
        with pytest.raises(HostRefused, match="no machine"):
            await made.place(host.context(ports=("52:54:00:ff:ff:ff",)))
        with pytest.raises(Invalid, match="ssh_machine"):
            await made.place(host.context())


async def test_a_machine_that_is_not_there_is_said_to_be_missing(host: HypervisorHost) -> None:
    async with hosts() as made:
        with pytest.raises(HostRefused, match="no machine named nobody"):
            await SshPower(made).get_power_state(host.context(ssh_machine="nobody"))
        host.define("newcomer", "52:54:00:aa:00:08")
        assert (await made.place(host.context(ssh_machine="newcomer"))).key


async def test_one_query_tells_the_power_of_every_machine(host: HypervisorHost) -> None:
    contexts: list[Context] = [host.context(ssh_machine=name) for name in ("one", "7", HOSTILE)] * 70
    async with hosts(listing_age=60.0) as made:
        power = SshPower(made)
        await asyncio.gather(*(power.get_power_state(ctx) for ctx in contexts))
        assert made.queries() <= 2
        with background():
            for ctx in contexts:
                assert await power.get_power_state(ctx) is PowerState.OFF
        assert made.queries() <= 2


async def test_what_virsh_complains_of_is_told(host: HypervisorHost) -> None:
    async with hosts() as made:
        with pytest.raises(HostRefused, match=r"virsh.*failed"):
            await SshPower(made).get_power_state(host.context(ssh_machine="one", ssh_libvirt_uri="qemu:///nowhere"))


async def test_the_console_is_the_serial_port_and_survives_a_power_cycle(host: HypervisorHost) -> None:
    ctx = host.context(ssh_machine="one")
    async with hosts() as made:
        stream = shown(made, ctx)
        running = asyncio.create_task(stream.run())
        reader = stream.join()
        try:
            for _ in range(2):
                await seen(reader, b"is off")
                await SshPower(made).set_power_state(ctx, PowerTarget.ON)
                await seen(reader, b"connected]")
                await restarted(host, reader)
                await stream.write(b"\x1dhello")
                await SshPower(made).set_power_state(ctx, PowerTarget.OFF)
        finally:
            running.cancel()
            await asyncio.wait([running])


def shown(made: Hosts, ctx: Context) -> ConsoleStream:
    console = SshConsole(made, None)  # type: ignore[arg-type]
    return ConsoleStream(
        "machine", lambda: console._dial(ctx), scrollback=1 << 16, most_readers=2, longest_pause=0.2, record=lambda _data: None
    )


async def restarted(host: HypervisorHost, reader: object) -> None:
    """Reset the machine until its firmware is seen: what it says before `virsh console` has the port is lost."""
    for _ in range(12):
        host.virsh("reset", "one")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await seen(reader, b"SeaBIOS")
                return
    raise AssertionError("the firmware never showed on the console")


async def seen(reader: object, text: bytes) -> bytes:
    found = b""
    async with asyncio.timeout(60):
        while text not in found:
            found += await reader.read()  # type: ignore[attr-defined]
    return found
