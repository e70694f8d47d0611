"""A simulated Ironic-Python-Agent: looks itself up, heartbeats, and obeys the commands of a deployment, a cleaning, a rescue.

The protocol is the agent's own, so that any conductor of Ironic's can drive it: lookup with MAC addresses and microversion, the
token that is given once, heartbeats with `callback_url` and the certificate of this boot, `/v1/commands` over TLS
(`agent_server.py`). Rules: one command at a time, "Agent is busy" to the next; a heartbeat at once when one ends, then at a
seeded share of `heartbeat_timeout`. Images are fetched, hashed and counted (`writer.py`).
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import io
import random
import tarfile
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Protocol

from metald.sim.identity import Identity
from metald.sim.light import Host
from metald.sim.web import WebError
from metald.sim.writer import DiskError

VERSION: Final = "1.68"
AGENT_VERSION: Final = "11.2.0"
_HEADERS: Final = {"X-OpenStack-Ironic-API-Version": VERSION}
_HARDWARE: Final = "GenericHardwareManager"
_SOON = 5.0
_STEPS: Final = {
    "clean": [
        {"step": "erase_devices_metadata", "priority": 99, "interface": "deploy", "reboot_requested": False, "abortable": True},
        {"step": "erase_devices", "priority": 0, "interface": "deploy", "reboot_requested": False, "abortable": True},
    ],
    "deploy": [],
    "service": [],
}
_DIGESTS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}

Result = dict[str, Any]
_Run = Callable[[Mapping[str, Any]], Coroutine[Any, Any, Any]]


class Machine(Host, Protocol):
    """The machine that an agent runs on."""

    name: str
    agent: Agent | None

    def turn(self, power: bool) -> None:
        """Turn it off, or start it again."""
        ...

    def told(self, event: str, **detail: Any) -> None:
        """Something happened to it."""
        ...


class Refused(Exception):
    """The agent does not take a command; `status` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Agent:
    """One boot of the agent.

    Args:
        machine: where it runs.
        words: of the kernel's command line.
        port: where its API is reached at the machine's address.
        pace: seconds that a second takes.
    """

    def __init__(self, machine: Machine, words: Mapping[str, str], port: int, pace: float) -> None:
        self.serving = False
        self.identity = Identity(machine.name, machine.address)
        self.commands: list[Result] = []
        self._machine = machine
        self._api = words["ipa-api-url"].rstrip("/")
        self._inspection = words.get("ipa-inspection-callback-url", "")
        self._token: str | None = words.get("ipa-agent-token")
        self._uuid = ""
        self._port = port
        self._pace = pace
        self._interval = 300.0
        self._rng = random.Random(f"{machine.name}/{machine.counters.ramdisks}")  # noqa: S311 - replayable
        self._soon = asyncio.Event()
        self._sync: dict[str, _Run] = {
            "get_partition_uuids": self._nothing,
            "sync": self._nothing,
            "get_hardware_info": self._inventory,
            "collect_system_logs": self._logs,
            "finalize_rescue": self._silent,
            "lockdown": self._silent,
        }
        self._async: dict[str, _Run] = {
            "prepare_image": self._prepare_image,
            "install_bootloader": self._nothing,
            "power_off": self._power_off,
            "run_image": self._run_image,
        }

    async def run(self) -> None:
        """Live until the power goes."""
        if self._inspection:
            await self._again(lambda: self._machine.web.post(self._inspection, {"inventory": self._facts(), "error": None}))
            self._machine.told("inventory")
        found = await self._again(self._look_up)
        self._uuid = found["node"]["uuid"]
        self._interval = float(found["config"]["heartbeat_timeout"])
        given = found["config"].get("agent_token")
        if given and given != "******":
            self._token = given
        self.serving = True
        self._machine.counters.ready_calls += 1
        while self.serving:
            good = await self._heartbeat()
            wait = self._interval * self._rng.uniform(0.3, 0.6) if good else _SOON * self._rng.uniform(1, 2)
            try:
                async with asyncio.timeout(wait * self._pace):
                    await self._soon.wait()
            except TimeoutError:
                continue
            finally:
                self._soon.clear()

    async def _again(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        wait = 1.0
        while True:
            try:
                return (await call()).json()
            except WebError:
                await self._machine.pause(wait)
                wait = min(60.0, wait * 2)

    def _look_up(self) -> Coroutine[Any, Any, Any]:
        return self._machine.web.get(f"{self._api}/v1/lookup?addresses={','.join(self._machine.macs)}", headers=_HEADERS)

    async def _heartbeat(self) -> bool:
        body = {
            "callback_url": f"https://{self._machine.address}:{self._port}",
            "agent_version": AGENT_VERSION,
            "agent_token": self._token,
            "agent_verify_ca": self.identity.certificate,
        }
        try:
            await self._machine.web.post(f"{self._api}/v1/heartbeat/{self._uuid}", body, headers=_HEADERS)
        except WebError as error:
            self._machine.told("refused", what="heartbeat", text=str(error))
            return False
        return True

    # -- the API

    async def obey(self, token: str | None, name: str, params: Mapping[str, Any], *, wait: bool) -> Result:
        """Take a command.

        Raises:
            Refused: with the HTTP status that the agent answers.
        """
        self._check(token)
        if any(command["command_status"] == "RUNNING" for command in self.commands):
            raise Refused(409, "Agent is busy")
        extension, _, word = name.partition(".")
        run, background = self._find(extension, word)
        self._machine.counters.commands += 1
        self._machine.commanded()
        result: Result = {
            "id": str(uuid.UUID(int=self._rng.getrandbits(128), version=4)),
            "command_name": word,
            "command_params": {key: value for key, value in params.items() if key in ("step", "clean_version")},
            "command_status": "RUNNING",
            "command_error": None,
            "command_result": None,
        }
        self.commands.append(result)
        task = self._machine.own(self._carry_out(result, run, params, background))
        if wait or not background:
            await asyncio.wait([task])
        return result

    def _check(self, token: str | None) -> None:
        if self._token and not (token and hmac.compare_digest(token.encode(), self._token.encode())):
            raise Refused(401, "Token invalid.")

    def listed(self, token: str | None) -> list[Result]:
        """Every command, the oldest first. Raises like `obey`."""
        self._check(token)
        return self.commands

    def _find(self, extension: str, word: str) -> tuple[_Run, bool]:
        if extension in _STEPS and word == f"get_{extension}_steps":
            return lambda _: self._steps(extension), False
        if extension in _STEPS and word == f"execute_{extension}_step":
            return lambda params: self._step(extension, params), True
        if word in self._sync and extension in ("standby", "rescue", "log", "system", "poll"):
            return self._sync[word], False
        if word in self._async and extension in ("standby", "image"):
            return self._async[word], True
        raise Refused(404, f"Extension {extension}.{word} not found")

    async def _carry_out(self, result: Result, run: _Run, params: Mapping[str, Any], background: bool) -> None:
        try:
            found = await run(params)
            result["command_result"] = found if isinstance(found, dict) or found is None else {"result": found}
            result["command_status"] = "SUCCEEDED"
        except (DiskError, KeyError, ValueError) as error:
            kind = type(error).__name__
            result["command_error"] = {"type": kind, "code": 500, "message": str(error), "details": str(error)}
            result["command_status"] = "FAILED"
        if background:
            self._soon.set()

    # -- commands

    async def _nothing(self, _: Mapping[str, Any]) -> Result:
        return {}

    async def _steps(self, extension: str) -> Result:
        return {f"{extension}_steps": {_HARDWARE: _STEPS[extension]}, "hardware_manager_version": {"generic_hardware_manager": "1.2"}}

    async def _step(self, extension: str, params: Mapping[str, Any]) -> Result:
        step = params["step"]
        if step["step"].startswith("erase_devices"):
            self._machine.disk.zero(0, self._machine.disk.size)
        return {f"{extension}_result": None, f"{extension}_step": step}

    async def _prepare_image(self, params: Mapping[str, Any]) -> str:
        info = params["image_info"]
        algorithm, digest = info.get("os_hash_algo"), info.get("os_hash_value")
        if not digest:
            digest = info["checksum"]
            algorithm = _DIGESTS[len(digest)]
        await self._machine.writer().write(info["urls"][0], algorithm=algorithm, digest=digest)
        if not self._machine.disk.bootable:  # a format that is not raw holds its boot sector elsewhere
            self._machine.disk.write(510, b"\x55\xaa")
        return f"prepare_image: image ({info['id']}) written to device /dev/sda root_uuid=None"

    async def _power_off(self, _: Mapping[str, Any]) -> None:
        asyncio.get_running_loop().call_later(self._pace, self._turn, False)

    async def _run_image(self, _: Mapping[str, Any]) -> None:
        asyncio.get_running_loop().call_later(self._pace, self._turn, True)

    def _turn(self, power: bool) -> None:
        if self._machine.agent is self:  # the power may have gone meanwhile
            self._machine.turn(power)

    async def _silent(self, _: Mapping[str, Any]) -> Result:
        asyncio.get_running_loop().call_soon(self._stop_serving)
        return {}

    def _stop_serving(self) -> None:
        self.serving = False

    async def _logs(self, _: Mapping[str, Any]) -> Result:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            text = f"agent of {self._machine.name}: {len(self.commands)} commands\n".encode()
            entry = tarfile.TarInfo("journal")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
        return {"system_logs": base64.b64encode(packed.getvalue()).decode()}

    async def _inventory(self, _: Mapping[str, Any]) -> Result:
        return self._facts()

    def _facts(self) -> Result:
        """The inventory, as the agent's hardware manager gathers it."""
        cards = [
            {"name": f"eth{number}", "mac_address": mac, "has_carrier": True, "ipv4_address": self._machine.address, "product": "0x1000"}
            for number, mac in enumerate(self._machine.macs)
        ]
        disk = {
            "name": "/dev/sda",
            "size": self._machine.disk.size,
            "serial": self._machine.serial,
            "model": "SIMDISK",
            "rotational": False,
        }
        return {
            "interfaces": cards,
            "cpu": {"model_name": "Simulated", "frequency": "2000", "count": 16, "architecture": "x86_64", "flags": []},
            "disks": [disk],
            "memory": {"physical_mb": 65536, "total": 65536 << 20},
            "bmc_address": None,
            "bmc_v6address": None,
            "system_vendor": {"product_name": "sim", "serial_number": self._machine.serial, "manufacturer": "metald"},
            "boot": {"current_boot_mode": "bios", "pxe_interface": self._machine.macs[0]},
            "hostname": self._machine.name,
        }
