"""Finding what a path names: by UUID in any form, or by name where the version knows names."""

from __future__ import annotations

from typing import TypeVar

from metald.errors import Invalid, NotFound
from metald.http import sight, values
from metald.http.call import Call
from metald.http.problem import RoutingError
from metald.model import Node, Port, Resource

R = TypeVar("R", bound=Resource)

NAMES_SINCE = 5
PORT_NAMES_SINCE = 88


def ident(text: str, noun: str) -> str:
    """A canonical UUID or a well-formed name from a path.

    Raises:
        RoutingError: it is neither (400).
    """
    uuid = values.as_uuid(text)
    if uuid is not None:
        return uuid
    if not values.is_name(text):
        raise RoutingError(400, f"Expected UUID or name for {noun}: {values.bare(text)}", field=noun)
    return text


def _seen(call: Call, thing: R, missing: str, field: str) -> R:
    if not sight.sees(call, thing):
        raise NotFound(missing, field=field)
    return thing


def node(call: Call, given: str | None = None, *, names_since: int = NAMES_SINCE) -> Node:
    """The node that the path names.

    Args:
        given: the text, where it is not the path's.
        names_since: the version that brought names here.

    Raises:
        NotFound: there is none, or names are newer than the version.
        RoutingError: it is neither a UUID nor a name.
    """
    text = call.path["node"] if given is None else given
    found = call.services.store.table(Node).get(text)
    if found is not None and sight.sees(call, found):
        return found
    name = ident(text, "node")
    if call.version < names_since and values.as_uuid(name) is None:
        raise NotFound(f"Node {name} could not be found.", remedy=f"Names need version 1.{names_since}.", field="node")
    return _seen(call, call.services.fleet.nodes.find(name), f"Node {name} could not be found.", "node")


def node_of_argument(call: Call, name: str, given: str) -> Node:
    """The node that an argument of the query names.

    Args:
        name: the argument's; where it asks for a UUID, a name that no node has is refused as being none.

    Raises:
        Invalid: it is no UUID and no node's name.
        NotAcceptable: names are newer than the version.
        NotFound: there is none.
    """
    named = values.as_uuid(given) is None
    if named and name != "node_uuid":
        call.require(NAMES_SINCE)
    try:
        return node(call, given)
    except NotFound as error:
        if named and name == "node_uuid":
            raise Invalid(f"Expected UUID for node_uuid: {given}", remedy=error.message, field=name) from None
        raise


def uuid_of_node(call: Call, given: str) -> str:
    """The UUID of the node that a body names, by UUID or name.

    Raises:
        Invalid: there is none.
    """
    try:
        return node(call, given).uuid
    except NotFound as error:
        raise Invalid(error.message, remedy=error.remedy, field="node_uuid") from None


def uuid_of_portgroup(call: Call, given: str) -> str:
    """The UUID of the port group that a body names, by UUID or name.

    Raises:
        Invalid: there is none.
    """
    missing = f"Portgroup {given} could not be found."
    try:
        return _seen(call, call.services.fleet.catalogue.portgroups.find(given), missing, "portgroup_uuid").uuid
    except NotFound:
        raise Invalid(missing, field="portgroup_uuid") from None


def port(call: Call) -> Port:
    """The port that the path names.

    Raises:
        NotFound: there is none, or names are newer than the version.
        RoutingError: it is neither a UUID nor a name.
    """
    name = ident(call.path["port"], "port")
    if call.version < PORT_NAMES_SINCE and values.as_uuid(name) is None:
        raise NotFound(f"Port {name} could not be found.", remedy=f"Names need version 1.{PORT_NAMES_SINCE}.", field="port")
    return _seen(call, call.services.fleet.ports.find(name), f"Port {name} could not be found.", "port")


def driver(call: Call) -> str:
    """The name of the hardware type that the path names.

    Raises:
        NotFound: there is none that is enabled.
    """
    name = call.path["driver"]
    known = [hardware_type.name for hardware_type in call.services.registry.hardware_types()]
    if name not in known:
        raise NotFound(f"The driver {values.shown(name)} is unknown.", remedy=f"Enabled: {', '.join(known)}.", field="driver")
    return name
