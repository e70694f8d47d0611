"""VirtualBox and Parallels, which cannot be installed here: programs that answer as their documentation shows, on a real sshd.

What is tested is what metald makes of the answers and what it runs in which order; not that the real programs answer so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metald.drivers.ssh_host import libvirt, parallels, virtualbox
from metald.drivers.ssh_host.management import SshManagement
from metald.drivers.ssh_host.platforms import Machine
from metald.drivers.ssh_host.power import SshPower
from metald.errors import HostRefused, Unsupported
from metald.model import BootDevice, PowerState, PowerTarget
from tests.support.hypervisor import HypervisorHost, hosts, hypervisor

ONE, TWO = "8cde8689-cd1a-45ec-ab07-901f06f5b570", "1cde8689-cd1a-45ec-ab07-901f06f5b571"

KEEPER = f"""
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
path = os.path.join(here, "state.json")
vm = json.load(open(path)) if os.path.exists(path) else dict(on=False, order=["disk", "dvd", "net"], extra=dict(), log=[])
argv = sys.argv[1:]
vm["log"].append(argv)
def fail(text):
    sys.stderr.write(text + chr(10)); sys.exit(1)
ONE, TWO = "{ONE}", "{TWO}"
"""

VBOX = (
    KEEPER
    + """
if argv == ["list", "vms"]:
    print('"it\\'s "one" {x}" {%s}' % ONE); print('"<inaccessible>" {%s}' % TWO)
elif argv == ["list", "runningvms"]:
    if vm["on"]: print('"it\\'s "one" {x}" {%s}' % ONE)
else:
    verb, key = argv[0], argv[1]
    if key != ONE and (key, verb) != (TWO, "showvminfo"): fail("VBoxManage: error: Could not find a registered machine")
    if verb == "showvminfo":
        print('name="x"'); print('UUID="%s"' % key); print('macaddress1="%s"' % ("080027AABB01" if key == ONE else "080027AABB02"))
        for slot, device in enumerate((vm["order"] + ["none"] * 4)[:4], 1): print('boot%d="%s"' % (slot, device))
    elif verb == "startvm": vm["on"] = True
    elif argv[2] == "poweroff": vm["on"] = False
    elif verb == "modifyvm":
        if vm["on"]: fail("VBoxManage: error: The machine is already locked for a session")
        vm["order"] = [word for word in argv[3::2] if word != "none"]
    elif verb == "getextradata": print("Value: " + vm["extra"][argv[2]] if argv[2] in vm["extra"] else "No value set!")
    elif verb == "setextradata":
        if len(argv) > 3: vm["extra"][argv[2]] = argv[3]
        else: vm["extra"].pop(argv[2], None)
json.dump(vm, open(path, "w"))
"""
)

PRLCTL = (
    KEEPER.replace('"disk", "dvd", "net"', '"hdd0", "cdrom0", "net0"')
    + """
if argv[:3] == ["list", "--all", "--output"]:
    print("UUID                                    STATUS       NAME")
    print("{%s}  %s      %s" % (ONE, "running" if vm["on"] else "stopped", "my machine"))
elif argv[0] == "list":
    print("ID: {%s}" % ONE); print("Name: my machine"); print("Boot order: " + " ".join(vm["order"]))
    print("Hardware:"); print("  net0 (+) dev='vnic0' network='Host-Only' mac=001C42AABB01 card=virtio")
elif argv[1] != ONE: fail("The virtual machine could not be found.")
elif argv[0] == "start": vm["on"] = True
elif argv[0] == "stop": vm["on"] = False
elif argv[0] == "set": vm["order"] = argv[3].split()
json.dump(vm, open(path, "w"))
"""
)


@pytest.fixture(scope="module")
def host() -> Iterator[HypervisorHost]:
    with hypervisor() as made:
        made.program("VBoxManage", VBOX)
        made.program("prlctl", PRLCTL)
        yield made


@pytest.fixture(autouse=True)
def fresh(host: HypervisorHost) -> Iterator[Path]:
    yield host.bin / "state.json"
    (host.bin / "state.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("virt_type", "name", "card"), [("vbox", 'it\'s "one" {x}', "08:00:27:aa:bb:01"), ("parallels", "my machine", "00:1c:42:aa:bb:01")]
)
async def test_power_goes_on_and_off_and_is_looked_at_first(
    host: HypervisorHost, fresh: Path, virt_type: str, name: str, card: str
) -> None:
    async with hosts() as made:
        power = SshPower(made)
        assert (await made.place(host.context(ssh_virt_type=virt_type, ports=(card,)))).key == ONE
        ctx = host.context(ssh_virt_type=virt_type, ssh_machine=name)
        await power.validate(ctx)
        for target, state in ((PowerTarget.ON, PowerState.ON), (PowerTarget.REBOOT, PowerState.ON), (PowerTarget.OFF, PowerState.OFF)):
            await power.set_power_state(ctx, target)
            await power.set_power_state(ctx, PowerTarget.ON if state is PowerState.ON else target)
            assert await power.get_power_state(ctx) is state
        assert fresh.read_text().count('"startvm"' if virt_type == "vbox" else '"start"') == 2
        with pytest.raises(HostRefused, match="no machine named nobody"):
            await power.get_power_state(host.context(ssh_virt_type=virt_type, ssh_machine="nobody"))


async def test_virtualbox_gets_its_boot_device_when_it_is_started(host: HypervisorHost, fresh: Path) -> None:
    ctx = host.context(ssh_virt_type="vbox", ssh_machine=ONE)
    async with hosts() as made:
        power, management = SshPower(made), SshManagement(made)
        assert await management.get_boot_device(ctx) == (BootDevice.DISK, True)
        await power.set_power_state(ctx, PowerTarget.ON)
        await management.set_boot_device(ctx, BootDevice.PXE)
        assert await management.get_boot_device(ctx) == (BootDevice.PXE, False)
        await power.set_power_state(ctx, PowerTarget.REBOOT)
        assert '"order": ["net", "disk", "dvd"]' in fresh.read_text()
        assert await management.get_boot_device(ctx) == (BootDevice.DISK, True)
        await power.set_power_state(ctx, PowerTarget.REBOOT)
        assert '"order": ["disk", "dvd", "net"]' in fresh.read_text()
        await management.set_boot_device(ctx, BootDevice.CDROM, persistent=True)
        for _ in range(2):
            await power.set_power_state(ctx, PowerTarget.REBOOT)
            assert '"order": ["dvd", "disk", "net"]' in fresh.read_text()
            assert await management.get_boot_device(ctx) == (BootDevice.CDROM, True)
        await management.inject_nmi(ctx)


async def test_parallels_has_one_order(host: HypervisorHost, fresh: Path) -> None:
    ctx = host.context(ssh_virt_type="parallels", ssh_machine="my machine")
    async with hosts() as made:
        management = SshManagement(made)
        for persistent in (False, True):
            await management.set_boot_device(ctx, BootDevice.PXE, persistent=persistent)
            assert await management.get_boot_device(ctx) == (BootDevice.PXE, None)
        assert fresh.read_text().count('"set"') == 1
        with pytest.raises(HostRefused, match="has no floppy"):
            await management.set_boot_device(ctx, BootDevice.FLOPPY)
        with pytest.raises(Unsupported):
            await management.inject_nmi(ctx)


def test_lists_with_odd_names_are_read() -> None:
    names = ["a", "  b' {c} ", "Domain: 'x'", "state.state=1"]
    text = "".join(f"{ONE[:-1]}{i} {name}\n" for i, name in enumerate(names)) + "\n"
    text += "".join(f"Domain: '{name}'\n  state.state={i % 2 * 4 + 1}\n  state.reason=1\n\n" for i, name in enumerate(names))
    assert {machine.name: machine.on for machine in libvirt.machines([text])} == {name: i % 2 == 0 for i, name in enumerate(names)}
    assert virtualbox.machines([f'"a" {{{ONE}}}\r\nnoise\n', ""]) == [Machine(ONE, "a", False)]
    assert parallels.machines([f"{{{ONE}}}  suspended  a b\n"]) == [Machine(ONE, "a b", False)]
