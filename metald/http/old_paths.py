"""Paths that name the node last or in the query, as the oldest clients and test suites of Ironic do.

`/v1/nodes/states/console/{node}` and `/v1/nodes/states/console?node_ident={node}` are `/v1/nodes/{node}/states/console`.
No node can be called `states`, `management`, `maintenance` or `vendor_passthru`, so the two forms never meet.
"""

from __future__ import annotations

from multidict import MultiMapping

from metald.errors import Invalid

ARGUMENT = "node_ident"
RESERVED = frozenset({"states", "management", "maintenance", "vendor_passthru"})
_AFTER_THE_NODE = frozenset(
    {"power", "provision", "raid", "console", "boot_mode", "secure_boot", "boot_device", "inject_nmi", "indicators", "supported", "methods"}
)


def canonical(segments: list[str], query: MultiMapping[str]) -> tuple[list[str], str | None]:
    """The path with the node in its place.

    Returns:
        The segments, and the query argument that was used up.

    Raises:
        Invalid: the node is missing.
    """
    if len(segments) < 3 or segments[1] != "nodes" or segments[2] not in RESERVED:
        return segments, None
    rest = segments[2:]
    if ARGUMENT in query:
        return [*segments[:2], query[ARGUMENT], *rest], ARGUMENT
    if len(rest) == 1 or rest[-1] in _AFTER_THE_NODE:
        raise Invalid(
            f"Missing mandatory parameter: {ARGUMENT}", remedy="Put the node's name or UUID after /v1/nodes/ in the path.", field=ARGUMENT
        )
    return [*segments[:2], rest[-1], *rest[:-1]], None
