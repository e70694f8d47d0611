"""The door for inventories: a ramdisk tells what it found, and the node's inspection goes on.

Rules:

- Nobody is asked for a password, as the ramdisk has none yet. What counts is that exactly one node fits everything that is
  told, and that its inspection waits for an inventory at this moment. Whoever does not fit learns nothing: the error is one.
- The inventory, and that the inspection goes on, are one transaction and durable before the ramdisk is answered.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from metald.config import Inspection as Settings
from metald.drivers.inspect_agent import INVENTORY
from metald.errors import Invalid, NotFound
from metald.model import Event, Node, Port, ProvisionState, Workflow
from metald.model.inventory import Inventory, packed
from metald.statemachine.engine import Engine
from metald.statemachine.inspection import findings, nics
from metald.statemachine.inspection.discovery import Discovery
from metald.store.store import Store

_log = logging.getLogger(__name__)

_NOT_KEPT = "logs"
"""What a ramdisk sends of its own log files: large, and no finding about the machine."""


class Inspections:
    """Takes inventories.

    Args:
        store: the state.
        engine: is told when one has come.
        settings: the section `inspection`.
    """

    def __init__(self, store: Store, engine: Engine, settings: Settings) -> None:
        self._store = store
        self._engine = engine
        self.discovery = Discovery(store, settings)

    def find(self, inventory: dict[str, Any], node_uuid: str | None) -> Node:
        """The node that an inventory is of.

        Args:
            inventory: what the ramdisk found: `interfaces`, and perhaps `bmc_address` and `bmc_v6address`.
            node_uuid: the node's UUID, when the ramdisk was told.

        Raises:
            Invalid: nothing is told by which a node could be found.
            NotFound: no node fits, several do, or the one is not waiting. The text never tells which.
        """
        macs = [found for card in inventory["interfaces"] if (found := nics.mac(card["mac_address"])) is not None]
        bmcs = findings.bmcs_of(inventory)
        if node_uuid is None and not macs and not bmcs:
            raise Invalid("No lookup information provided", remedy="Send MAC addresses, a BMC address or node_uuid.", field="inventory")
        candidates: list[set[str]] = [] if node_uuid is None else [{node_uuid}]
        if owners := {port.node_uuid for one in macs if (port := self._store.table(Port).by("address", one)) is not None}:
            candidates.append(owners)
        if bmcs and (managed := {n.uuid for n in self._waiting() if bmcs & findings.bmc_addresses(n)}):
            # Several nodes may share a BMC; the other proofs say which of them it is.
            candidates.append(managed)
        fitting = set.intersection(*candidates) if candidates else set()
        several_owners = len(owners) > 1
        node = self._store.table(Node).get(fitting.pop()) if len(fitting) == 1 and not several_owners else None
        if node is None or self._expecting(node) is None:
            _log.info("an inventory of MAC addresses %s fits no node under inspection", ", ".join(macs[:20]))
            raise _refused()
        return node

    def _waiting(self) -> list[Node]:
        return [node for node in self._store.table(Node) if node.provision_state is ProvisionState.INSPECT_WAIT]

    def _expecting(self, node: Node) -> Workflow | None:
        """The node's inspection, if it waits for an inventory."""
        workflow = self._store.table(Workflow).get(node.workflow) if node.workflow else None
        waits = node.provision_state is ProvisionState.INSPECT_WAIT and workflow is not None and workflow.wait_for == INVENTORY
        return workflow if waits else None

    async def take(self, node_uuid: str, inventory: dict[str, Any], plugin_data: dict[str, Any]) -> None:
        """Keep what was found, and let the node's inspection go on. Durable when it returns.

        Raises:
            NotFound: the inspection does not wait for it any more.
        """
        kept = {key: value for key, value in plugin_data.items() if key != _NOT_KEPT}
        document = await asyncio.to_thread(packed, inventory, kept)
        async with self._store.owning(node_uuid):
            node = self._store.table(Node).get(node_uuid)
            workflow = self._expecting(node) if node is not None else None
            if node is None or workflow is None:
                raise _refused()
            known = self._store.table(Inventory).where("node_uuid", node_uuid)
            before = await asyncio.to_thread(findings.serials, known[0].document) if known else []
            row = known[0].changed(document=document) if known else Inventory(node_uuid=node_uuid, document=document)
            event = Event(type="node.inventory", node_uuid=node_uuid, data={"interfaces": len(inventory["interfaces"])})
            await self._engine.wake(node, workflow, INVENTORY, {}, [event], memo={INVENTORY: row.uuid, findings.BEFORE: before}, rows=[row])


def _refused() -> NotFound:
    return NotFound("No node that waits for an inspection fits these addresses and this UUID.")
