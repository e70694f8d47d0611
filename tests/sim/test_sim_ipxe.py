"""metald's own boot scripts, followed by the simulated iPXE: every way through them, failures included."""

from __future__ import annotations

import pytest

from metald.boot import credentials, ipxe
from metald.boot.load import load_of
from metald.boot.render import Asker
from metald.model import Node
from metald.sim.ipxe import Disk, End, Ipxe, Kernel, Leave, LoadError, Restart, ScriptError

BASE = "http://boot:1"
MAC = "52:54:00:12:34:56"
ASKER = Asker(BASE, (MAC,))


class Firmware:
    """Files by URL, and what was asked and slept."""

    def __init__(self, **files: str) -> None:
        self.files = files
        self.asked: list[str] = []
        self.slept: list[float] = []
        self.failing: dict[str, int] = {}

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        name = url.removeprefix(f"{BASE}/").partition("?")[0]
        if self.failing.get(url):
            self.failing[url] -= 1
            raise LoadError(url)
        if name not in self.files:
            raise LoadError(url)
        return self.files[name].encode()

    async def pause(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def run(self, platform: str = "pcbios") -> End:
        return await Ipxe((MAC,), self.fetch, self.pause, platform=platform).run(f"{BASE}/boot.ipxe")


def _ramdisk(node: Node, default: str = "") -> str:
    wanted = load_of(node, ASKER, default)
    assert wanted is not None
    return ipxe.load(node, wanted, ASKER)


def _place(node: Node) -> str:
    return f"boot/{node.uuid}/{node.driver_internal_info['boot_token']}"


def _firmware(script: str, **files: str) -> Firmware:
    return Firmware(**{"boot.ipxe": ipxe.first(ASKER), "boot/ipxe": script, **files})


@pytest.fixture
def node() -> Node:
    return Node(driver="ipmi", driver_internal_info=credentials.new_credentials("deploy"))


async def test_ramdisk_script_starts_the_kernel_with_the_nodes_own_line(node: Node) -> None:
    script = _ramdisk(node, "console=ttyS0")
    firmware = _firmware(script, **{f"{_place(node)}/kernel": "k" * 10, f"{_place(node)}/initramfs": "i" * 5})
    end = await firmware.run()
    assert isinstance(end, Kernel)
    assert end.loaded == 15
    assert f"metald.token={node.driver_internal_info['boot_token']}" in end.command_line.split()
    assert end.command_line.startswith("initrd=initramfs console=ttyS0 BOOTIF=01-52-54-00-12-34-56 ")
    assert firmware.asked[1] == f"{BASE}/boot/ipxe?mac={MAC.replace(':', '-')}&mac={MAC.replace(':', '-')}" + "&mac=" * 7


async def test_failures_are_tried_again(node: Node) -> None:
    firmware = _firmware(_ramdisk(node), **{f"{_place(node)}/kernel": "k", f"{_place(node)}/initramfs": "i"})
    firmware.failing = {f"{BASE}/{_place(node)}/initramfs": 2}
    assert isinstance(await firmware.run(), Kernel)
    assert firmware.slept == [3.0, 3.0]


async def test_files_that_never_come_restart_the_machine(node: Node) -> None:
    firmware = _firmware(_ramdisk(node))
    assert isinstance(await firmware.run(), Restart)
    assert firmware.slept == [3.0, 3.0, 3.0, 3.0, 30.0]


async def test_script_that_never_comes_leads_to_the_next_boot_device() -> None:
    firmware = Firmware(**{"boot.ipxe": ipxe.first(ASKER)})
    assert isinstance(await firmware.run(), Leave)
    assert firmware.slept == [3.0, 3.0, 3.0, 3.0, 5.0]
    assert isinstance(await Firmware().run(), Leave)


async def test_node_that_boots_from_its_disk(node: Node) -> None:
    assert isinstance(await _firmware(ipxe.disk(node)).run(), Disk)
    assert isinstance(await _firmware(ipxe.disk(node)).run("efi"), Leave)


async def test_unknown_machine_and_refused_node_go_on() -> None:
    firmware = _firmware(ipxe.unknown(ASKER))
    assert isinstance(await firmware.run(), Leave)
    assert firmware.slept == [30.0]
    firmware = _firmware(ipxe.refused("no"))
    assert isinstance(await firmware.run(), Leave)


async def test_what_is_not_simulated_is_an_error() -> None:
    with pytest.raises(ScriptError, match="imgfetch"):
        await _firmware("#!ipxe\nimgfetch x\n").run()
    with pytest.raises(ScriptError, match="does not end"):
        await _firmware("#!ipxe\n:again\ngoto again\n").run()
    assert isinstance(await _firmware("not a script").run(), Leave)
