"""Which events a watcher gets: those it asked for, of the nodes that it may see.

Rules: `Sight.sees` is the one place where it is decided whose events a caller may read. What a node is (owner, shard,
state) is judged as it is when the event is told; of a node that was deleted, as it was last. An event of nothing that
belongs to a node is for those who see everything.
"""

from __future__ import annotations

import msgspec

from metald import policy
from metald.model import Event, Node, ProvisionState
from metald.model.caller import Caller

_RULE = "baremetal:node:history:get"


class Facts(msgspec.Struct, frozen=True):
    """What filters and permissions need to know of an event's node."""

    owner: str | None = None
    lessee: str | None = None
    shard: str | None = None
    state: str | None = None

    @classmethod
    def of(cls, node: Node) -> Facts:
        """Of a node that exists."""
        return cls(node.owner, node.lessee, node.shard, node.provision_state.value)

    @classmethod
    def of_deleted(cls, event: Event) -> Facts:
        """Of a node that is gone, from the event that tells of it."""
        data = event.data
        return cls(data.get("owner"), data.get("lessee"), data.get("shard"), None)


class Sight(msgspec.Struct, frozen=True):
    """Whose events a caller may read: all, or those of the nodes of a project whose history it may see."""

    everything: bool
    project: str | None = None
    owned: bool = True
    """Whether of the nodes that the project owns."""
    leased: bool = True
    """Whether of the nodes that the project leases."""

    @classmethod
    def of(cls, caller: Caller) -> Sight:
        """The sight of a caller."""
        if policy.allows(caller, "baremetal:node:list_all"):
            return cls(everything=True)
        mine = caller.project
        return cls(
            everything=False,
            project=mine,
            owned=policy.allows(caller, _RULE, Facts(owner=mine)),
            leased=policy.allows(caller, _RULE, Facts(lessee=mine)),
        )

    def sees(self, facts: Facts | None) -> bool:
        """Whether events of such a node may be read; None where no node is concerned, or it is not known any more."""
        if self.everything:
            return True
        if facts is None or self.project is None:
            return False
        return (self.owned and facts.owner == self.project) or (self.leased and facts.lessee == self.project)


class Filter(msgspec.Struct, frozen=True):
    """What a watcher asked for. An empty set asks for no particular one."""

    sight: Sight
    nodes: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    """Whole types."""
    families: tuple[str, ...] = ()
    """Beginnings of types, from `node.*`."""
    states: frozenset[ProvisionState] = frozenset()
    owners: frozenset[str] = frozenset()
    shards: frozenset[str] = frozenset()

    def takes(self, event: Event, facts: Facts | None) -> bool:
        """Whether the event is wanted and may be seen."""
        if self.nodes and event.node_uuid not in self.nodes:
            return False
        if (self.types or self.families) and not (event.type in self.types or event.type.startswith(self.families or ("\0",))):
            return False
        if not self.sight.sees(facts):
            return False
        if not (self.states or self.owners or self.shards):
            return True
        return facts is not None and self._fits(facts, event)

    def _fits(self, facts: Facts, event: Event) -> bool:
        if self.owners and facts.owner not in self.owners:
            return False
        if self.shards and facts.shard not in self.shards:
            return False
        # a watcher of a state wants to know also who leaves it
        return not self.states or facts.state in self.states or (event.type == "node.provision" and event.data.get("from") in self.states)

    def takes_node(self, node: Node) -> bool:
        """Whether a snapshot shows the node."""
        facts = Facts.of(node)
        return (
            self.sight.sees(facts)
            and (not self.nodes or node.uuid in self.nodes)
            and (not self.states or node.provision_state in self.states)
            and (not self.owners or node.owner in self.owners)
            and (not self.shards or node.shard in self.shards)
        )
