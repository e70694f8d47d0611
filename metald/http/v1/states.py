"""`/v1/nodes/{node}/states` and maintenance: what a node is in, and what is asked of it.

The order of checks is Ironic's, which its clients rely on: the node, the version, the state machine, then the arguments.
"""

from __future__ import annotations

import asyncio
import string
from typing import Any

import orjson

from metald.errors import Invalid, NotAcceptable, WrongState
from metald.http import conditional, sight, values
from metald.http.call import Call, Reply
from metald.http.route import BOOLEAN, Arg, Route
from metald.http.schema import NULLABLE_TEXT, Schema, conform
from metald.http.v1 import lookups, templates
from metald.http.v1.node_schema import CONFIGDRIVE, DEPLOY_STEPS, PROVISION, STEPS
from metald.model import Node, PowerTarget, ProvisionState, Verb
from metald.statemachine.admission import busy, in_maintenance

_TARGETS: dict[str, tuple[Verb, int]] = {
    "manage": (Verb.MANAGE, 4),
    "provide": (Verb.PROVIDE, 4),
    "inspect": (Verb.INSPECT, 6),
    "abort": (Verb.ABORT, 13),
    "clean": (Verb.CLEAN, 15),
    "adopt": (Verb.ADOPT, 17),
    "rescue": (Verb.RESCUE, 38),
    "unrescue": (Verb.UNRESCUE, 38),
    "active": (Verb.DEPLOY, 1),
    "deploy": (Verb.DEPLOY, 73),
    "rebuild": (Verb.REBUILD, 1),
    "deleted": (Verb.DELETE, 1),
    "undeploy": (Verb.DELETE, 73),
    "unhold": (Verb.UNHOLD, 85),
    "service": (Verb.SERVICE, 87),
}
_STATE_FIELDS = (
    "power_state",
    "target_power_state",
    "provision_state",
    "target_provision_state",
    "provision_updated_at",
    "last_error",
    "console_enabled",
    "raid_config",
    "target_raid_config",
    "boot_mode",
    "secure_boot",
)
_BASE64 = frozenset(string.ascii_letters + string.digits + "+/=\n\r\t ")

POWER: Schema = {
    "type": "object",
    "properties": {"target": {"type": "string"}, "timeout": {"type": ["integer", "string", "null"]}},
    "required": ["target"],
    "additionalProperties": False,
}
MAINTENANCE: Schema = {"type": "object", "properties": {"reason": NULLABLE_TEXT}, "additionalProperties": False}


def _states(call: Call, node: Node) -> bytes:
    view = call.services.views.nodes
    names = tuple(name for name in _STATE_FIELDS if view.fields[name].since <= call.version)
    found = sight.node_view(call, node).document(node, call.version, call.base, names)
    del found["links"]
    return orjson.dumps(found)


async def show(call: Call) -> Reply:
    """Show the states of a node, at once or (`Prefer: wait=30`) when they differ from what the client has."""
    node = lookups.node(call)
    body = _states(call, node)
    tag = _tag(body)
    wait = conditional.preferred_wait(call)
    polls = call.services.polls
    if wait is None or not polls.open:
        return _shown(body, unchanged=conditional.unchanged(call, tag))
    wait = min(wait, int(call.services.settings.api.max_wait))
    conditionally = "If-None-Match" in call.headers
    end = asyncio.get_running_loop().time() + wait
    while conditional.unchanged(call, _tag(body)) if conditionally else _tag(body) == tag:
        left = end - asyncio.get_running_loop().time()
        if left <= 0 or not await polls.changed(node.uuid, left, call.gone):
            return _shown(body, unchanged=conditionally, applied=wait)
        body = _states(call, lookups.node(call, node.uuid))
    return _shown(body, unchanged=False, applied=wait)


def _tag(body: bytes) -> str:
    return f'"{conditional.stamp_of_bytes(body)}"'


def _shown(body: bytes, *, unchanged: bool, applied: int | None = None) -> Reply:
    headers = {"ETag": _tag(body)} | ({"Preference-Applied": f"wait={applied}"} if applied is not None else {})
    return Reply(b"" if unchanged else body, status=304 if unchanged else None, headers=headers)


def _accepted(call: Call, path: str = "states") -> Reply:
    return Reply(location=call.url(f"nodes/{call.path['node']}/{path}"))


async def set_power(call: Call) -> Reply:
    """Ask for a power state."""
    node = lookups.node(call)
    target, timeout = call.body["target"], call.body.get("timeout")
    if timeout is not None:
        timeout = values.integer("timeout", timeout)
    if timeout or target in (PowerTarget.SOFT_OFF, PowerTarget.SOFT_REBOOT):
        call.require(27)
    if timeout is not None and timeout < 1:
        raise Invalid("timeout has to be positive integer", field="timeout")
    if target not in set(PowerTarget):
        raise WrongState(
            f'The requested action "{target[:80]}" can not be performed on node "{node.label}" while it is in state '
            f'"{node.power_state.value if node.power_state else None}".',
            remedy=f"Targets are: {', '.join(PowerTarget)}.",
            field="target",
        )
    await call.services.conductor.set_power(node.uuid, PowerTarget(target), call.caller, timeout=timeout)
    return _accepted(call)


async def provision(call: Call) -> Reply:
    """Ask for a provision state."""
    body = call.body
    target = body["target"]
    node = lookups.node(call)
    verb, since = _TARGETS.get(target, (None, 1))
    if since > call.version and verb not in (Verb.UNHOLD, Verb.SERVICE):
        raise NotAcceptable("Request not acceptable.", remedy=f"Target {target} needs version 1.{since}.", field="target")
    planned = call.args.get("plan", False) and verb is not None
    if not planned:
        if verb in (Verb.DEPLOY, Verb.REBUILD) and node.maintenance:
            raise in_maintenance(node)
        node = await _possible(call, node, verb, target)
    arguments = _arguments(call, node, target, verb)
    _check_versions(call, node, verb, since)
    assert verb is not None
    if planned:
        return Reply.of(await call.services.adviser.plan(node.uuid, verb, arguments), status=200)
    await call.services.conductor.provision(node.uuid, verb, call.caller, **arguments)
    return _accepted(call)


async def _possible(call: Call, node: Node, verb: Verb | None, target: str) -> Node:
    """The node in a state from which the verb leads on; what drives it meanwhile gets a moment to end."""
    conductor = call.services.conductor
    if verb not in conductor.table.verbs(node.provision_state) and node.reservation is not None:
        node = await conductor.settled(node.uuid)
    possible = conductor.table.verbs(node.provision_state)
    if verb in possible:
        return node
    if node.reservation is not None:
        raise busy(node, node.reservation)
    raise WrongState(
        f'The requested action "{target[:80]}" can not be performed on node "{node.uuid}" while it is in state '
        f'"{node.provision_state.value}".',
        remedy=f"From there lead: {', '.join(sorted(possible)) or 'nothing until it ends'}.",
        field="target",
    )


def _arguments(call: Call, node: Node, target: str, verb: Verb | None) -> dict[str, Any]:
    body = call.body
    found: dict[str, Any] = {}
    if body.get("configdrive"):
        found["configdrive"] = _configdrive(call, target, verb, body["configdrive"])
    if body.get("runbook"):
        body = _with_runbook(call, node, verb)
    if body.get("disable_ramdisk") is not None:
        if verb not in (Verb.CLEAN, Verb.SERVICE):
            raise Invalid("disable_ramdisk is supported only with manual cleaning or servicing", field="disable_ramdisk")
        call.require(70 if verb is Verb.CLEAN else 108)
        found["disable_ramdisk"] = body["disable_ramdisk"]
    for name, wanted in (("clean_steps", Verb.CLEAN), ("service_steps", Verb.SERVICE)):
        if body.get(name):
            if verb is not wanted:
                raise Invalid(f'"{name}" is only valid when setting target provision state to {wanted.value}', field=name)
            found[name] = conform(body[name], STEPS, name, name)
        elif verb is wanted:
            raise Invalid(f'"{name}" is required when setting target provision state to {wanted.value}', field=name)
    if body.get("deploy_steps"):
        call.require(69)
        if verb not in (Verb.DEPLOY, Verb.REBUILD):
            raise Invalid('"deploy_steps" is only valid when setting target provision state to active or rebuild', field="deploy_steps")
        found["deploy_steps"] = conform(body["deploy_steps"], DEPLOY_STEPS, "deploy_steps", "deploy_steps")
    return found | _rescue(body, verb)


def _with_runbook(call: Call, node: Node, verb: Verb | None) -> dict[str, Any]:
    """The body with the steps of the runbook that it names."""
    call.require(92)
    name = {Verb.CLEAN: "clean_steps", Verb.SERVICE: "service_steps"}.get(verb) if verb is not None else None
    if name is None:
        raise Invalid('"runbooks" is only valid when setting target provision state to any of clean, service', field="runbook")
    if call.body.get(name):
        raise Invalid(f'Please provide either "{name}" or a runbook, but not both.', field="runbook")
    steps, disable_ramdisk = templates.steps_of(call, call.body["runbook"], node.traits)
    return {**call.body, name: steps, "disable_ramdisk": disable_ramdisk or None}


def _rescue(body: dict[str, Any], verb: Verb | None) -> dict[str, Any]:
    password = body.get("rescue_password")
    if password is not None and verb is not Verb.RESCUE:
        raise Invalid('"rescue_password" is only valid when setting target provision state to rescue', field="rescue_password")
    if verb is not Verb.RESCUE:
        return {}
    if not password or not password.strip():
        raise Invalid('A non-empty "rescue_password" is required when setting target provision state to rescue', field="rescue_password")
    return {"rescue_password": password}


def _check_versions(call: Call, node: Node, verb: Verb | None, since: int) -> None:
    call.require(since)
    if verb is Verb.ABORT and node.provision_state is ProvisionState.INSPECT_WAIT:
        call.require(41)
    if verb is Verb.ABORT and node.provision_state is ProvisionState.WAIT_CALL_BACK:
        call.require(110)


def _configdrive(call: Call, target: str, verb: Verb | None, given: Any) -> Any:
    field = "configdrive"
    if verb is not Verb.DEPLOY and not (verb is Verb.REBUILD and call.version >= 35):
        allowed = "active, rebuild" if call.version >= 35 else "active"
        raise Invalid(f"Adding a config drive is only supported when setting provision state to {allowed}, not {target[:80]}", field=field)
    given = conform(given, CONFIGDRIVE, field, field)
    if isinstance(given, dict):
        for needed, since, what in (
            (True, 56, "a JSON object for configdrive"),
            ("vendor_data" in given, 59, "vendor_data in configdrive"),
        ):
            if needed and call.version < since:
                raise Invalid(f"Providing {what} is only supported starting with API version 1.{since}", field=field)
    elif "://" not in given and not _BASE64.issuperset(given):
        raise Invalid("Invalid configdrive format: it is neither a JSON, nor a URL, nor a base64 string", field=field)
    return given


async def set_maintenance(call: Call) -> Reply:
    """Take a node out of service."""
    await call.services.fleet.nodes.set_maintenance(lookups.node(call).uuid, True, call.body.get("reason"), call.caller)
    return Reply()


async def clear_maintenance(call: Call) -> Reply:
    """Bring a node back into service."""
    await call.services.fleet.nodes.set_maintenance(lookups.node(call).uuid, False, None, call.caller)
    return Reply()


ROUTES = (
    Route(
        "GET",
        "/v1/nodes/{node}/states",
        show,
        "Show a node's states",
        also=(304,),
        policy="baremetal:node:get_states",
        honours=("If-None-Match", "Prefer"),
    ),
    Route(
        "PUT", "/v1/nodes/{node}/states/power", set_power, "Change power", body=POWER, status=202, policy="baremetal:node:set_power_state"
    ),
    Route(
        "PUT",
        "/v1/nodes/{node}/states/provision",
        provision,
        "Change the provision state",
        args=(Arg("plan", BOOLEAN),),
        body=PROVISION,
        status=202,
        also=(200,),
        limit="max_provision_body",
        policy="baremetal:node:set_provision_state",
    ),
    Route(
        "PUT",
        "/v1/nodes/{node}/maintenance",
        set_maintenance,
        "Set maintenance",
        body=MAINTENANCE,
        status=202,
        policy="baremetal:node:set_maintenance",
    ),
    Route(
        "DELETE",
        "/v1/nodes/{node}/maintenance",
        clear_maintenance,
        "Clear maintenance",
        status=202,
        policy="baremetal:node:clear_maintenance",
    ),
)
