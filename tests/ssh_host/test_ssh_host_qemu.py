"""A real QEMU, driven by its monitor through Debian's sshd; nothing is run on the host."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from metald.console.stream import ConsoleStream
from metald.drivers.ssh_host.console import SshConsole
from metald.drivers.ssh_host.management import SshManagement
from metald.drivers.ssh_host.power import SshPower
from metald.errors import HostRefused, HostUnreachable, Invalid
from metald.model import BootDevice, PowerState, PowerTarget
from tests.support.bmc import Context
from tests.support.hypervisor import HypervisorHost, eventually, hosts, hypervisor
from tests.support.qemu import free_port

pytestmark = pytest.mark.qemu


@pytest.fixture
def host() -> Iterator[HypervisorHost]:
    with hypervisor() as made:
        made.start_qemu("-serial", f"unix:{made.folder}/serial,server=on,wait=off")
        yield made


def context(host: HypervisorHost, **more: object) -> Context:
    socket = f"{host.folder}/qmp"
    return host.context(**{"ssh_virt_type": "qemu", "ssh_libvirt_uri": None, "ssh_qmp_socket": socket, **more})  # type: ignore[arg-type]


async def test_power_is_looked_at_first_and_many_may_ask(host: HypervisorHost) -> None:
    ctx = context(host)
    async with hosts() as made:
        power = SshPower(made)
        await power.validate(ctx)
        for target, state in ((PowerTarget.ON, PowerState.ON), (PowerTarget.OFF, PowerState.OFF), (PowerTarget.REBOOT, PowerState.ON)):
            for _ in range(2):
                await power.set_power_state(ctx, target)
                assert set(await asyncio.gather(*(power.get_power_state(ctx) for _ in range(20)))) == {state}
        await SshManagement(made).inject_nmi(ctx)


async def test_a_boot_device_for_one_boot_is_for_one(host: HypervisorHost) -> None:
    ctx = context(host)
    async with hosts() as made:
        power, management = SshPower(made), SshManagement(made)
        assert await management.get_boot_device(ctx) == (None, None)
        await management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
        assert await management.get_boot_device(ctx) == (BootDevice.DISK, True)
        for _ in range(2):
            await management.set_boot_device(ctx, BootDevice.PXE)
            assert await management.get_boot_device(ctx) == (BootDevice.PXE, False)
        await power.set_power_state(ctx, PowerTarget.ON)
        assert await management.get_boot_device(ctx) == (BootDevice.DISK, True)
        await eventually(lambda: "Booting from" in bios(host))
        assert "Booting from ROM" in bios(host)  # the card's
        assert "Hard Disk" not in bios(host).split("Booting from ROM")[0]
        await power.set_power_state(ctx, PowerTarget.REBOOT)
        await eventually(lambda: bios(host).count("Booting from Hard Disk") > 0)
        await management.set_boot_device(ctx, BootDevice.PXE, persistent=True)
        assert await management.get_boot_device(ctx) == (BootDevice.PXE, True)


def bios(host: HypervisorHost) -> str:
    return (host.folder / "bios.log").read_text("latin-1")


async def test_a_device_that_the_machine_lacks_is_refused(host: HypervisorHost) -> None:
    async with hosts() as made:
        with pytest.raises(HostRefused, match="has no cdrom"):
            await SshManagement(made).set_boot_device(context(host), BootDevice.CDROM)


async def test_a_machine_that_does_not_switch_itself_off_is_said_so(host: HypervisorHost) -> None:
    ctx = context(host)
    async with hosts(power_timeout=5.0) as made:
        power = SshPower(made)
        await power.set_power_state(ctx, PowerTarget.ON)
        with pytest.raises(Exception, match="does not obey the power button"):
            await power.set_power_state(ctx, PowerTarget.SOFT_OFF, timeout=0.5)


_SWITCH_OFF = bytes.fromhex("bafd03 ec a801 74fb ba0406 b80020 ef f4 ebfe".replace(" ", ""))
"""A boot sector that waits for a byte on the serial port and switches the machine off: mov dx, 0x3fd; in al, dx; test al, 1; jz -5;
mov dx, 0x604; mov ax, 0x2000; out dx, ax (ACPI, PM1a_CNT: soft off); hlt; jmp $."""


async def test_a_machine_that_switches_itself_off_is_off_and_can_be_switched_on_again(host: HypervisorHost) -> None:
    sector = _SWITCH_OFF.ljust(510, b"\0") + b"\x55\xaa"
    with (host.folder / "qemu.raw").open("r+b") as disk:
        disk.write(sector)
    ctx = context(host)
    async with hosts() as made:
        power, management = SshPower(made), SshManagement(made)
        await management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
        for boots in (1, 2):
            await power.set_power_state(ctx, PowerTarget.ON)
            await eventually(lambda boots=boots: bios(host).count("Booting from Hard Disk") == boots)  # type: ignore[misc]
            _, serial = await asyncio.open_unix_connection(f"{host.folder}/serial")
            async with asyncio.timeout(60):
                while await power.get_power_state(ctx) is PowerState.ON:
                    serial.write(b"x")
                    await asyncio.sleep(0.05)
            serial.close()
            await serial.wait_closed()


async def test_a_monitor_that_is_gone_or_taken_is_said_to_be(host: HypervisorHost) -> None:
    async with hosts(command_timeout=1.0) as made:
        power = SshPower(made)
        with pytest.raises(HostRefused, match="nothing-here cannot be opened"):
            await power.get_power_state(context(host, ssh_qmp_socket=f"{host.folder}/nothing-here"))
        _, writer = await asyncio.open_unix_connection(f"{host.folder}/qmp")
        with pytest.raises(HostUnreachable, match="monitor of its own"):
            await power.get_power_state(context(host))
        writer.close()
        await writer.wait_closed()
    async with hosts() as made:
        assert await SshPower(made).get_power_state(context(host)) is PowerState.OFF


@pytest.mark.parametrize("by", ["ssh_terminal_socket", "ssh_terminal_port"])
async def test_the_serial_port_is_the_console(by: str) -> None:
    port = free_port()
    with hypervisor() as host:
        serial = f"unix:{host.folder}/serial" if by == "ssh_terminal_socket" else f"tcp:127.0.0.1:{port}"
        host.start_qemu("-serial", f"{serial},server=on,wait=off")
        await _shows_its_console(host, context(host, **{by: serial.removeprefix("unix:") if by == "ssh_terminal_socket" else port}))


async def _shows_its_console(host: HypervisorHost, ctx: Context) -> None:
    async with hosts() as made:
        console = SshConsole(made, None)  # type: ignore[arg-type]
        await console.validate(ctx)
        with pytest.raises(Invalid, match="ssh_terminal_port"):
            await console.validate(context(host))
        stream = ConsoleStream(
            "m", lambda: console._dial(ctx), scrollback=1 << 16, most_readers=2, longest_pause=0.2, record=lambda _data: None
        )
        running = asyncio.create_task(stream.run())
        reader = stream.join()
        found = b""
        try:
            async with asyncio.timeout(60):
                while b"connected]" not in found:
                    found += await reader.read()
                await SshPower(made).set_power_state(ctx, PowerTarget.ON)
                while b"SeaBIOS" not in found:
                    found += await reader.read()
            assert not made.host(next(iter(made._hosts))).idle
        finally:
            running.cancel()
            await asyncio.wait([running])
        await eventually(lambda: made.host(next(iter(made._hosts))).idle)
