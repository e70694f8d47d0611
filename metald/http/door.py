"""The door of the API: asks the policy, for every route, whether the caller may do with the target what was asked.

The route names the rule; the path, the arguments or the body name the target. A target that the caller does not see is
answered as if it were not there (404), before anything else is said of it. Changes by a patch take the rule of each field.
Handlers ask nothing more, but for what they alone know: which list is shown, and in which form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from metald import policy
from metald.errors import Conflict, Invalid, NotAllowed, NotFound
from metald.http import sight, versions
from metald.http.call import Call
from metald.http.v1 import lookups
from metald.http.v1.allocations import ALLOCATIONS
from metald.http.v1.portgroups import PORTGROUPS
from metald.http.v1.templates import RUNBOOKS
from metald.http.v1.volumes import CONNECTORS, TARGETS
from metald.model import Node, ProvisionState

_OF_NODES: Mapping[str, Callable[[Call], Any]] = {
    "port": lookups.port,
    "portgroup": PORTGROUPS.find,
    "volume_connector": CONNECTORS.find,
    "volume_target": TARGETS.find,
}
_OF_NODES_CREATED = ("baremetal:port:create", "baremetal:portgroup:create", "baremetal:volume:create")


def check(call: Call) -> None:
    """Let the call pass, or refuse it.

    Raises:
        NotAllowed: the caller may not do this.
        NotFound: the target is not there, or the caller does not see it.
    """
    if sight.everything(call):
        return
    for name, find in _OF_NODES.items():
        if name in call.path:
            _of_a_node(call, find(call))
            return
    if "node" in call.path or call.route.path == "/v1/nodes/validate":
        _node(call)
    elif "allocation" in call.path:
        policy.require(call.caller, call.route.policy, ALLOCATIONS.find(call))
    elif "runbook" in call.path:
        _runbook(call)
    else:
        _without_target(call)


def _roots(call: Call) -> list[str]:
    """The fields that a patch touches."""
    return list(dict.fromkeys(operation["path"].split("/")[1] for operation in call.body if "/" in operation["path"]))


def _values(call: Call, *roots: str) -> list[Any]:
    """What a patch puts into some fields."""
    return [operation.get("value") for operation in call.body if operation["path"].lstrip("/") in roots and operation["op"] != "remove"]


def _all(call: Call, names: Iterable[str], target: Any) -> None:
    for name in names:
        policy.require(call.caller, name, target)


def _node(call: Call) -> None:
    given = None if "node" in call.path else call.args.get("node") or call.args.get("node_uuid") or ""
    if given == "":
        return
    node = lookups.node(call, given, names_since=versions.MIN)
    name = call.route.policy
    if name == "baremetal:node:update":
        _update_node(call, node)
    elif name == "baremetal:node:delete":
        _delete_node(call, node)
    elif name.startswith("baremetal:allocation:"):
        policy.require(call.caller, name, call.services.fleet.allocations.of_node(node))
    else:
        policy.require(call.caller, name, node)
    if name == "baremetal:node:set_provision_state":
        steps = [f"{name}:{given}" for given in ("clean_steps", "service_steps") if call.body.get(given)]
        _all(call, steps, node)


def _update_node(call: Call, node: Node) -> None:
    roots = _roots(call)
    off = any(value in (False, "false", "False", "0", 0) for value in _values(call, "automated_clean"))
    _all(call, policy.node_rules(roots, disables_cleaning=off), node)
    active = node.provision_state is ProvisionState.ACTIVE
    if "owner" in roots and active and not policy.allows(call.caller, "baremetal:node:update_owner_provisioned", node):
        raise Conflict(f'Cannot update owner of node "{node.uuid}" while it is in state "active".', field="owner")


def _delete_node(call: Call, node: Node) -> None:
    own = "baremetal:node:delete:self_owned_node"
    if not (call.services.settings.api.project_admin_can_manage_own_nodes and policy.allows(call.caller, own, node)):
        policy.require(call.caller, "baremetal:node:delete", node)


def _of_a_node(call: Call, thing: Any) -> None:
    node = sight.node_of(call, thing)
    policy.require(call.caller, call.route.policy, node)
    if call.method == "PATCH" and node is not None:
        for ident in _values(call, "node_uuid", "node_ident"):
            _check_move(call, node, ident)


def _check_move(call: Call, node: Node, ident: Any) -> None:
    """A thing stays among the nodes of one owner; the refusal does not tell whether there is such a node."""
    try:
        there: Node | None = lookups.node(call, str(ident))
    except NotFound:
        there = None
    if there is None or there.owner != node.owner:
        raise Invalid(f"Unable to apply the requested node_uuid '{str(ident)[:80]}'. Requested value was invalid.", field="node_uuid")


def _runbook(call: Call) -> None:
    book = RUNBOOKS.find(call)
    name = call.route.policy
    if name == "baremetal:runbook:get" and book.public:
        return
    _all(call, policy.runbook_rules(_roots(call)) if call.method == "PATCH" else [name], book)


def _without_target(call: Call) -> None:
    name = call.route.policy
    if name == "baremetal:node:create":
        own = call.services.settings.api.project_admin_can_manage_own_nodes
        if not (own and policy.allows(call.caller, "baremetal:node:create:self_owned_node")):
            policy.require(call.caller, name)
    elif name in _OF_NODES_CREATED:
        policy.require(call.caller, name, _body_node(call))
    elif name.endswith(":list"):
        _list(call, name)
    else:
        policy.require(call.caller, name)


def _body_node(call: Call) -> Node | None:
    """The node that a new thing shall belong to, also one that the caller does not see: 403 tells nothing of it."""
    ident = call.body.get("node_uuid") or call.body.get("node_ident")
    if not isinstance(ident, str):
        return None
    try:
        return call.services.fleet.nodes.find(lookups.ident(ident, "node"))
    except NotFound:
        return None


def _list(call: Call, name: str) -> None:
    """Whoever may not list all is shown what the project has, and cannot ask for another's."""
    if policy.allows(call.caller, f"{name}_all"):
        return
    policy.require(call.caller, name)
    mine = call.caller.project
    wanted = [call.args.get("project")]
    if name == "baremetal:allocation:list":
        wanted.append(call.args.get("owner"))
    if mine is None or any(project not in (None, mine) for project in wanted):
        raise NotAllowed(f"Access was denied to the following resource: {name}_all", remedy="Ask for what your own project has.")
