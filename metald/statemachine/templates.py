"""What deploy templates add to a deployment: the steps of each template whose name is a trait that the instance asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metald.errors import Invalid
from metald.model import Node
from metald.model.catalogue import DeployTemplate
from metald.store.store import Store


def with_templates(store: Store, node: Node, asked: Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    """The steps of the matching templates, and those that the request brought.

    Args:
        store: where the templates are.
        node: whose instance asks for traits (`instance_info.traits`).
        asked: the steps of the request.

    Raises:
        Invalid: a step comes from two templates, or from a template and the request.
    """
    wanted = node.instance_info.get("traits")
    traits = wanted if isinstance(wanted, list) else []
    found: dict[tuple[str, str], tuple[str, Mapping[str, Any]]] = {}
    sources: list[tuple[str, Sequence[Mapping[str, Any]]]] = [
        (f"template {t.name}", t.steps) for t in store.table(DeployTemplate) if t.name in traits
    ]
    for source, steps in [*sources, ("the request", list(asked or ()))]:
        for step in steps:
            key = (str(step["interface"]), str(step["step"]))
            if key in found and found[key][0] != source:
                raise Invalid(
                    f"Deploy step {key[0]}.{key[1]} of node {node.uuid} comes from {found[key][0]} and from {source}.",
                    remedy="Leave one of them out.",
                    field="deploy_steps",
                )
            found[key] = (source, step)
    return [step for _, step in found.values()]
