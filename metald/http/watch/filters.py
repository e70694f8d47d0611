"""Which events a watcher gets: those it asked for, of the nodes that it may see.

Rules: `Sight.sees` is the one place where it is decided whose events a caller may read: by the node as it is now; of a node
that was deleted, by what is noted of it with the event. An event of nothing that belongs to a node is for those who see everything.
What a watcher asked for (owner, shard, state) is judged by what is noted with the event alone, so that it gets the same events whether
they are told at once or read later: a node's way into what it asked for, what happens there, and the way out.
"""

from __future__ import annotations

import msgspec

from metald import policy
from metald.model import Event, Node, ProvisionState
from metald.model.caller import Caller
from metald.model.event import Standing

_RULE = "baremetal:node:history:get"


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
            owned=policy.allows(caller, _RULE, Standing(owner=mine)),
            leased=policy.allows(caller, _RULE, Standing(lessee=mine)),
        )

    def sees(self, node: Standing | None) -> bool:
        """Whether events of such a node may be read; None where no node is concerned, or it is not known any more."""
        if self.everything:
            return True
        if node is None or self.project is None:
            return False
        return (self.owned and node.owner == self.project) or (self.leased and node.lessee == self.project)


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

    @property
    def takes_all(self) -> bool:
        """Whether every event is wanted and may be seen."""
        return self.sight.everything and not (self.nodes or self.types or self.families or self.states or self.owners or self.shards)

    def takes(self, event: Event, node: Standing | None) -> bool:
        """Whether the event is wanted and may be seen.

        Args:
            event: what happened.
            node: how its node stands now, see `Hub.standing`. An event that was stored before such things were noted is judged by it.
        """
        if self.nodes and event.node_uuid not in self.nodes:
            return False
        if (self.types or self.families) and not (event.type in self.types or event.type.startswith(self.families or ("\0",))):
            return False
        if not self.sight.sees(node):
            return False
        if not (self.states or self.owners or self.shards):
            return True
        after, before = event.after, event.before
        if after is None and before is None:
            after = node
        return (after is not None and self._fits(after, event)) or (before is not None and self._fits(before, event))

    def _fits(self, standing: Standing, event: Event) -> bool:
        if self.owners and standing.owner not in self.owners:
            return False
        if self.shards and standing.shard not in self.shards:
            return False
        if not self.states or standing.state in self.states:
            return True
        # one change may lead through several states
        return event.type == "node.provision" and (event.data.get("from") in self.states or event.data.get("to") in self.states)

    def takes_node(self, node: Node) -> bool:
        """Whether a snapshot shows the node."""
        return (
            self.sight.sees(Standing.of(node))
            and (not self.nodes or node.uuid in self.nodes)
            and (not self.states or node.provision_state in self.states)
            and (not self.owners or node.owner in self.owners)
            and (not self.shards or node.shard in self.shards)
        )
