"""Keeps every node of the matrix busy, and judges each thing that was asked for when it has ended.

Rules: what was answered with 202 is accepted, and must come to its goal, or fail for a reason that the matrix gave. What was
not answered, because the daemon died, may have been accepted or not; the node tells. 503 is no answer to much work: it is
allowed only while the disk fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import aiohttp

from lab.matrix.machines import Machine
from lab.matrix.verbs import RECOVERY, Verb
from tests.support.daemon import Refused

_LOOK = 0.4
_FIELDS = "uuid,provision_state,target_provision_state,reservation,last_error,power_state,target_power_state,maintenance,updated_at"
_AT_ONCE = 48
_RESTING = 10
"""Looks that a machine is given to come to rest before something new is asked of it."""
PATIENCE = 240.0
"""Seconds without any change of its node after which something that was accepted is lost; a slow computer is no loss. What
changes and changes and does not end within five times that is lost as well."""


class Judgement(NamedTuple):
    """What is wrong with one thing that was asked for."""

    kind: str
    """`lost`, `twice` or `failed`."""
    text: str


class Fleet:
    """See the module.

    Args:
        url: of the API.
        machines: what is kept busy.
        chance: chooses.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, machines: Sequence[Machine], chance: random.Random) -> None:
        self._url = url
        self._session = session
        self._machines = machines
        self._chance = chance
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._seen: dict[str, dict[str, Any]] = {}
        self._looks = 0
        self._looked = asyncio.Condition()
        self.alive = asyncio.Event()
        """Whether a daemon is there to be asked."""
        self.ending = False
        """Nothing new is begun any more."""
        self.may_refuse = False
        """Whether the disk fails just now, so that 503 is an honest answer."""
        self.in_flight: dict[str, str] = {}
        """What each busy node is at."""
        self.done: Counter[str] = Counter()
        self.struck = 0
        """What failed because the matrix wanted it to."""
        self.refused = 0
        self.judgements: list[Judgement] = []

    # -- talking to the daemon

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request.

        Raises:
            Refused: the answer is an error.
            aiohttp.ClientError, TimeoutError: there was no answer.
        """
        async with self._gate, self._session.request(method, self._url + path, json=body) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise Refused(answer.status, text)
            return await answer.json(content_type=None) if text else None

    async def look(self) -> None:
        """Look at all nodes again and again, as long as it is not cancelled."""
        while True:
            await self.alive.wait()
            try:
                self._seen = await self._all()
            except (Refused, aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.05)
                continue
            async with self._looked:
                self._looks += 1
                self._looked.notify_all()
            await asyncio.sleep(_LOOK)

    async def _all(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        path = f"/v1/nodes?fields={_FIELDS}&limit=1000"
        while path:
            page = await self.ask("GET", path)
            found |= {node["uuid"]: node for node in page["nodes"]}
            following = page.get("next") or ""
            path = following[following.find("/v1/") :] if following else ""
        return found

    async def _later(self) -> None:
        """Return when all nodes have been looked at once more, begun after this call."""
        async with self._looked:
            wanted = self._looks + 2
            await self._looked.wait_for(lambda: self._looks >= wanted)

    async def each(self, machines: Sequence[Machine], target: str, goal: str) -> None:
        """Bring nodes to a state before it all begins."""
        await asyncio.gather(*(self.ask("PUT", f"/v1/nodes/{one.uuid}/states/provision", {"target": target}) for one in machines))
        while not all((node := self._seen.get(one.uuid)) and node["provision_state"] == goal and _is_idle(node) for one in machines):
            await self._later()

    async def until_busy(self, least: int, patience: float) -> None:
        """Wait until workflows of so many nodes are in flight, or patience ends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while sum(not _is_idle(node) for node in self._seen.values()) < least:
                    await self._later()

    def phases(self) -> Counter[str]:
        """How many nodes were in each phase when they were last looked at."""
        return Counter(_phase(node) for node in self._seen.values())

    # -- keeping a node busy

    async def live(self, machine: Machine) -> None:
        """One thing after another, until `ending`."""
        await self._later()
        while not self.ending:
            if not _is_idle(self._seen[machine.uuid]):  # what was judged lost may end all the same
                await self._later()
                continue
            state = self._seen[machine.uuid]["provision_state"]
            known = state in machine.verbs
            verb = self._chance.choice(machine.verbs[state]) if known else RECOVERY[state]
            judged = known and await self._at_rest(machine)
            with contextlib.suppress(Refused):
                if self._seen[machine.uuid]["maintenance"]:
                    await self._mended(machine)
                await self._perform(machine, verb, state, judged=judged)

    async def _at_rest(self, machine: Machine) -> bool:
        """Whether a machine has come to rest, or what it does still would count for what comes next. One that fate struck never may."""
        for _ in range(_RESTING):
            if machine.settled():
                break
            await self._later()
        return machine.settled()

    async def _perform(self, machine: Machine, verb: Verb, state: str, *, judged: bool = True) -> None:
        was_on, before, faults = machine.is_on(), machine.counts(), machine.faults()
        self.in_flight[machine.uuid] = verb.name
        accepted = await self._request(machine, verb, state, before)
        clock = asyncio.get_running_loop().time
        end, last_end, idle, last = 0.0, clock() + 5 * PATIENCE, 0, None
        while True:
            await self._later()
            node = self._seen.get(machine.uuid)
            if node is None:
                return self._judge("lost", machine, verb, "the node is gone")
            if node != last:
                end, last = min(clock() + PATIENCE, last_end), node
            if _is_idle(node):
                idle += 1
                if _reached(node, verb):
                    if machine.settled() or not judged or machine.faults() > faults:
                        break
                elif "failed" in node["provision_state"] or node["provision_state"] == "error" or (verb.is_power and node["last_error"]):
                    return self._failed(machine, verb, node, faults)
                elif idle > 1:
                    if accepted:
                        return self._judge("lost", machine, verb, f"it was accepted, and the node is {_phase(node)}: {node['last_error']}")
                    accepted, idle = await self._request(machine, verb, state, before), 0
            else:
                accepted, idle = True, 0
            if clock() > end:
                return self._judge("lost", machine, verb, f"for {PATIENCE:.0f} s the node is {_phase(node)}, {node['last_error']}")
        self.in_flight.pop(machine.uuid, None)
        self.done[verb.name] += 1
        seen = machine.counts()
        seen.subtract(before)
        wrong = machine.wrong(+seen, verb.expected(was_on)) if judged and machine.faults() == faults else ""
        if wrong:
            self._judge("twice", machine, verb, wrong)
        return None

    async def _request(self, machine: Machine, verb: Verb, state: str, before: Counter[str]) -> bool:
        """Ask until there is an answer, or node or machine show that it was asked.

        Returns:
            Whether it was answered with 202.

        Raises:
            Refused: the daemon does not want to; it is judged already.
        """
        what = "power" if verb.is_power else "provision"
        body = {"target": verb.target, **verb.body}
        while True:
            await self.alive.wait()
            try:
                if verb.goal == "active" and machine.instance_info:
                    patch = [
                        {"op": "add", "path": f"/instance_info/{name}", "value": value} for name, value in machine.instance_info.items()
                    ]
                    await self.ask("PATCH", f"/v1/nodes/{machine.uuid}", patch)
                await self.ask("PUT", f"/v1/nodes/{machine.uuid}/states/{what}", body)
            except Refused as error:
                if error.status != 409 and not (error.status == 503 and self.may_refuse):
                    self._judge("failed", machine, verb, f"refused in state {state}: {error}")
                    raise
                self.refused += 1
            except (aiohttp.ClientError, TimeoutError):
                pass
            else:
                return True
            await asyncio.sleep(self._chance.uniform(0.2, 0.6))
            await self._later()
            node = self._seen.get(machine.uuid)
            if node is None or not _is_idle(node) or node["provision_state"] != state or machine.counts() != before:
                return False

    async def _mended(self, machine: Machine) -> None:
        """Take the node out of maintenance, where some failures put it."""
        await self.alive.wait()
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, Refused):
            await self.ask("DELETE", f"/v1/nodes/{machine.uuid}/maintenance")

    def _failed(self, machine: Machine, verb: Verb, node: dict[str, Any], faults: int) -> None:
        self.in_flight.pop(machine.uuid, None)
        if machine.faults() > faults:
            self.struck += 1
        else:
            self._judge("failed", machine, verb, f"{_phase(node)}: {node['last_error']}")

    def _judge(self, kind: str, machine: Machine, verb: Verb, text: str) -> None:
        self.in_flight.pop(machine.uuid, None)
        self.judgements.append(Judgement(kind, f"{machine.name} ({machine.uuid}) {verb.name}: {text}"))


def _phase(node: dict[str, Any]) -> str:
    if node["target_power_state"]:
        return "changing power"
    return str(node["provision_state"])


def _is_idle(node: dict[str, Any]) -> bool:
    return not (node["reservation"] or node["target_power_state"] or node["provision_state"].endswith(("ing", "wait", "wait call-back")))


def _reached(node: dict[str, Any], verb: Verb) -> bool:
    return bool(node["power_state"] == verb.goal if verb.is_power else node["provision_state"] == verb.goal)
