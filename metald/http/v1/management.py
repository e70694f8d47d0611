"""What is set on a node's hardware at once: boot device and NMI; and its traits and VIFs."""

from __future__ import annotations

from typing import Any

from metald.errors import Invalid, NotFound
from metald.http import values
from metald.http.call import Call, Reply
from metald.http.problem import RoutingError
from metald.http.route import Route
from metald.http.schema import NULLABLE_BOOLEAN, Schema
from metald.http.v1 import lookups
from metald.model import BootDevice
from metald.model.traits import is_trait

BOOT_DEVICE: Schema = {
    "type": "object",
    "properties": {"boot_device": {"type": "string"}, "persistent": NULLABLE_BOOLEAN},
    "required": ["boot_device"],
    "additionalProperties": False,
}
TRAITS: Schema = {
    "type": "object",
    "properties": {"traits": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 255}}},
    "additionalProperties": False,
}
VIF: Schema = {"type": "object", "properties": {"id": {"type": "string", "format": "identifier"}}, "required": ["id"]}


async def get_boot_device(call: Call) -> dict[str, Any]:
    """Ask for the next boot device."""
    device, persistent = await call.services.conductor.get_boot_device(lookups.node(call).uuid)
    return {"boot_device": device, "persistent": persistent}


async def set_boot_device(call: Call) -> None:
    """Choose the next boot device."""
    node = lookups.node(call)
    try:
        device = BootDevice(call.body["boot_device"])
    except ValueError:
        supported = ", ".join(call.services.conductor.supported_boot_devices(node.uuid))
        raise Invalid(
            f"Invalid boot device {values.shown(call.body['boot_device'])} specified.",
            remedy=f"Supported: {supported}.",
            field="boot_device",
        ) from None
    persistent = bool(call.body.get("persistent"))
    await call.services.conductor.set_boot_device(node.uuid, device, persistent=persistent, caller=call.caller)


async def supported_boot_devices(call: Call) -> dict[str, Any]:
    """List the boot devices that may be set."""
    return {"supported_boot_devices": list(call.services.conductor.supported_boot_devices(lookups.node(call).uuid))}


async def inject_nmi(call: Call) -> None:
    """Send a non-maskable interrupt."""
    await call.services.conductor.inject_nmi(lookups.node(call).uuid, call.caller)


async def get_traits(call: Call) -> dict[str, Any]:
    """List a node's traits."""
    return {"traits": list(lookups.node(call).traits)}


def check_trait(name: str) -> str:
    """The name, which must be that of a trait.

    Raises:
        Invalid: it is not.
    """
    if not is_trait(name):
        raise Invalid(
            f"Invalid trait: {values.shown(name)} does not match '^CUSTOM_[A-Z0-9_]+$' and is no name of os-traits",
            remedy="Take a name of os-traits, or CUSTOM_ and capital letters, digits and _, at most 255.",
            field="traits",
        )
    return name


async def replace_traits(call: Call) -> None:
    """Replace all traits of a node."""
    node = lookups.node(call)
    if "traits" not in call.body:
        raise Invalid("The list of traits must be given in the body, or one trait in the path", field="traits")
    wanted = [check_trait(name) for name in call.body["traits"]]
    await call.services.fleet.nodes.set_traits(node.uuid, lambda _traits: wanted, call.caller)


async def add_trait(call: Call) -> Reply:
    """Add a trait to a node."""
    node = lookups.node(call)
    trait = check_trait(call.path["trait"])
    if call.body:
        raise Invalid("No body should be provided when adding a trait", field="body")
    await call.services.fleet.nodes.set_traits(node.uuid, lambda traits: [*traits, trait], call.caller)
    return Reply(location=call.url(f"nodes/{call.path['node']}/traits/{trait}"))


async def delete_traits(call: Call) -> None:
    """Remove all traits of a node."""
    await call.services.fleet.nodes.set_traits(lookups.node(call).uuid, lambda _traits: [], call.caller)


async def delete_trait(call: Call) -> None:
    """Remove a trait of a node."""
    node = lookups.node(call)
    trait = call.path["trait"]

    def without(traits: list[str]) -> list[str]:
        if trait not in traits:
            raise NotFound(f"Node {node.uuid} doesn't have a trait {values.shown(trait)}", field="trait")
        return [name for name in traits if name != trait]

    await call.services.fleet.nodes.set_traits(node.uuid, without, call.caller)


async def get_vifs(call: Call) -> dict[str, Any]:
    """List attached VIFs: with the network interface `noop` there are none."""
    lookups.node(call)
    return {"vifs": []}


async def attach_vif(call: Call) -> None:
    """Attach a VIF: with the network interface `noop` it is accepted and means nothing."""
    lookups.node(call)
    if call.version >= 67 and "port_uuid" in call.body and "portgroup_uuid" in call.body:
        raise Invalid("Cannot specify both port_uuid and portgroup_uuid", field="port_uuid")


async def detach_vif(call: Call) -> None:
    """Detach a VIF."""
    lookups.node(call)
    try:
        values.identifier("vif", call.path["vif"])
    except Invalid as error:
        raise RoutingError(400, error.message, field="vif") from None


_NODE = "/v1/nodes/{node}"
ROUTES = (
    Route("GET", f"{_NODE}/management/boot_device", get_boot_device, "Show the boot device", policy="baremetal:node:get_boot_device"),
    Route(
        "PUT",
        f"{_NODE}/management/boot_device",
        set_boot_device,
        "Set the boot device",
        body=BOOT_DEVICE,
        status=204,
        policy="baremetal:node:set_boot_device",
    ),
    Route(
        "GET",
        f"{_NODE}/management/boot_device/supported",
        supported_boot_devices,
        "List boot devices",
        policy="baremetal:node:get_boot_device",
    ),
    Route(
        "PUT",
        f"{_NODE}/management/inject_nmi",
        inject_nmi,
        "Send an NMI",
        since=29,
        body={"type": "object", "properties": {}, "additionalProperties": False},
        status=204,
        policy="baremetal:node:inject_nmi",
    ),
    Route("GET", f"{_NODE}/traits", get_traits, "List traits", since=37, too_old=406, policy="baremetal:node:traits:list"),
    Route(
        "PUT",
        f"{_NODE}/traits",
        replace_traits,
        "Replace traits",
        since=37,
        too_old=405,
        body=TRAITS,
        status=204,
        policy="baremetal:node:traits:set",
    ),
    Route("DELETE", f"{_NODE}/traits", delete_traits, "Remove all traits", since=37, status=204, policy="baremetal:node:traits:delete"),
    Route(
        "PUT",
        f"{_NODE}/traits/{{trait}}",
        add_trait,
        "Add a trait",
        since=37,
        too_old=405,
        body={},
        status=204,
        policy="baremetal:node:traits:set",
    ),
    Route(
        "DELETE", f"{_NODE}/traits/{{trait}}", delete_trait, "Remove a trait", since=37, status=204, policy="baremetal:node:traits:delete"
    ),
    Route("GET", f"{_NODE}/vifs", get_vifs, "List VIFs", since=28, policy="baremetal:node:vif:list"),
    Route(
        "POST",
        f"{_NODE}/vifs",
        attach_vif,
        "Attach a VIF",
        since=28,
        body=VIF,
        body_name="vif",
        status=204,
        policy="baremetal:node:vif:attach",
    ),
    Route("DELETE", f"{_NODE}/vifs/{{vif}}", detach_vif, "Detach a VIF", since=28, status=204, policy="baremetal:node:vif:detach"),
)
