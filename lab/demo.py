"""`make demo`: two powered-off machines become running systems, by metald, the ordinary `baremetal` client and nothing else.

It prepares what it needs, makes the lab, starts metald, enrols, deploys, logs in, tells the time-line of each machine,
takes everything down, and says with its exit code whether all of it worked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from lab import screen, story
from lab.daemon import Daemon, free_port
from lab.network import KERNEL_PARAMETERS, BridgedNetwork
from lab.prepare import Prepared, prepare
from lab.process import LabError, run
from lab.program import limit, run_program, told
from lab.rack import Lab, LabMachine
from lab.screen import Screen
from lab.story import Moment

_POLL = 0.25
_DEPLOY_DEADLINE = 600.0
_LOGIN_DEADLINE = 180.0


class Demo:
    """One run.

    Args:
        out: where to say what happens.
        lab: the machines.
        daemon: metald.
        made: ramdisk, image and key.
    """

    def __init__(self, out: Screen, lab: Lab, daemon: Daemon, made: Prepared) -> None:
        self._out = out
        self._lab = lab
        self._daemon = daemon
        self._made = made
        self._asked: dict[str, float] = {}
        self._active: dict[str, float] = {}
        self._logins: dict[str, float] = {}
        self._dhcp: dict[str, list[Moment]] = {one.name: [] for one in lab.machines}
        self._cpu = 0.0

    async def run(self) -> None:
        """All of it.

        Raises:
            LabError: something did not work; the text says what.
        """
        watching = asyncio.create_task(self._watch_dhcp())
        try:
            self._out.title("Enrol the machines (baremetal node create, port create, manage, provide)")
            await self._each(self._enrol)
            self._out.title("Deploy them all at once (baremetal node deploy)")
            self._cpu = self._daemon.cpu
            await self._each(self._deploy)
            self._cpu = self._daemon.cpu - self._cpu
            self._out.title("Time-lines, in seconds since the deployment was asked for")
            for one in self._lab.machines:
                await self._tell(one)
            self._out.plain(
                f"\nmetald used {self._cpu:.2f} s of processor for the deployments and holds {self._daemon.memory >> 20} MiB of memory."
            )
            self._out.title("Take them down (baremetal node undeploy, delete)")
            await self._each(self._take_down)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _each(self, work: Callable[[LabMachine], Awaitable[None]]) -> None:
        jobs = [work(one) for one in self._lab.machines]
        shower = asyncio.create_task(self._show())
        try:
            await _together(jobs)
        finally:
            shower.cancel()
            await asyncio.gather(shower, return_exceptions=True)
            self._out.forget()

    async def _enrol(self, one: LabMachine) -> None:
        hints = {"serial": one.disk_serials[0]}
        arguments = ["--driver", "ipmi", "--name", one.name, "--boot-interface", "ipxe", "--deploy-interface", "ssh"]
        for key, value in one.driver_info.items():
            arguments += ["--driver-info", f"{key}={value}"]
        if not isinstance(self._lab.network, BridgedNetwork):
            address = one.ssh()
            assert address is not None
            arguments += ["--driver-info", f"kernel_append_params=%default% metald.port={address[1]}"]
        arguments += ["--property", f"root_device={json.dumps(hints)}", "-f", "value", "-c", "uuid"]
        uuid = (await self._daemon.baremetal("node", "create", *arguments)).strip()
        await self._daemon.baremetal("port", "create", one.mac, "--node", uuid)
        await self._daemon.baremetal("node", "manage", one.name, "--wait", "60")
        self._out.say(f"{one.name}: enrolled as {uuid}, its BMC answers")
        await self._daemon.baremetal("node", "provide", one.name, "--wait", "300", deadline=330)
        self._out.say(f"{one.name}: cleaned and available")

    async def _deploy(self, one: LabMachine) -> None:
        info = {
            "image_source": self._made.image.as_uri(),
            "image_disk_format": "raw",
            "image_os_hash_algo": "sha512",
            "image_os_hash_value": self._made.sha512,
        }
        settings = [part for key, value in info.items() for part in ("--instance-info", f"{key}={value}")]
        await self._daemon.baremetal("node", "set", one.name, *settings)
        drive = {"meta_data": {"hostname": f"demo-{one.name}", "public_keys": {"demo": self._made.public_key}}}
        await self._daemon.baremetal("node", "deploy", one.name, "--config-drive", json.dumps(drive))
        events = await self._events(one)
        asked = [event for event in events if event["type"] == "node.provision" and event["data"]["to"] == "deploying"]
        self._asked[one.name] = story.seconds_of(asked[-1])
        self._active[one.name] = await self._until_active(one)
        self._out.say(f"{one.name}: active, its system starts")
        said = await self._login(one)
        self._logins[one.name] = time.time()
        self._out.say(f"{one.name}: ssh root@{_place(one)} uname -a  ->  {said}")

    async def _until_active(self, one: LabMachine) -> float:
        """When the node became active.

        Raises:
            LabError: it failed, with metald's own words.
        """
        async with limit(_DEPLOY_DEADLINE, f"{one.name} is not active"):
            while True:
                node = await self._daemon.get(f"/v1/nodes/{one.name}")
                if node["provision_state"] == "active":
                    return max(story.seconds_of(e) for e in await self._events(one) if e["type"] == "node.provision")
                if node["provision_state"].endswith("failed") or node["provision_state"] == "error":
                    raise LabError(f"{one.name}: {node['provision_state']}: {node['last_error']}")
                await asyncio.sleep(_POLL)

    async def _login(self, one: LabMachine) -> str:
        """Log in and check that it is the system that was asked for."""
        options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        options += ["-o", "ConnectTimeout=5", "-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=2", "-o", "IdentitiesOnly=yes"]
        wanted = f"demo-{one.name}"
        async with limit(_LOGIN_DEADLINE, f"{one.name} does not take an SSH login"):
            while True:
                place = one.ssh()
                if place is not None:
                    with contextlib.suppress(LabError):
                        command = ["ssh", "-i", str(self._made.key), *options, "-p", str(place[1]), f"root@{place[0]}"]
                        host, _, system = (await run(*command, "hostname; uname -a", deadline=15)).strip().partition("\n")
                        if host != wanted:
                            raise RuntimeError(f"{one.name}: the host name is {host!r}, its config drive says {wanted!r}.")
                        return system
                await asyncio.sleep(_POLL)

    async def _take_down(self, one: LabMachine) -> None:
        await self._daemon.baremetal("node", "undeploy", one.name, "--wait", "300", deadline=330)
        self._out.say(f"{one.name}: cleaned and available again")
        await self._daemon.baremetal("node", "delete", one.name)
        self._out.say(f"{one.name}: gone, its power is {'on' if one.on else 'off'}")
        if one.on:
            raise LabError(f"{one.name} was left running.")

    async def _events(self, one: LabMachine) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._daemon.get(f"/v1/nodes/{one.name}/timeline"))["timeline"]
        return found

    async def _tell(self, one: LabMachine) -> None:
        events = await self._events(one)
        moments = [told for event in events if (told := story.moment(event)) is not None]
        moments += [story.of_power(happening) for happening in one.happenings] + self._dhcp[one.name]
        since, login = self._asked[one.name], self._logins[one.name]
        moments.append(Moment(login, "SSH", f"root@{_place(one)} is logged in"))
        self._out.plain(f"\n{one.name}")
        for line in story.tell(moments, since, login):
            self._out.plain(line)
        split = story.shares(events, since, self._active[one.name], login)
        self._out.plain(
            f"  {split.total:.1f} s = ramdisk boot (firmware, DHCP, TFTP, HTTP, kernel) {split.boot:.1f}"
            f" + work in the ramdisk (SSH, image, disk) {split.ramdisk:.1f} + BMC {split.bmc:.1f}"
            f" + the new system's start {split.instance:.1f} + metald's own share {split.own:.2f}"
        )

    async def _show(self) -> None:
        """Keep the screen up to date."""
        while True:
            for one in self._lab.machines:
                with contextlib.suppress(LabError):
                    node = await self._daemon.get(f"/v1/nodes/{one.name}?fields=provision_state,deploy_step,clean_step")
                    progress = (await self._daemon.get(f"/v1/nodes/{one.name}/progress"))["progress"]
                    self._out.show(one.name, screen.describe(node, progress))
            await asyncio.sleep(_POLL)

    async def _watch_dhcp(self) -> None:
        """Note when dnsmasq gives a machine its address; its log knows whole seconds only."""
        network = self._lab.network
        if not isinstance(network, BridgedNetwork):
            return
        seen = 0
        while True:
            lines = network.log.read_text(errors="replace").splitlines()
            for line in lines[seen:]:
                for one in self._lab.machines:
                    if "DHCPACK" in line and one.mac in line:
                        address = line.split("DHCPACK", 1)[1].split()[1]
                        self._dhcp[one.name].append(Moment(time.time(), "DHCP", f"dnsmasq gives it {address}"))
            seen = len(lines)
            await asyncio.sleep(0.05)


async def _together(jobs: Iterable[Awaitable[None]]) -> None:
    """Await all; the first failure cancels the others and is raised as itself."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _place(one: LabMachine) -> str:
    address = one.ssh()
    return f"{address[0]}:{address[1]}" if address and address[1] != 22 else str(address and address[0])


def settings_for(lab: Lab, made: Prepared, boot_port: int) -> dict[str, str]:
    """metald's settings for this lab."""
    common = {
        "METALD__BOOT__RAMDISK_DIR": str(made.ramdisk),
        "METALD__IMAGES__FILE_ROOTS": str(made.image.parent),
    }
    if isinstance(lab.network, BridgedNetwork):
        # The first script by TFTP, so that every server takes part.
        return {**common, **lab.metald, "METALD__DHCP__IPXE_SCRIPT": "tftp"}
    return {
        **common,
        "METALD__BOOT__KERNEL_APPEND_PARAMS": KERNEL_PARAMETERS,
        "METALD__BOOT__HTTP_LISTEN": f"127.0.0.1:{boot_port}",
        "METALD__BOOT__HTTP_URL": f"http://{lab.host}:{boot_port}",
    }


async def _run(args: argparse.Namespace, out: Screen) -> None:
    out.title("Prepare (ramdisk and image are kept in build/ for the next time)")
    made = await prepare(out.say)
    boot_port = free_port()
    out.title("Machines, powered off, each behind its BMC")
    async with Lab(
        args.machines, uefi=args.uefi, rom=not args.no_rom, network=args.network, boot_url=f"http://10.0.2.2:{boot_port}/boot.ipxe"
    ) as lab:
        for what in lab.left_out:
            out.say(f"left out: {what}")
        for one in lab.machines:
            out.say(f"{one.name}: BMC (ipmi_sim) at {one.bmc.address}:{one.bmc.port}, MAC {one.mac}, disk {one.disk_serials[0]}")
        daemon = Daemon(lab.directory, settings_for(lab, made, boot_port))
        with told(out, lab, daemon):
            async with daemon:
                out.say(f"metald serves its API at {daemon.url}, and boots machines at {lab.host}")
                await Demo(out, lab, daemon, made).run()
                code = await daemon.stop()
                if code:
                    raise LabError(f"metald ended with exit code {code}.")
                out.say("metald has stopped")


def main() -> int:
    """Run the command line; 0 when everything worked."""
    parser = argparse.ArgumentParser(prog="make demo", description="Two machines from powered off to SSH.")
    parser.add_argument("--uefi", action="store_true", help="UEFI firmware instead of BIOS")
    parser.add_argument("--no-rom", action="store_true", help="with --uefi: the firmware's own PXE, which fetches iPXE by TFTP")
    parser.add_argument("--machines", type=int, default=2, help="how many (default 2); 1 shows what one takes on an idle host")
    parser.add_argument("--network", choices=("auto", "bridge", "user"), default="auto", help="kind of wire (default auto)")
    out = Screen()
    began = time.monotonic()
    args = parser.parse_args()
    code = run_program("demo", out, _run(args, out))
    if code == 0:
        out.title(f"Done in {time.monotonic() - began:.0f} s: {args.machines} machines deployed, logged in to, and taken down")
    return code


if __name__ == "__main__":
    sys.exit(main())
