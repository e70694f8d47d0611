"""Discovery: a machine that nobody enrolled hands in an inventory, and becomes a node in the state `enroll`.

Off by default: who can reach the API without a password could otherwise fill it with nodes. Rules:

- Only who knows `inspection.discovery_secret` discovers; it is compared in constant time.
- A machine of which anything is known already (a MAC address, a BMC address) is not discovered a second time.
- Hooks and rules run as for an inspection; node, ports and inventory are one transaction.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

from metald.config import Inspection as Settings
from metald.errors import Conflict, InspectionError
from metald.model import Event, Node, Port, ProvisionState, now
from metald.model.catalogue import InspectionRule
from metald.model.inventory import Inventory, packed
from metald.statemachine.inspection import findings, nics
from metald.statemachine.inspection.subject import Subject
from metald.store.changes import Change
from metald.store.store import Store


class Discovery:
    """See the module.

    Args:
        store: the state.
        settings: the section `inspection`.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def admits(self, secret: str | None) -> bool:
        """Whether who tells this secret may discover machines."""
        wanted = self._settings.discovery_secret
        return bool(self._settings.discovery and wanted and secret) and hmac.compare_digest(wanted.encode(), str(secret).encode())

    def fields(self, inventory: dict[str, Any]) -> dict[str, Any]:
        """What a new node has before hooks and rules see it."""
        found: dict[str, Any] = {"driver": self._settings.discovery_driver, "extra": {"discovered_at": now().isoformat()}}
        bmc = inventory.get("bmc_address") or inventory.get("bmc_v6address")
        if bmc and self._settings.discovery_driver == "ipmi":
            found["driver_info"] = {"ipmi_address": str(bmc).strip("[]")}
        return found

    async def enrol(self, node: Node, inventory: dict[str, Any], plugin_data: dict[str, Any]) -> str:
        """Make a machine a node.

        Args:
            node: prepared with the hardware type's default interfaces.
            inventory: what the ramdisk found.
            plugin_data: what else it told.

        Returns:
            The node's UUID.

        Raises:
            Conflict: a node has one of its addresses.
            InspectionError: a hook or a rule refuses it, or it has no network card.
            Duplicate: somebody else enrolled it in this moment.
        """
        addresses = {nics.mac(card["mac_address"]) for card in inventory["interfaces"]}
        bmcs = findings.bmcs_of(inventory)
        if any(self._store.table(Port).by("address", one) for one in addresses if one) or (
            bmcs and any(bmcs & findings.bmc_addresses(known) for known in self._store.table(Node))
        ):
            raise Conflict("A node has an address of this machine already.", remedy="Inspect that node.")
        options = findings.options_of(self._settings)
        subject = Subject(nics.complete(node), [], inventory, plugin_data)
        applied = await asyncio.to_thread(findings.examine, subject, options, list(self._store.table(InspectionRule)))
        made: Node = findings.converted({**subject.node, "provision_state": ProvisionState.ENROLL.value}, Node, "node")
        ports: list[Port] = [findings.converted(port, Port, "port") for port in subject.ports if port["uuid"] not in subject.removed]
        if not ports:
            raise InspectionError("No network card of the machine becomes a port, by which it could be known again.")
        row = Inventory(node_uuid=made.uuid, document=await asyncio.to_thread(packed, subject.inventory, subject.plugin_data))
        events = [
            Event(type="node.create", node_uuid=made.uuid, data={"name": made.name, "driver": made.driver}),
            *(Event(type="port.create", node_uuid=made.uuid, subject=port.uuid, data={"address": port.address}) for port in ports),
            Event(type="node.inventory", node_uuid=made.uuid, data={"interfaces": len(inventory["interfaces"])}),
            Event(type="node.inspection", node_uuid=made.uuid, data={"rules": applied[:100], "ports": len(ports)}),
        ]
        await self._store.commit(Change(save=[made, *ports, row], events=events))
        return made.uuid
