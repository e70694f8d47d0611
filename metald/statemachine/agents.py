"""What deploy agents inside ramdisks say: who am I (`lookup`), and I am here (`heartbeat`).

Neither asks for a password: the agent's token is the only proof. Rules:

- It is given out once per boot, compared in constant time and forgotten whenever metald cuts the machine's power.
- A machine that started anew by itself gets another one, when it asks from where the agent before it called, or from where it
  has fetched its ramdisk again, and that agent answers no more; so does one whose answer a crash of metald may have swallowed.
  Both are told in the node's time-line.
- A heartbeat is a signal to the node's workflow: it is durable before it is answered and no lock can make it lost. One of a
  flood, which says nothing new and which nobody waits for, is answered without being written. While the node is in maintenance
  it is taken note of and wakes nobody: an operator is at the machine.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from metald.config import Settings
from metald.drivers.agent import callback
from metald.errors import Invalid, NotFound
from metald.model import Event, Node, Port, ProvisionState, Workflow, now
from metald.statemachine.engine import Engine
from metald.statemachine.inspection.door import Inspections
from metald.store.changes import Change
from metald.store.store import Store

MASKED = "******"
_LOOKUP = frozenset(
    {
        ProvisionState.DEPLOYING,
        ProvisionState.WAIT_CALL_BACK,
        ProvisionState.CLEANING,
        ProvisionState.CLEAN_WAIT,
        ProvisionState.INSPECTING,
        ProvisionState.INSPECT_WAIT,
        ProvisionState.RESCUING,
        ProvisionState.RESCUE_WAIT,
        ProvisionState.SERVICING,
        ProvisionState.SERVICE_WAIT,
    }
)
_IDLE = frozenset({ProvisionState.ENROLL, ProvisionState.MANAGEABLE, ProvisionState.AVAILABLE})
"""States in which an agent runs that waits for its next work (`agent.fast_track`)."""
_OF_AN_AGENT = (
    "agent_url",
    "agent_called_from",
    "agent_verify_ca",
    "agent_last_heartbeat",
    "agent_version",
    "agent_status",
    "agent_status_message",
)
_LOOK_BACK = 200
"""Events of a node in which another boot of it is looked for."""
_BEATS = 4096
"""Nodes whose last heartbeat is remembered before the old ones are let go."""
_NO_TOKEN = "Invalid or missing agent token received."  # noqa: S105  # a message


_NOTED = "heartbeat in maintenance"
"""A signal that no workflow waits for."""
FLOOD = 1.0
"""Seconds within which a second heartbeat that says nothing new is not written."""

Alive = Callable[[Node], Awaitable[bool]]
"""Whether the agent that last called for a node still answers."""


async def _always(node: Node) -> bool:  # noqa: ARG001
    return True


class Agents:
    """Answers deploy agents.

    Args:
        store: the state.
        engine: is told of heartbeats.
        settings: all of them.
        alive: asks an agent that called before.
    """

    def __init__(self, store: Store, engine: Engine, settings: Settings | None = None, alive: Alive = _always) -> None:
        self._store = store
        self._engine = engine
        self._settings = settings or Settings()
        self._alive = alive
        self._own_ports = frozenset(_ports(self._settings))
        self._given: dict[str, str] = {}
        self._beats: dict[str, float] = {}
        self.inspections = Inspections(store, engine, self._settings.inspection)

    async def lookup(
        self, *, addresses: Sequence[str], node_uuid: str | None, called_from: str = "", wants_token: bool = True
    ) -> tuple[Node, str | None]:
        """Find the node that an agent runs on.

        Args:
            addresses: MAC addresses of the machine.
            node_uuid: the node's UUID, when the agent was told; wins over the addresses, but must not contradict them.
            called_from: the agent's IP address.
            wants_token: whether the agent knows of tokens; none is used up otherwise.

        Returns:
            The node, and the agent's token: in clear the first time of a boot, masked afterwards.

        Raises:
            NotFound: unknown, ambiguous, or not in a state in which an agent runs. The text never tells which.
        """
        refused = NotFound("Lookup failed: no node that expects an agent has these addresses or this UUID.")
        found = self._find(addresses, node_uuid)
        expected = _LOOKUP | _IDLE if self._settings.agent.fast_track else _LOOKUP
        if found is None or found.provision_state not in expected or self._too_early(found):
            raise refused
        if not wants_token:
            return found, None
        again = await self._another_boot(found, called_from) if found.driver_internal_info.get("agent_secret_token") else ""
        async with self._store.owning(found.uuid):
            node = self._store.table(Node).get(found.uuid)
            if node is None:
                raise refused
            info = dict(node.driver_internal_info)
            kept = info.get("agent_secret_token")
            if kept and (not again or kept != found.driver_internal_info.get("agent_secret_token")):
                event = Event(type="node.agent_token", node_uuid=node.uuid, severity="WARNING", data=_refusal(called_from))
                await self._store.commit(Change(events=[event]))
                return node, MASKED
            for key in _OF_AN_AGENT if kept else ():
                info.pop(key, None)
            token = info["agent_secret_token"] = secrets.token_urlsafe(32)
            events = [Event(type="node.agent_lookup", node_uuid=node.uuid)]
            if kept:
                events.append(Event(type="node.agent_token", node_uuid=node.uuid, data={"address": called_from, "reason": again}))
            changed = node.changed(driver_internal_info=info)
            await self._store.commit(Change(save=[changed], events=events))
            self._given[node.uuid] = token
            return changed, token

    def _too_early(self, node: Node) -> bool:
        """Whether the machine is still to be started for its ramdisk: what runs there now is about to be turned off."""
        workflow = self._store.table(Workflow).get(node.workflow) if node.workflow else None
        if workflow is None or workflow.state.ended:
            return False
        return any(step.step in ("wait_ramdisk", "inspect_hardware") for step in workflow.steps[workflow.cursor + 1 :])

    async def _another_boot(self, node: Node, called_from: str) -> str:
        """Why an agent that asks for a node with a token is a new boot of it; empty when it is not known to be."""
        info = node.driver_internal_info
        if info.get("agent_secret_token_pregenerated"):
            return ""  # it stands in a file that only the machine can fetch
        if not info.get("agent_last_heartbeat"):
            lost = self._given.get(node.uuid) != info["agent_secret_token"]
            return "metald was started anew before the token was used" if lost else ""
        here = called_from == info.get("agent_called_from")
        if not called_from or not (here or await self._booted_again(node, called_from)) or await self._alive(node):
            return ""
        return f"the agent that called before from {'the same' if here else 'another'} address answers no more"

    async def _booted_again(self, node: Node, address: str) -> bool:
        """Whether the boot servers gave the node's ramdisk to an address since its agent was given a token."""
        for event in reversed(await self._store.events(node_uuid=node.uuid, limit=_LOOK_BACK, newest=True)):
            if event.type == "node.agent_lookup":
                return False
            if event.type == "node.http" and event.data.get("client") == address and not event.data.get("error"):
                return True
        return False

    def _find(self, addresses: Sequence[str], node_uuid: str | None) -> Node | None:
        nodes = self._store.table(Node)
        owners = {port.node_uuid for a in addresses if (port := self._store.table(Port).by("address", a)) is not None}
        if node_uuid:
            # A machine whose cards are another node's is not this one, whatever it says.
            return nodes.get(node_uuid) if not owners or node_uuid in owners else None
        return nodes.get(owners.pop()) if len(owners) == 1 else None

    async def heartbeat(
        self,
        node_uuid: str,
        *,
        callback_url: str,
        called_from: str = "",
        agent_version: str | None = None,
        agent_token: str | None = None,
        agent_verify_ca: str | None = None,
        agent_status: str | None = None,
        agent_status_message: str | None = None,
    ) -> None:
        """Take note of an agent, and wake the workflow that waits for it. Durable when it returns.

        Raises:
            NotFound: there is no such node.
            Invalid: the token, the URL or the certificate is not that of this boot.
        """
        node = self._store.table(Node).get(node_uuid)
        if node is None:
            raise NotFound(f"Node {node_uuid} could not be found.")
        self._check(node, callback_url, agent_version, agent_token, agent_verify_ca, agent_status)
        self._guard(callback_url, called_from)
        told = {
            "agent_url": callback_url,
            "agent_called_from": called_from or None,
            "agent_version": agent_version,
            "agent_verify_ca": agent_verify_ca,
            "agent_status": agent_status,
            "agent_status_message": agent_status_message,
        }
        told = {key: value for key, value in told.items() if value is not None}
        if self._of_a_flood(node, told):
            return

        def change(current: Node) -> dict[str, Any]:
            if current.driver_internal_info.get("agent_secret_token") != node.driver_internal_info.get("agent_secret_token"):
                return {}  # its machine was turned off in this moment
            info = {**current.driver_internal_info, "agent_last_heartbeat": now().isoformat(), **told}
            return {"driver_internal_info": info, "provision_updated_at": now()}

        data = {"url": callback_url, "status": agent_status, "message": agent_status_message}
        signal = _NOTED if node.maintenance else "heartbeat"
        await self._engine.signal(node_uuid, signal, change, [Event(type="node.heartbeat", node_uuid=node_uuid, data=data)])

    def _guard(self, url: str, called_from: str) -> None:
        """Refuse callback URLs that metald must not or will not call."""
        if not url:
            return  # an installer that reports and takes no commands
        callback.check(url, called_from, self._own_ports)
        if self._settings.agent.require_tls and not url.startswith("https:"):
            raise Invalid(
                f"Agent callback URL {url!r} is not https.",
                remedy="Turn on TLS in the agent, or set agent.require_tls to false.",
                field="callback_url",
            )

    def _of_a_flood(self, node: Node, told: dict[str, Any]) -> bool:
        """Whether a heartbeat comes right behind another one, says the same, and nobody waits for it."""
        moment = time.monotonic()
        last = self._beats.get(node.uuid)
        info = node.driver_internal_info
        workflow = self._store.table(Workflow).get(node.workflow) if node.workflow else None
        waited_for = workflow is not None and workflow.wait_for == "heartbeat"
        same = bool(info.get("agent_last_heartbeat")) and all(info.get(key) == value for key, value in told.items())
        if last is not None and moment - last < FLOOD and same and not waited_for:
            return True
        if len(self._beats) > _BEATS:
            self._beats = {uuid: beat for uuid, beat in self._beats.items() if moment - beat < FLOOD}
        self._beats[node.uuid] = moment
        return False

    def _check(self, node: Node, url: str, version: str | None, token: str | None, certificate: str | None, status: str | None) -> None:
        info = node.driver_internal_info
        kept = info.get("agent_secret_token")
        if not kept or not token or not hmac.compare_digest(str(kept).encode(), token.encode()):
            raise Invalid(_NO_TOKEN, field="agent_token")
        if version is None and status is None:
            raise Invalid("A heartbeat needs agent_version or agent_status.", field="agent_version")
        if status not in (None, "start", "end", "error"):
            raise Invalid(f"Agent status {status!r} is not known.", remedy="Use start, end or error.", field="agent_status")
        if url and not url.startswith(("http://", "https://")):
            raise Invalid(f"Agent callback URL {url!r} is not an HTTP URL.", field="callback_url")
        if info.get("agent_url") and info["agent_url"] != url:
            raise Invalid("Detected change in ramdisk provided 'callback_url'.", field="callback_url")
        if info.get("agent_verify_ca") and certificate and info["agent_verify_ca"] != certificate:
            raise Invalid("Detected change in ramdisk provided 'agent_verify_ca'.", field="agent_verify_ca")


def _ports(settings: Settings) -> list[int]:
    """The ports of this daemon's own servers."""
    texts = [settings.api.listen, *settings.boot.http_listen.split(",")]
    return [int(port) for port in (text.rpartition(":")[2].strip() for text in texts) if port.isdigit()]


def _refusal(called_from: str) -> dict[str, Any]:
    reason = "refused: the agent of this boot has its token; another machine may have the same address, or it started anew by itself"
    return {"address": called_from, "reason": reason}
