"""`make test-boot`: machines boot in every way there is, each from power-on to `active`, with a table of what happened.

Every case is a virtual machine of its own behind a BMC, a wire of its own with the DHCP server that the case is about, and a real
`metald serve`; `boot_cases.py` has them. At the end come machines that cannot boot, and what the boot doctor says of them.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.boot_cases import CASES, Case
from lab.daemon import Daemon
from lab.network import BridgedNetwork, lacks
from lab.prepare import BUILD, Prepared, prepare
from lab.process import LabError, run
from lab.rack import Lab, LabMachine
from lab.story import seconds_of
from metald.ramdisk.build import build
from metald.ramdisk.packages import BuildError, Debian
from metald.ramdisk.recipe import Recipe

_DEADLINE = 900.0
_POLL = 0.25
_GRUB_MODULES = ("efinet", "net", "http", "tftp", "linux", "normal", "configfile", "echo", "test", "sleep", "reboot")
_PREFIX = "if [ -e $prefix/grub.cfg ]; then source $prefix/grub.cfg; else source $cmdpath/grub.cfg; fi\n"


@dataclass(slots=True)
class Result:
    """What became of a case."""

    case: Case
    seconds: float = 0.0
    """From power-on to `active`."""
    loaded: list[str] = field(default_factory=list)
    says: str = ""
    """What the boot doctor says of it."""
    error: str = ""
    left_out: str = ""
    """Why it cannot be tried on this kernel."""

    @property
    def verdict(self) -> str:
        """In a word."""
        return "FAILED" if self.error else "-" if self.left_out else "passed"


class _Run:
    def __init__(self, case: Case, made: Prepared, directory: Path, deadline: float) -> None:
        self._case, self._made, self._directory, self._deadline = case, made, directory, deadline

    async def __call__(self) -> Result:
        case = self._case
        result = Result(case, left_out=await lacks(case.wire))
        if result.left_out:
            return result
        uefi = case.firmware != "bios"
        try:
            async with Lab(
                1,
                uefi=uefi,
                secure=case.firmware == "secure",
                arm64=case.firmware == "arm64",
                rom=case.rom,
                clients=case.clients,
                wire=case.wire,
                network="bridge",
            ) as lab:
                try:
                    async with Daemon(lab.directory, await self._settings(lab)) as daemon:
                        await self._boot(lab.machines[0], daemon, result)
                finally:
                    self._keep(lab)
        except (LabError, TimeoutError) as error:
            result.error = str(error) or "it took too long"
        return result

    async def _settings(self, lab: Lab) -> dict[str, str]:
        more = dict(self._case.settings)
        if more.get("METALD__BOOT__LOADER_FILE_PATHS") == "GRUB":
            grub = lab.directory / "grubx64.efi"
            (lab.directory / "early.cfg").write_text(_PREFIX)
            await run(
                "grub-mkimage", "-O", "x86_64-efi", "-o", str(grub), "-p", "/grub", "-c", str(lab.directory / "early.cfg"), *_GRUB_MODULES
            )
            more["METALD__BOOT__LOADER_FILE_PATHS"] = f"bootx64.efi:/usr/lib/shim/shimx64.efi.signed,grubx64.efi:{grub}"
        ramdisk = self._made.ramdisk
        if self._case.firmware == "arm64":
            ramdisk = await asyncio.to_thread(_arm64, more)
        return {
            "METALD__BOOT__RAMDISK_DIR": str(ramdisk),
            "METALD__IMAGES__FILE_ROOTS": str(self._made.image.parent),
            **lab.metald,
            **more,
        }

    async def _boot(self, one: LabMachine, daemon: Daemon, result: Result) -> None:
        modes = {"bios": "boot_mode:bios", "secure": "boot_mode:uefi,secure_boot:true" if self._case.tells else "boot_mode:uefi"}
        capabilities = modes.get(self._case.firmware, "boot_mode:uefi")
        node = {
            "name": one.name,
            "driver": "ipmi",
            "boot_interface": self._case.interface,
            "driver_info": one.driver_info,
            "properties": {
                "root_device": {"serial": one.disk_serials[0]},
                "capabilities": capabilities,
                "cpu_arch": "aarch64" if self._case.firmware == "arm64" else "x86_64",
            },
            "instance_info": {
                "image_source": self._made.image.as_uri(),
                "image_disk_format": "raw",
                "image_os_hash_algo": "sha512",
                "image_os_hash_value": self._made.sha512,
            },
            "automated_clean": False,
        }
        uuid = (await daemon.call("POST", "/v1/nodes", node))["uuid"]
        await daemon.call("POST", "/v1/ports", {"node_uuid": uuid, "address": one.mac})
        for verb, state in (("manage", "manageable"), ("provide", "available"), ("active", "active")):
            await daemon.call("PUT", f"/v1/nodes/{one.name}/states/provision", {"target": verb})
            if verb == "active" and self._case.stops:
                await self._told(one, daemon, result)
                return
            await _until(daemon, one.name, state, self._deadline)
        events = (await daemon.get(f"/v1/nodes/{one.name}/timeline"))["timeline"]
        power_on = one.happenings[0].at
        result.seconds = max(seconds_of(event) for event in events if event["type"] == "node.provision") - power_on
        result.loaded = _loaded(events, uuid, one.mac)
        result.error = _missing(self._case.loads, result.loaded)
        if self._case.says and self._case.says not in one.serial_log.read_text(errors="replace"):
            result.error = result.error or f"the console does not say {self._case.says!r}"
        if self._case.warns:
            boots = (await daemon.get(f"/v1/nodes/{one.name}/boots"))["boots"]
            warnings = [each for boot in boots for each in boot["warnings"] if each["cause"] == self._case.warns]
            result.says = warnings[0]["likely"] if warnings else ""
            told = [event["data"]["cause"] for event in events if event["type"] == "node.boot_warning"]
            if not warnings or set(told) != {self._case.warns}:
                result.error = result.error or f"the boot doctor warns of {told or 'nothing'}, not of {self._case.warns}"

    async def _told(self, one: LabMachine, daemon: Daemon, result: Result) -> None:
        """Until the boot doctor says why the machine does not boot."""
        async with asyncio.timeout(self._deadline):
            while True:
                boots = (await daemon.get(f"/v1/nodes/{one.name}/boots"))["boots"]
                cause = boots[0]["cause"] if boots else None
                events = (await daemon.get(f"/v1/nodes/{one.name}/timeline"))["timeline"]
                told = [event["data"] for event in events if event["type"] == "node.boot_stopped"]
                if told and cause == self._case.stops:
                    break
                node = await daemon.get(f"/v1/nodes/{one.name}")
                if node["last_error"] and not boots:
                    raise LabError(f"{node['provision_state']}: {node['last_error']}")
                await asyncio.sleep(_POLL)
        result.loaded = _loaded(events, str(boots[0]["node_uuid"]), one.mac)
        result.says = boots[0]["likely"]
        result.error = _missing(self._case.loads, result.loaded) if self._case.loads else ""
        if told[-1]["cause"] != self._case.stops:
            result.error = f"the event says {told[-1]['cause']}"

    def _keep(self, lab: Lab) -> None:
        """Keep what tells why it failed."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        logs = [lab.directory / "metald.log"] + [log for one in lab.machines for log in (one.serial_log, one.machine.qemu_log)]
        if isinstance(lab.network, BridgedNetwork):
            logs.append(lab.network.log)
        for log in logs:
            if log.exists():
                shutil.copyfile(log, self._directory / log.name)


def _arm64(settings: dict[str, str]) -> Path:
    """Make the ramdisk for arm64 unless it is there, and name that architecture's loaders in the settings. Blocks."""
    work, ramdisk = BUILD / "debian", BUILD / "ramdisk-arm64"
    try:
        if not (ramdisk / "manifest.json").exists():
            build(ramdisk, work, Recipe(architecture="arm64"))
        packages = Debian(work, "arm64").fetch(["shim-signed", "grub-efi-arm64-signed"])
    except BuildError as error:
        raise LabError(str(error)) from error
    shim, grub = (packages[name].root / "usr/lib" for name in ("shim-signed", "grub-efi-arm64-signed"))
    names = f"bootaa64.efi:{shim / 'shim/shimaa64.efi.signed'},grubaa64.efi:{grub / 'grub/arm64-efi-signed/grubnetaa64.efi.signed'}"
    settings["METALD__BOOT__LOADER_FILE_PATHS"] = names
    settings["METALD__BOOT__KERNEL_APPEND_PARAMS"] = "console=ttyAMA0"
    return ramdisk


async def _until(daemon: Daemon, name: str, state: str, deadline: float) -> None:
    async with asyncio.timeout(deadline):
        while True:
            node = await daemon.get(f"/v1/nodes/{name}")
            if node["provision_state"] == state:
                return
            if node["last_error"]:
                raise LabError(f"{node['provision_state']}: {node['last_error']}")
            await asyncio.sleep(_POLL)


def _loaded(events: Sequence[Mapping[str, Any]], uuid: str, mac: str) -> list[str]:
    """What was loaded whole, in order, as `tftp NAME` and `http NAME`."""
    found = []
    for event in events:
        if event["type"] in ("node.tftp", "node.http"):
            data = event["data"]
            if data.get("error") or data.get("probe") or data.get("method") or data.get("status", 200) != 200:
                continue
            name = str(data["file"]).replace(uuid, "NODE").replace(mac, "MAC").replace(mac.replace(":", "-"), "MAC")
            found.append(f"{event['type'].removeprefix('node.')} {name}")
    return found


def _missing(wanted: Sequence[str], loaded: Sequence[str]) -> str:
    """Why what was loaded is not what should have been."""
    if loaded and loaded[0] != wanted[0]:
        return f"it loaded {loaded[0]} first, not {wanted[0]}"
    rest = iter(loaded)
    for each in wanted:
        if each not in rest:
            return f"it did not load {each}; it loaded {', '.join(loaded) or 'nothing'}"
    return ""


def _table(results: Sequence[Result]) -> list[str]:
    width = max(len(result.case.name) for result in results)
    lines = [f"{'':6}  {'way to boot':{width}}  {'interface':9}  {'DHCP':9}  power-on to active"]
    for result in results:
        seconds = f"{result.seconds:6.1f} s" if result.seconds else "       -"
        lines.append(f"{result.verdict:6}  {result.case.name:{width}}  {result.case.interface:9}  {result.case.wire.dhcp:9}  {seconds}")
        if result.error or result.says or result.left_out:
            lines.append(f"{'':8}{result.error or result.says or f'left out: {result.left_out}'}")
    left_out = sum(bool(result.left_out) for result in results)
    return [*lines, *([f"{left_out} of {len(results)} left out"] if left_out else [])]


async def _all(cases: Sequence[Case], deadline: float) -> list[Result]:
    made = await prepare(print)
    results = []
    for number, case in enumerate(cases):
        begun = time.monotonic()
        result = await _Run(case, made, BUILD / "test-boot" / str(number), deadline)()
        print(f"{result.verdict:6}  {case.name}: {result.error or result.left_out or ', '.join(result.loaded)}", end=" ")
        print(f"({time.monotonic() - begun:.0f} s)", flush=True)
        results.append(result)
    return results


def main() -> int:
    """Run the command line; 0 when every way worked that this kernel has."""
    parser = argparse.ArgumentParser(prog="make test-boot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name has this in it")
    parser.add_argument("--deadline", type=float, default=_DEADLINE, metavar="S", help="seconds that a case may take (default %(default)g)")
    parser.add_argument("--list", action="store_true", help="name the cases")
    given = parser.parse_args()
    cases = [case for case in CASES if given.only.lower() in case.name.lower()]
    if given.list or not cases:
        print("\n".join(case.name for case in CASES))
        return 0 if given.list else 2
    try:
        results = asyncio.run(_all(cases, given.deadline))
    except LabError as error:
        sys.stderr.write(f"test-boot: {error}\n")
        return 1
    print("\n" + "\n".join(_table(results)))
    return 1 if any(result.error for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
