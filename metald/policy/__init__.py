"""Who may do what: Ironic's rules by name, in one table, and the one decision that everything asks.

    from metald import policy

    policy.require(caller, "baremetal:node:set_provision_state", node)   # NotAllowed (403) in Ironic's words
    policy.allows(caller, "baremetal:node:get", node)                    # the same as a bool: does the caller see the node
    policy.require_visible(caller, node, "Node x could not be found.")   # NotFound (404): what is not seen is not there
    policy.unrestricted(caller)                                          # every rule holds, on everything

The target is what carries `owner` and `lessee`: a node, an allocation, a runbook. What belongs to a node (ports, port
groups, volumes, history, ...) is asked for with its node as the target. Without a target only rules on the caller alone
can hold. Nothing here knows HTTP: whoever takes commands asks here, with a `Caller`.

Rules that this room keeps: a name that the table does not know is refused; a decision is a look-up, never an evaluation
(all answers for one standing are worked out once); roles imply those below them (admin, manager, member, reader).
"""

from __future__ import annotations

from metald.policy.decision import Owned, allows, require, require_visible, unrestricted
from metald.policy.fields import node_rules, runbook_rules
from metald.policy.table import RULES, Rule

__all__ = ["RULES", "Owned", "Rule", "allows", "node_rules", "require", "require_visible", "runbook_rules", "unrestricted"]
