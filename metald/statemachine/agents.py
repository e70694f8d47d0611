"""What deploy agents inside ramdisks say: who am I (`lookup`), and I am here (`heartbeat`).

Neither asks for a password: the agent's token is the only proof, given out once per boot, compared in constant time and
forgotten whenever metald cuts the machine's power. A heartbeat is a signal to the node's workflow: it is durable before it
is answered and no lock can make it lost.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from typing import Any

from metald.errors import Invalid, NotFound
from metald.model import Event, Node, Port, ProvisionState, now
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
_NO_TOKEN = "Invalid or missing agent token received."  # noqa: S105  # a message


class Agents:
    """Answers deploy agents.

    Args:
        store: the state.
        engine: is told of heartbeats.
    """

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self.inspections = Inspections(store, engine)

    async def lookup(self, *, addresses: Sequence[str], node_uuid: str | None) -> tuple[Node, str]:
        """Find the node that an agent runs on.

        Args:
            addresses: MAC addresses of the machine.
            node_uuid: the node's UUID, when the agent was told; wins over the addresses.

        Returns:
            The node, and the agent's token: in clear the first time of a boot, masked afterwards.

        Raises:
            NotFound: unknown, ambiguous, or not in a state in which an agent runs. The text never tells which.
        """
        refused = NotFound("Lookup failed: no node that expects an agent has these addresses or this UUID.")
        found = self._find(addresses, node_uuid)
        if found is None or found.provision_state not in _LOOKUP:
            raise refused
        async with self._store.owning(found.uuid):
            node = self._store.table(Node).get(found.uuid)
            if node is None:
                raise refused
            if node.driver_internal_info.get("agent_secret_token"):
                return node, MASKED
            token = secrets.token_urlsafe(32)
            changed = node.changed(driver_internal_info={**node.driver_internal_info, "agent_secret_token": token})
            await self._store.commit(Change(save=[changed], events=[Event(type="node.agent_lookup", node_uuid=node.uuid)]))
            return changed, token

    def _find(self, addresses: Sequence[str], node_uuid: str | None) -> Node | None:
        nodes = self._store.table(Node)
        if node_uuid:
            return nodes.get(node_uuid)
        owners = {port.node_uuid for a in addresses if (port := self._store.table(Port).by("address", a)) is not None}
        return nodes.get(owners.pop()) if len(owners) == 1 else None

    async def heartbeat(
        self,
        node_uuid: str,
        *,
        callback_url: str,
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

        def change(current: Node) -> dict[str, Any]:
            info = {**current.driver_internal_info, "agent_last_heartbeat": now().isoformat()}
            told = {
                "agent_url": callback_url,
                "agent_version": agent_version,
                "agent_verify_ca": agent_verify_ca,
                "agent_status": agent_status,
                "agent_status_message": agent_status_message,
            }
            info |= {key: value for key, value in told.items() if value is not None}
            return {"driver_internal_info": info, "provision_updated_at": now()}

        data = {"url": callback_url, "status": agent_status, "message": agent_status_message}
        await self._engine.signal(node_uuid, "heartbeat", change, [Event(type="node.heartbeat", node_uuid=node_uuid, data=data)])

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
