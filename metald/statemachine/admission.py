"""Admission: whether a verb may be asked of a node as it is now. Pure: a node in, the reasons against it out.

The conductor refuses with the first reason; explanations and plans show them all.
"""

from __future__ import annotations

from collections.abc import Iterator

from metald.errors import Busy, InMaintenance, MetaldError, Protected, Retired, WrongState
from metald.model import Node, Verb
from metald.statemachine.table import Table

NEEDS_SERVICE = frozenset({Verb.DEPLOY, Verb.REBUILD, Verb.CLEAN, Verb.RESCUE, Verb.UNRESCUE, Verb.SERVICE})
"""Verbs that a node in maintenance does not take."""
ENDS_INSTANCE = frozenset({Verb.DELETE, Verb.REBUILD})
"""Verbs that a protected node does not take."""


def blockers(table: Table, node: Node, verb: Verb, hostname: str) -> Iterator[MetaldError]:
    """Every reason why the node does not take the verb now, in the order in which they are told.

    Args:
        table: what leads where.
        node: as it is.
        verb: what is asked.
        hostname: the conductor that holds busy nodes.
    """
    if verb not in table.verbs(node.provision_state):
        yield busy(node, hostname) if node.reservation is not None else wrong_state(table, node, verb)
    elif node.reservation is not None or node.target_power_state is not None:
        yield busy(node, hostname)
    if verb in NEEDS_SERVICE and node.maintenance:
        yield in_maintenance(node)
    if verb in ENDS_INSTANCE and node.protected:
        yield Protected(f"Node {node.uuid} is protected and can not be undeployed, rebuilt or deleted.", remedy="Unset protected first.")
    if verb is Verb.PROVIDE and node.retired:
        yield Retired(f"Node {node.uuid} can not be made available because it is retired.", remedy="Unset retired first.")


def busy(node: Node, hostname: str) -> Busy:
    """The refusal of whoever meets a workflow, in Ironic's words."""
    return Busy(f"Node {node.uuid} is locked by host {hostname}, please retry after the current operation is completed.")


def in_maintenance(node: Node) -> InMaintenance:
    """The refusal of whoever wants work of a node that is out of service, in Ironic's words."""
    return InMaintenance(f"The provisioning operation can't be performed on node {node.uuid} because it's in maintenance mode.")


def wrong_state(table: Table, node: Node, verb: Verb) -> WrongState:
    """The refusal of a verb that does not lead on, in Ironic's words."""
    return WrongState(
        f'The requested action "{verb.value}" can not be performed on node "{node.uuid}" while it is in state '
        f'"{node.provision_state.value}".',
        remedy=f"From there lead: {', '.join(sorted(table.verbs(node.provision_state))) or 'nothing until it ends'}.",
        field="target",
    )
