"""`/v1/lookup`, `/v1/heartbeat` and `/v1/continue_inspection`: what agents in ramdisks say.

Nobody is asked who they are: the agent's token is the proof, and for an inventory the node that waits for one.
"""

from __future__ import annotations

from typing import Any

from metald.errors import Conflict, Invalid, NotFound
from metald.http import values, versions
from metald.http.call import Call
from metald.http.problem import RoutingError
from metald.http.route import UUID, Arg, Route
from metald.http.schema import NULLABLE_TEXT, Schema
from metald.http.v1 import lookups
from metald.model.masking import masked

_TOKEN_SINCE = 62
_UNASKED = 31
"""The version that agents name when metald was not there as they asked for versions. Told to try again, they ask again."""
_LATER = {"agent_version": 36, "agent_token": 62, "agent_verify_ca": 68, "agent_status": 72, "agent_status_message": 72}
HEARTBEAT: Schema = {
    "type": "object",
    "properties": {
        "callback_url": {"type": "string", "maxLength": 2048},
        **dict.fromkeys(_LATER, NULLABLE_TEXT),
        "node_ident": NULLABLE_TEXT,
    },
    "required": ["callback_url"],
    "additionalProperties": False,
}

_BARE_UNTIL = 1
"""The version that ramdisks of the inspector's days speak; they are answered with the UUID alone."""
_TOLD_SINCE = 84
INVENTORY: Schema = {
    "type": "object",
    "properties": {
        "inventory": {
            "type": "object",
            "properties": {
                "bmc_address": NULLABLE_TEXT,
                "bmc_v6address": NULLABLE_TEXT,
                "interfaces": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "object", "properties": {"mac_address": {"type": "string"}}, "required": ["mac_address"]},
                },
            },
            "required": ["interfaces"],
        },
    },
    "required": ["inventory"],
}


async def lookup(call: Call) -> dict[str, Any]:
    """Find the node that an agent runs on, and how the agent shall behave."""
    if call.version == _UNASKED:
        raise Conflict("An agent of this version cannot be given a token.", remedy="Ask for the API's versions, and then again.")
    addresses = []
    for given in call.args.get("addresses", "").split(","):
        try:
            addresses.append(values.mac("addresses", given.strip()))
        except Invalid:
            continue  # agents send the addresses of every card they see, InfiniBand's included
    uuid = call.args.get("node_uuid")
    if not addresses and uuid is None:
        raise Invalid(
            "Either a valid address or a node_uuid must be given", remedy="addresses takes MAC addresses and commas.", field="addresses"
        )
    return await _known(call, addresses, uuid)


async def _known(call: Call, addresses: list[str], uuid: str | None) -> dict[str, Any]:
    """What an agent is told of its node, and how it shall behave."""
    node, token = await call.services.agents.lookup(
        addresses=addresses, node_uuid=uuid, called_from=call.client, wants_token=call.version >= _TOKEN_SINCE
    )
    view = call.services.views.nodes
    document = view.document(node, call.version, call.base, ("uuid", "properties", "instance_info"))
    document["driver_internal_info"] = masked(node.driver_internal_info)
    settings = call.services.settings.agent
    config = {**_CONFIG, "heartbeat_timeout": settings.heartbeat_timeout, "enable_bios_bootloader_install": settings.bios_bootloader}
    config["agent_token"] = token
    config["agent_token_required"] = True
    formats = call.services.settings.images.formats
    config["permitted_image_formats"] = [*formats, *(("gpt", "iso") if "raw" in formats else ())]
    return {"node": document, "config": config}


_CONFIG: dict[str, Any] = {
    "metrics": {"backend": "noop", "prepend_host": False, "prepend_uuid": False, "prepend_host_reverse": True, "global_prefix": None},
    "metrics_statsd": {"statsd_host": "localhost", "statsd_port": 8125},
    "agent_containers": {"allow_arbitrary_containers": False, "allowed_containers": [], "container_steps_file": "", "runner": "podman"},
    "agent_md5_checksum_enable": False,
    "disable_deep_image_inspection": False,
    "agent_skip_bmc_detect": False,
    "tls_min_version": "1.2",
    "tls_cipher_suites": None,
}


async def heartbeat(call: Call) -> None:
    """Take note of an agent."""
    body = call.body
    for name, since in _LATER.items():
        if body.get(name) is not None and call.version < since:
            raise Invalid(f"Field {name} is not known in version 1.{call.version}", remedy=f"It needs version 1.{since}.", field=name)
    named = call.path.get("node") or body.get("node_ident")
    if not named:
        raise Invalid("Missing mandatory parameter: node_ident", field="node_ident")
    node = lookups.node(call, named)
    await call.services.agents.heartbeat(
        node.uuid,
        callback_url=body["callback_url"],
        called_from=call.client,
        **{name: body[name] for name in _LATER if body.get(name) is not None},
    )


async def continue_inspection(call: Call) -> dict[str, Any]:
    """Take the inventory that an inspection waits for. It is durable when this answers."""
    if _BARE_UNTIL < call.version < _TOLD_SINCE:
        raise RoutingError(404, remedy=f"It needs version 1.{_TOLD_SINCE}, or 1.1.", field=versions.OLD_HEADER)
    inspections = call.services.agents.inspections
    told = dict(call.body)
    inventory = told.pop("inventory")
    try:
        uuid = inspections.find(inventory, call.args.get("node_uuid")).uuid
    except NotFound:
        if call.args.get("node_uuid") or not inspections.discovery.admits(call.args.get("discovery_secret")):
            raise
        node = call.services.fleet.nodes.prepared(inspections.discovery.fields(inventory))
        return {"uuid": await inspections.discovery.enrol(node, inventory, told)}
    answer = {"uuid": uuid} if call.version < _TOLD_SINCE else await _known(call, [], uuid)
    await inspections.take(uuid, inventory, told)
    return answer


ROUTES = (
    Route(
        "POST",
        "/v1/continue_inspection",
        continue_inspection,
        "Hand in the inventory of a machine under inspection",
        args=(Arg("node_uuid", UUID), Arg("discovery_secret")),
        body=INVENTORY,
        body_name="inventory",
        limit="max_inspection_body",
        status=202,
        public=True,
    ),
    Route("GET", "/v1/lookup", lookup, "Find an agent's node", since=22, args=(Arg("addresses"), Arg("node_uuid", UUID)), public=True),
    Route(
        "POST",
        "/v1/heartbeat/{node}",
        heartbeat,
        "An agent's heartbeat",
        since=22,
        body=HEARTBEAT,
        body_name="heartbeat",
        status=202,
        public=True,
    ),
    Route(
        "POST",
        "/v1/heartbeat",
        heartbeat,
        "An agent's heartbeat, with its node in the body",
        since=22,
        body=HEARTBEAT,
        body_name="heartbeat",
        status=202,
        public=True,
    ),
)
