"""`make test-agent-qemu`: the life of a machine with the real Ironic Python Agent, by the ordinary `baremetal` client and nothing else.

A virtual machine behind a real BMC boots metald's agent ramdisk over the network. It is inspected, cleaned, given a RAID and
relieved of it, deployed with Debian while metald is killed, rescued, unrescued, undeployed and deleted; each time what should
be true is looked at from outside: by SSH, and on the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import asyncssh

from lab.daemon import Daemon
from lab.debian import build_debian_image
from lab.hardware import GIB
from lab.network import BridgedNetwork
from lab.prepare import BUILD, Prepared, make, prepare, prepare_agent, sources
from lab.process import LabError, run
from lab.program import limit, run_program, told
from lab.rack import Lab, LabMachine
from lab.screen import Screen

_PATIENCE = 1800
"""Seconds that an operation may take: several boots of the agent, without KVM, on a machine that does other things too."""
_LOGIN = 600.0
_MEMORY = 2048
_SECTOR, _WIPED = 512, 33
"""How much the agent clears of a disk and of each of its partitions, in sectors: a partition table with its header."""
_PASSWORD = "correct horse battery"  # of a rescue in this lab
_DEBIAN = BUILD / "image" / "debian.raw"
_PARTITION = BUILD / "image" / "debian-root.raw"
_RAID = {"logical_disks": [{"size_gb": "MAX", "raid_level": "1", "controller": "software", "is_root_volume": True}]}


class Life:
    """One machine's.

    Args:
        out: where to say what happens.
        machine: the machine.
        daemon: metald.
        made: the key by which Debian is logged in to.
        partition: whether a partition image is deployed too.
    """

    def __init__(self, out: Screen, machine: LabMachine, daemon: Daemon, made: Prepared, *, partition: bool) -> None:
        self._out = out
        self._machine = machine
        self._daemon = daemon
        self._made = made
        self._partition = partition

    async def run(self) -> None:
        """All of it.

        Raises:
            LabError: something is not as it should be; the text says what.
        """
        more = (self.partitioned, self.undeployed) if self._partition else ()
        parts = (
            self.enrolled,
            self.inspected,
            self.cleaned,
            self.raided,
            self.deployed,
            self.rescued,
            self.undeployed,
            *more,
            self.deleted,
        )
        for part in parts:
            began = time.monotonic()
            said = await part()
            self._out.say(f"{part.__name__} in {time.monotonic() - began:.0f} s: {said}")

    async def enrolled(self) -> str:
        """The BMC answers, and the node is manageable."""
        interfaces = {"deploy": "direct", "boot": "ipxe", "inspect": "agent", "rescue": "agent", "raid": "agent"}
        arguments = ["--driver", "ipmi", "--name", self._machine.name]
        for kind, name in interfaces.items():
            arguments += [f"--{kind}-interface", name]
        for key, value in self._machine.driver_info.items():
            arguments += ["--driver-info", f"{key}={value}"]
        hints = {"serial": f"s== {self._machine.disk_serials[0]}"}
        arguments += ["--property", f"root_device={json.dumps(hints)}", "-f", "value", "-c", "uuid"]
        uuid = (await self._do("create", *arguments, named=False)).strip()
        await self._daemon.baremetal("port", "create", self._machine.mac, "--node", uuid)
        await self._do("manage", "--wait", "120")
        return uuid

    async def inspected(self) -> str:
        """The agent tells what the machine is made of."""
        await self._do("inspect", "--wait", str(_PATIENCE))
        found = json.loads(await self._do("inventory", "save"))["inventory"]
        disks = {disk["serial"]: disk["size"] for disk in found["disks"]}
        self._must(set(disks) == set(self._machine.disk_serials), f"the disks are {disks}")
        cards = {card["mac_address"] for card in found["interfaces"] if card["name"] != "lo"}
        self._must(cards == {self._machine.mac}, f"the cards are {cards}")
        node = await self._node()
        self._must(node["properties"]["cpu_arch"] == "x86_64", f"the properties are {node['properties']}")
        self._must(node["power_state"] == "power off" and not self._machine.on, "the machine was left on")
        return f"{found['memory']['physical_mb']} MB, disks {', '.join(map(str, disks))}"

    async def cleaned(self) -> str:
        """Automated and manual cleaning wipe what the disks held; burn-in is a step like any other."""
        self._mark()
        await self._do("provide", "--wait", str(_PATIENCE))
        self._must(not self._marked(), "the disk was not wiped")
        self._mark()
        await self._do("manage", "--wait", "120")
        await self._do("set", "--driver-info", "agent_burnin_cpu_timeout=2", "--driver-info", "agent_burnin_cpu_cpu=1")
        steps = [{"interface": "deploy", "step": step} for step in ("burnin_cpu", "erase_devices_express")]
        await self._do("clean", "--clean-steps", json.dumps(steps), "--wait", str(_PATIENCE))
        self._must(not self._marked(), "the disk was not wiped by hand")
        return f"{self._machine.power_ons} boots until now"

    async def raided(self) -> str:
        """Two disks become one, and two again."""
        await self._do("set", "--target-raid-config", json.dumps(_RAID))
        create, delete = ([{"interface": "raid", "step": f"{what}_configuration"}] for what in ("create", "delete"))
        await self._do("clean", "--clean-steps", json.dumps(create), "--wait", str(_PATIENCE))
        made = (await self._node())["raid_config"]["logical_disks"]
        self._must([disk["raid_level"] for disk in made] == ["1"], f"the RAID is {made}")
        await self._do("clean", "--clean-steps", json.dumps(delete), "--wait", str(_PATIENCE))
        node = await self._node()
        self._must(not node["raid_config"], f"the RAID is still {node['raid_config']}")
        await self._do("unset", "--target-raid-config")
        hints = {"serial": f"s== {self._machine.disk_serials[0]}"}
        await self._do("set", "--property", f"root_device={json.dumps(hints)}")
        await self._do("provide", "--wait", str(_PATIENCE))
        return "RAID 1 was made and removed"

    async def deployed(self) -> str:
        """Debian boots and knows its name, although metald was killed while the agent wrote it."""
        await self._deploy(image_source=_DEBIAN.as_uri())
        await self._until(lambda node: node["deploy_step"].get("step") == "write_image")
        await self._daemon.kill()
        await self._daemon.start()
        await self._until(lambda node: node["provision_state"] == "active")
        events = (await self._daemon.get(f"/v1/nodes/{self._machine.name}/timeline"))["timeline"]
        written = [event["data"] for event in events if event["type"] == "node.image_written"]
        self._must(len(written) == 1, f"the image was written {len(written)} times")
        return await self._in_debian()

    async def partitioned(self) -> str:
        """A file system alone: the agent makes the partitions and has the image's GRUB boot it."""
        await self._deploy(image_source=_PARTITION.as_uri(), image_type="partition", root_gb=2, swap_mb=64)
        await self._until(lambda node: node["provision_state"] == "active")
        return await self._in_debian()

    async def _deploy(self, **info: str | int) -> None:
        info = {"image_disk_format": "raw", **info}
        await self._do("set", *(part for key, value in info.items() for part in ("--instance-info", f"{key}={value}")))
        drive = {"meta_data": {"hostname": "born-of-an-agent", "public_keys": {"lab": self._made.public_key}}}
        await self._do("deploy", "--config-drive", json.dumps(drive))

    async def rescued(self) -> str:
        """The operator gets in by the password, sees the instance's disk, and the instance comes back."""
        await self._do("rescue", "--rescue-password", _PASSWORD, "--wait", str(_PATIENCE))
        said = await self._login("rescue", "sudo blkid -o value -s LABEL", password=_PASSWORD)
        self._must("lab-root" in said.split(), f"the rescued machine sees the labels {said.split()}")
        await self._do("unrescue", "--wait", str(_PATIENCE))
        return await self._in_debian()

    async def undeployed(self) -> str:
        """Neither partitions nor file systems of the instance are left."""
        table = json.loads(await run("sfdisk", "--json", str(self._machine.disk)))["partitiontable"]
        places = {"the disk": 0, **{f"partition {number}": one["start"] for number, one in enumerate(table["partitions"], 1)}}
        await self._do("undeploy", "--wait", str(_PATIENCE))
        with self._machine.disk.open("rb") as disk:
            for what, first in places.items():
                disk.seek(first * _SECTOR)
                self._must(not any(disk.read(_WIPED * _SECTOR)), f"{what} is still as the instance had it")
        self._must(not self._machine.on, "the machine was left on")
        return f"{len(places) - 1} partitions are gone, and the machine is off"

    async def deleted(self) -> str:
        """metald knows it no more."""
        await self._do("delete")
        return "gone"

    async def _in_debian(self) -> str:
        said = await self._login("root", "hostname; cat /etc/debian_version; systemctl is-active ssh")
        name, release, active = said.split()
        self._must((name, active) == ("born-of-an-agent", "active"), f"the system that answers says {said!r}")
        return f"Debian {release} is up as {name}"

    async def _login(self, user: str, command: str, *, password: str | None = None) -> str:
        async with limit(_LOGIN, f"{user} cannot log in to {self._machine.name}"):
            while True:
                place = self._machine.ssh()
                with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
                    if place is not None:
                        async with asyncssh.connect(
                            *place,
                            username=user,
                            password=password,
                            client_keys=None if password else [str(self._made.key)],
                            known_hosts=None,
                            config=None,
                            agent_path=None,
                            login_timeout=60,
                        ) as connection:
                            done = await connection.run(command, check=True, timeout=60)
                            return str(done.stdout)
                await asyncio.sleep(1)

    async def _do(self, verb: str, *arguments: str, named: bool = True) -> str:
        words = verb.split()
        if verb == "inventory":
            words, arguments = [verb, arguments[0]], arguments[1:]
        name = [self._machine.name] if named else []
        return await self._daemon.baremetal("node", *words, *name, *arguments, deadline=_PATIENCE + 60)

    async def _node(self) -> dict[str, Any]:
        return dict(json.loads(await self._do("show", "-f", "json")))

    async def _until(self, true: Callable[[dict[str, Any]], bool]) -> None:
        async with limit(_PATIENCE, f"{self._machine.name} is not as far as it should be"):
            while True:
                node = await self._daemon.get(f"/v1/nodes/{self._machine.name}")
                if true(node):
                    return
                if node["provision_state"].endswith("failed") or node["provision_state"] == "error":
                    raise LabError(f"{node['provision_state']}: {node['last_error']}")
                await asyncio.sleep(0.2)

    def _must(self, true: bool, otherwise: str) -> None:
        if not true:
            raise LabError(f"{self._machine.name}: {otherwise}.")

    def _mark(self) -> None:
        """Something on the disk that a cleaning must take away: an MBR."""
        with self._machine.disk.open("r+b") as disk:
            disk.write(bytes(446) + b"\x80\0\0\0\x83\0\0\0\0\x08\0\0\0\x08\0\0" + bytes(48) + b"\x55\xaa")

    def _marked(self) -> bool:
        with self._machine.disk.open("rb") as disk:
            return any(disk.read(512))


async def _debian(out: Screen, *, partition: bool) -> None:
    recipe = sources(BUILD.parent / "lab" / "debian.py", BUILD.parent / "lab" / "image.py", BUILD.parent / "lab" / "files")
    await asyncio.to_thread(make, "Debian", _DEBIAN, recipe, lambda: build_debian_image(_DEBIAN), out.say)
    if partition:
        root = partial(build_debian_image, _PARTITION, partition=True)
        await asyncio.to_thread(make, "Debian's root file system", _PARTITION, recipe, root, out.say)


async def _run(args: argparse.Namespace, out: Screen) -> None:
    out.title("Prepare (ramdisk and image are kept in build/ for the next time)")
    made, ramdisk = await prepare(out.say), await prepare_agent(out.say)
    await _debian(out, partition=args.partition)
    out.title("A machine, powered off, behind its BMC")
    async with Lab(1, uefi=args.uefi, disks=(4 * GIB, 4 * GIB), memory=_MEMORY, network="bridge") as lab:
        (machine,) = lab.machines
        assert isinstance(lab.network, BridgedNetwork)
        settings = {
            **lab.metald,
            # agents call the API, which has no password here
            "METALD__API__LISTEN": f"{lab.host}:6385",
            "METALD__API__ALLOW_INSECURE": "true",
            "METALD__AGENT__DEPLOY_KERNEL": (ramdisk / "kernel").as_uri(),
            "METALD__AGENT__DEPLOY_RAMDISK": (ramdisk / "initramfs").as_uri(),
            "METALD__AGENT__CLEAN_STEP_PRIORITIES": "deploy.erase_devices:0",
            "METALD__AGENT__BIOS_BOOTLOADER": "true",
            "METALD__BOOT__KERNEL_APPEND_PARAMS": "nofb vga=normal console=ttyS0 no_timer_check",
            "METALD__IMAGES__FILE_ROOTS": f"{ramdisk},{_DEBIAN.parent}",
        }
        daemon = Daemon(lab.directory, settings, url=f"http://{lab.host}:6385")
        with told(out, lab, daemon):
            async with daemon:
                await Life(out, machine, daemon, made, partition=args.partition).run()


def main() -> int:
    """Run the command line; 0 when everything was as it should be."""
    parser = argparse.ArgumentParser(prog="make test-agent-qemu", description="The life of a machine with the Ironic Python Agent.")
    parser.add_argument("--uefi", action="store_true", help="UEFI firmware instead of BIOS")
    parser.add_argument("--partition", action="store_true", help="deploy a partition image too, by BIOS")
    out = Screen()
    began = time.monotonic()
    code = run_program("test-agent-qemu", out, _run(parser.parse_args(), out))
    if code == 0:
        out.title(f"Done in {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
