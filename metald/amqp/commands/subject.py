"""What a command is about: which node, and by which names commands about the same one are known, so that they keep their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metald.amqp.commands.door import about
from metald.model import Node, Port
from metald.store.store import Store


def names(store: Store, verb: str, arguments: Mapping[str, Any]) -> list[str]:
    """All names of the node that a command is about, or what names a node that is not there; empty where nothing does."""
    node = node_of(store, verb, arguments)
    if node is not None:
        return [node.uuid, *([node.name] if node.name else [])]
    return about(verb, arguments)


def node_of(store: Store, verb: str, arguments: Mapping[str, Any]) -> Node | None:
    """The node that a command is about, if there is one."""
    nodes, ports = store.table(Node), store.table(Port)
    for ident in about(verb, arguments):
        if verb in ("port.update", "port.delete"):
            port = ports.get(ident) or ports.by("name", ident)
            return None if port is None else nodes.get(port.node_uuid)
        node = nodes.get(ident) or nodes.by("name", ident)
        if node is not None:
            return node
    return None
