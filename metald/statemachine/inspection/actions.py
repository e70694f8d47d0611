"""What inspection rules do to a machine's records, by Ironic's names. Each changes the `Subject` and nothing else.

Paths are written with slashes or with dots (`/extra/rack`, `extra.rack`). Only fields that a client may change can be
changed. `api-call` is not among them: a daemon that fetches whatever address a rule computes is a way around a firewall.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from metald.drivers.boot_mode import capabilities
from metald.errors import InspectionError
from metald.model import Node, Port
from metald.model.traits import is_trait
from metald.statemachine.inspection.operators import Signature
from metald.statemachine.inspection.subject import NODE_FIELDS, PORT_FIELDS, Json, Subject

MOST_TRAITS = 50
LEVELS = ("debug", "info", "warning", "error", "critical")


def _parts(path: Any) -> list[str]:
    parts = str(path).strip("/").split("/") if "/" in str(path) else str(path).split(".")
    if not all(parts):
        raise InspectionError(f"{str(path)[:80]!r} is not a path.", remedy="Write it like /extra/rack.")
    return parts


def _parent(base: Json, parts: list[str], path: Any) -> Json:
    """The object that holds the last part of a path; what is not there on the way becomes an object."""
    for part in parts[:-1]:
        below = base.get(part)
        if below is None:
            below = base[part] = {}
        if not isinstance(below, dict):
            raise InspectionError(f"{str(path)[:80]}: {part} is not an object.")
        base = below
    return base


def _put(base: Json, path: Any, value: Any) -> None:
    parts = _parts(path)
    _parent(base, parts, path)[parts[-1]] = value


def _extend(base: Json, path: Any, value: Any, unique: Any) -> None:
    parts = _parts(path)
    holder = _parent(base, parts, path)
    found = holder.get(parts[-1])
    if found is None:
        found = []
    if not isinstance(found, list):
        raise InspectionError(f"{str(path)[:80]} is not a list and cannot be extended.")
    if not unique or value not in found:
        holder[parts[-1]] = [*found, value]


def _drop(base: Json, path: Any, kind: type[Node | Port] | None = None) -> bool:
    """Take a value away, if it is there; a whole field gets its default."""
    parts = _parts(path)
    if kind is not None and len(parts) == 1:
        base[parts[0]] = _default(kind, parts[0])
        return True
    for part in parts[:-1]:
        below = base.get(part)
        if not isinstance(below, dict):
            return False
        base = below
    return base.pop(parts[-1], _ABSENT) is not _ABSENT


_ABSENT = object()


def _default(kind: type[Node | Port], name: str) -> Any:
    for field in msgspec.structs.fields(kind):
        if field.name == name:
            if field.default_factory is not msgspec.NODEFAULT:
                return field.default_factory()
            if field.default is not msgspec.NODEFAULT:
                return msgspec.to_builtins(field.default)
    raise InspectionError(f"{name} cannot be deleted.")


def _open(path: Any, fields: frozenset[str], what: str) -> None:
    name = _parts(path)[0]
    if name not in fields:
        raise InspectionError(f"{name[:80]} of a {what} cannot be changed by a rule.", remedy=f"Can be: {', '.join(sorted(fields))}.")


def _node(subject: Subject, path: Any) -> Json:
    _open(path, NODE_FIELDS, "node")
    return subject.node


def _port(subject: Subject, port_id: Any, path: Any) -> Json:
    _open(path, PORT_FIELDS, "port")
    for port in subject.ports:
        if port["uuid"] not in subject.removed and str(port_id).lower() in (port["uuid"], port["address"]):
            return port
    raise InspectionError(f"Port {str(port_id)[:80]} could not be found.", remedy="Name a port of the node by its UUID or MAC address.")


def _fail(_subject: Subject, msg: Any) -> None:
    raise InspectionError(str(msg))


def _log(subject: Subject, msg: Any, level: Any = "info") -> None:
    if str(level).lower() not in LEVELS:
        raise InspectionError(f"Invalid log level: {str(level)[:80]}.", remedy=f"Known are: {', '.join(LEVELS)}.")
    subject.said.append((str(level).lower(), str(msg)))


def _set_attribute(subject: Subject, path: Any, value: Any) -> None:
    _put(_node(subject, path), path, value)


def _extend_attribute(subject: Subject, path: Any, value: Any, unique: Any = False) -> None:
    _extend(_node(subject, path), path, value, unique)


def _del_attribute(subject: Subject, path: Any) -> None:
    if not _drop(_node(subject, path), path, Node):
        raise InspectionError(f"{str(path)[:80]} is not there and cannot be deleted.")


def _set_port_attribute(subject: Subject, port_id: Any, path: Any, value: Any) -> None:
    _put(_port(subject, port_id, path), path, value)


def _extend_port_attribute(subject: Subject, port_id: Any, path: Any, value: Any, unique: Any = False) -> None:
    _extend(_port(subject, port_id, path), path, value, unique)


def _del_port_attribute(subject: Subject, port_id: Any, path: Any) -> None:
    if not _drop(_port(subject, port_id, path), path, Port):
        raise InspectionError(f"{str(path)[:80]} of port {str(port_id)[:80]} is not there and cannot be deleted.")


def _set_plugin_data(subject: Subject, path: Any, value: Any) -> None:
    _put(subject.plugin_data, path, value)


def _extend_plugin_data(subject: Subject, path: Any, value: Any, unique: Any = False) -> None:
    _extend(subject.plugin_data, path, value, unique)


def _unset_plugin_data(subject: Subject, path: Any) -> None:
    _drop(subject.plugin_data, path)


def _capabilities(subject: Subject, change: Callable[[dict[str, str]], Any]) -> None:
    if not isinstance(subject.node["properties"], dict):
        raise InspectionError("The node's properties are not an object.")
    found = capabilities(subject.node["properties"].get("capabilities"))
    change(found)
    subject.node["properties"]["capabilities"] = ",".join(f"{name}:{value}" for name, value in found.items())


def _set_capability(subject: Subject, name: Any, value: Any) -> None:
    _capabilities(subject, lambda found: found.__setitem__(str(name), str(value)))


def _unset_capability(subject: Subject, name: Any) -> None:
    _capabilities(subject, lambda found: found.pop(str(name), None))


def _add_trait(subject: Subject, name: Any) -> None:
    traits = set(subject.node["traits"]) | {name} if is_trait(name) else None
    if traits is None or len(traits) > MOST_TRAITS:
        raise InspectionError(
            f"Trait {str(name)[:80]!r} cannot be added.",
            remedy=f"A node has at most {MOST_TRAITS}: standard ones, or CUSTOM_ and A-Z, 0-9, _.",
        )
    subject.node["traits"] = sorted(traits)


def _remove_trait(subject: Subject, name: Any) -> None:
    subject.node["traits"] = [trait for trait in subject.node["traits"] if trait != name]


ACTIONS: Mapping[str, tuple[Signature, Callable[..., None]]] = MappingProxyType(
    {
        "fail": (Signature(("msg",)), _fail),
        "log": (Signature(("msg",), ("level",)), _log),
        "set-attribute": (Signature(("path", "value")), _set_attribute),
        "extend-attribute": (Signature(("path", "value"), ("unique",)), _extend_attribute),
        "del-attribute": (Signature(("path",)), _del_attribute),
        "set-capability": (Signature(("name", "value")), _set_capability),
        "unset-capability": (Signature(("name",)), _unset_capability),
        "add-trait": (Signature(("name",)), _add_trait),
        "remove-trait": (Signature(("name",)), _remove_trait),
        "set-plugin-data": (Signature(("path", "value")), _set_plugin_data),
        "extend-plugin-data": (Signature(("path", "value"), ("unique",)), _extend_plugin_data),
        "unset-plugin-data": (Signature(("path",)), _unset_plugin_data),
        "set-port-attribute": (Signature(("port_id", "path", "value")), _set_port_attribute),
        "extend-port-attribute": (Signature(("port_id", "path", "value"), ("unique",)), _extend_port_attribute),
        "del-port-attribute": (Signature(("port_id", "path")), _del_port_attribute),
    }
)
"""Each action's arguments and effect."""
