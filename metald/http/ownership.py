"""Whom new things belong to: outside system scope what a caller makes belongs to the caller's project."""

from __future__ import annotations

from typing import Any

from metald import policy
from metald.errors import Invalid, NotAllowed
from metald.http.call import Call
from metald.model import Node


def of_node(call: Call, fields: dict[str, Any]) -> None:
    """Settle the owner of a node to be made.

    Raises:
        Invalid: another project is named, or is its parent's.
    """
    if call.caller.system:
        return
    _own(call, fields, "Cannot create a node as a project scoped admin with an owner other than your own project.")
    parent = call.services.store.table(Node).get(fields["parent_node"]) if fields.get("parent_node") else None
    if parent is not None and parent.owner != call.caller.project:
        raise Invalid(f"Node {parent.uuid} could not be found.", field="parent_node")


def of_runbook(call: Call, fields: dict[str, Any]) -> None:
    """Settle the owner of a runbook to be made.

    Raises:
        Invalid: another project is named, or it would be public.
    """
    if call.caller.system:
        return
    _own(call, fields, "Cannot create a runbook as a project scoped admin with an owner other than your own project.")
    if fields.get("public"):
        raise Invalid("Cannot create a public runbook as a project scoped admin.", field="public")


def of_allocation(call: Call, fields: dict[str, Any]) -> None:
    """Settle the owner of an allocation to be made.

    Raises:
        NotAllowed: another project is named.
    """
    caller = call.caller
    if caller.system:
        return
    wanted = fields.get("owner")
    if wanted is None:
        fields["owner"] = caller.project
    elif wanted != caller.project and not policy.allows(caller, "baremetal:allocation:create_restricted"):
        raise NotAllowed(
            f"Cannot create allocation with an owner Project ID value {wanted} not matching the requester Project ID {caller.project}.",
            remedy="It takes baremetal:allocation:create_restricted.",
            field="owner",
        )


def _own(call: Call, fields: dict[str, Any], refusal: str) -> None:
    if fields.get("owner") not in (None, call.caller.project):
        raise Invalid(refusal, remedy="Leave the owner out.", field="owner")
    fields["owner"] = call.caller.project
