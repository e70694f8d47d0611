"""Allocations: claims on a node of a resource class.

A claim is durable before it is answered; deciding it costs one look at the nodes in memory and one transaction, which
gives the node its instance and the claim its node together. Claims that a crash left undecided are decided at the next
start. A claim goes away in the transaction that takes the instance off its node, or the node away.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from metald.errors import Conflict, Duplicate, Invalid, NotFound
from metald.model import Event, Node, ProvisionState
from metald.model.caller import SYSTEM, Caller
from metald.model.catalogue import Allocation
from metald.statemachine.fleet.guards import UPDATE_IN_TRANSITION
from metald.statemachine.fleet.things import Things
from metald.store.changes import Change
from metald.store.store import Store

_log = logging.getLogger(__name__)


class Allocations(Things[Allocation]):
    """The allocations of the fleet."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, Allocation, "Allocation", "allocation")

    async def resume(self) -> None:
        """Decide what a crash left undecided, and let go of claims that an older metald kept beyond their instance."""
        await self._sweep()
        for allocation in self._store.table(Allocation).where("state", "allocating"):
            await self.decide(allocation.uuid, SYSTEM)

    async def _sweep(self) -> None:
        """Let go of claims whose node is gone or was torn down."""
        nodes = self._store.table(Node)
        for allocation in self._store.table(Allocation).where("state", "active"):
            node = nodes.get(allocation.node_uuid or "")
            if node is None or node.instance_uuid != allocation.uuid:
                event = Event(type="allocation.delete", node_uuid=allocation.node_uuid, subject=allocation.uuid)
                saves = [node.changed(allocation_uuid=None)] if node is not None and node.allocation_uuid == allocation.uuid else []
                try:
                    await self._store.commit(Change(save=[*saves], delete=[allocation], events=[event]))
                except Conflict:
                    _log.info("allocation %s changed while it was let go of", allocation.uuid)

    async def claim(self, fields: Mapping[str, Any], caller: Caller) -> Allocation:
        """Make a claim and decide it.

        Args:
            fields: fields of the allocation.
            caller: who asks.

        Returns:
            The claim as it was made, before it was decided.

        Raises:
            Duplicate: the name or the UUID is taken.
        """
        allocation = await self.create(fields, caller)
        await self.decide(allocation.uuid, caller)
        return allocation

    async def backfill(self, fields: Mapping[str, Any], node: Node, caller: Caller) -> Allocation:
        """Make a claim for a node that is deployed already.

        Raises:
            Conflict: the node has another instance.
            Invalid: the node does not fit the claim.
        """
        wanted = Allocation(**self.filled(fields))
        wrong = _misfits(node, wanted)
        if wrong:
            raise Invalid(
                f"Failed to process allocation {wanted.uuid}: Cannot backfill an allocation for node {node.uuid}: {'; '.join(wrong)}",
                field="node",
            )
        async with self._store.owning(node.uuid):
            now = self._store.table(Node).get(node.uuid)
            if now is None:
                raise Invalid(f"Node {node.uuid} could not be found.", field="node")
            if now.instance_uuid not in (None, wanted.uuid) or now.allocation_uuid is not None:
                raise Conflict(f"Node {node.uuid} is associated with instance {now.instance_uuid}.", field="node")
            active = wanted.changed(state="active", node_uuid=node.uuid)
            event = Event(type="allocation.create", node_uuid=node.uuid, subject=active.uuid, user=caller.user)
            taken = now.changed(instance_uuid=active.uuid, allocation_uuid=active.uuid)
            saved: Allocation = (await self._store.commit(Change(save=[active, taken], events=[event]))).saved[0]  # type: ignore[assignment]
            return saved

    async def decide(self, uuid: str, caller: Caller) -> None:
        """Give an undecided claim its node, or say why there is none."""
        allocation = self.find(uuid)
        try:
            candidates = self._candidates(allocation)
            for node in candidates:
                if await self._take(allocation, node, caller):
                    return
            raise Invalid("all nodes were filtered out during reservation")
        except Invalid as error:
            text = f"Failed to process allocation {uuid}: {error.message}."
            failed = allocation.changed(state="error", last_error=text)
            event = Event(type="allocation.failed", subject=uuid, severity="ERROR", user=caller.user, data={"error": text})
            await self._store.commit(Change(save=[failed], events=[event]))

    def _candidates(self, allocation: Allocation) -> Sequence[Node]:
        nodes = [node for node in self._store.table(Node) if _free(node, allocation)]
        if not nodes and allocation.candidate_nodes:
            raise Invalid(f"none of the requested nodes are available and match the resource class {allocation.resource_class}")
        if not nodes:
            raise Invalid(f"no available nodes match the resource class {allocation.resource_class}")
        nodes = [node for node in nodes if set(allocation.traits) <= set(node.traits)]
        if not nodes:
            raise Invalid(f"no suitable nodes have the requested traits {', '.join(allocation.traits)}")
        # Shuffled, so that claims spread; the node of the same name first.
        secrets.SystemRandom().shuffle(nodes)
        return sorted(nodes, key=lambda node: node.name is None or node.name != allocation.name)

    async def _take(self, allocation: Allocation, node: Node, caller: Caller) -> bool:
        async with self._store.owning(node.uuid):
            now = self._store.table(Node).get(node.uuid)
            if now is None or not _free(now, allocation) or not set(allocation.traits) <= set(now.traits):
                return False
            info = {**now.instance_info, "traits": allocation.traits} if allocation.traits else now.instance_info
            taken = now.changed(instance_uuid=allocation.uuid, allocation_uuid=allocation.uuid, instance_info=info)
            active = allocation.changed(state="active", node_uuid=node.uuid, last_error=None)
            event = Event(type="allocation.active", node_uuid=node.uuid, subject=allocation.uuid, user=caller.user)
            try:
                await self._store.commit(Change(save=[active, taken], events=[event]))
            except Duplicate:
                return False
            return True

    def admit(self, before: Allocation | None, after: Allocation | None) -> Change:
        """See Things. Deleting a claim frees its node."""
        if before is None or after is not None or before.node_uuid is None:
            return Change()
        node = self._store.table(Node).get(before.node_uuid)
        if node is None or node.allocation_uuid != before.uuid:
            return Change()
        if not node.maintenance:
            moving = node.target_provision_state is not None and node.provision_state not in UPDATE_IN_TRANSITION
            if moving or node.provision_state is ProvisionState.ACTIVE:
                raise Conflict(
                    f"Cannot remove allocation {before.uuid} for node {node.uuid}, because the node is {node.provision_state.value} "
                    "(and maintenance mode is off)"
                )
        info = {name: value for name, value in node.instance_info.items() if name != "traits"}
        return Change(save=[node.changed(instance_uuid=None, allocation_uuid=None, instance_info=info)])

    def of_node(self, node: Node) -> Allocation:
        """The allocation of a node.

        Raises:
            NotFound: it has none.
        """
        if node.allocation_uuid is None or node.instance_uuid != node.allocation_uuid:
            raise NotFound(f"Allocation for node {node.uuid} was not found", field="node")
        return self.find(node.allocation_uuid)


def _free(node: Node, allocation: Allocation) -> bool:
    return (
        node.provision_state is ProvisionState.AVAILABLE
        and node.resource_class == allocation.resource_class
        and node.instance_uuid is None
        and not node.maintenance
        and node.power_state is not None
        and (not allocation.candidate_nodes or node.uuid in allocation.candidate_nodes)
        and (allocation.owner is None or allocation.owner in (node.owner, node.lessee))
    )


def _misfits(node: Node, allocation: Allocation) -> list[str]:
    wrong = []
    if node.provision_state is not ProvisionState.ACTIVE:
        wrong.append(f'Node must be in the "active" state, but the current state is "{node.provision_state.value}"')
    if allocation.resource_class and node.resource_class != allocation.resource_class:
        wrong.append(f"Resource class {node.resource_class} does not match the requested resource class {allocation.resource_class}")
    if not set(allocation.traits) <= set(node.traits):
        wrong.append(f"List of traits {node.traits} does not match the requested traits {allocation.traits}")
    if allocation.candidate_nodes and node.uuid not in allocation.candidate_nodes:
        wrong.append(f"Candidate nodes must be empty or contain the target node, but got {allocation.candidate_nodes}")
    return wrong
