"""Asks a real Ironic and metald the same things and shows where their answers differ: a tool for people, not a test.

    python -m tests.differ http://127.0.0.1:6399 http://127.0.0.1:6385

Both must run with noauth and fake-hardware. It makes nodes in both and removes them again. What is compared: status,
version headers, the keys of the answer, values that are not made by the service itself, and with `--phrases` the texts of
errors. It exits 0: not every difference is a fault; docs/reference/differences.md names those that are wanted.
"""

from __future__ import annotations

import argparse

from tests.differ import catalogue, edges, flows, nodes, parts, services, verbs
from tests.differ.asking import Made, compare

_ROWS = (
    nodes.roots,
    nodes.creation,
    nodes.lists,
    nodes.reads,
    nodes.patches,
    verbs.maintenance_and_power,
    verbs.provision,
    verbs.traits,
    verbs.hardware,
    parts.ports,
    parts.port_reads,
    parts.port_changes,
    parts.chassis,
    services.drivers,
    services.agents,
    parts.portgroups,
    parts.portgroup_changes,
    catalogue.deploy_templates,
    catalogue.runbooks,
    catalogue.inspection_rules,
    catalogue.volumes,
    catalogue.allocations,
    catalogue.others,
)


def main() -> None:
    """Compare the services that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.differ", description="Ask Ironic and metald the same things.")
    parser.add_argument("ironic", help="URL of an Ironic")
    parser.add_argument("metald", help="URL of a metald")
    parser.add_argument("--phrases", action="store_true", help="also compare the texts of errors")
    parser.add_argument(
        "--edges", action="append", choices=sorted(edges.PARTS), default=[], help="ask also of every field and version (may be repeated)"
    )
    parser.add_argument("--flows", action="store_true", help="also take a node through its life, and patch it in every state")
    asked = parser.parse_args()
    bases, made = [asked.ironic, asked.metald], Made()
    results = [compare(bases, *row, phrases=asked.phrases) for part in _ROWS for row in part(made)]
    for name in asked.edges:
        fresh = Made()
        rows = (*edges.things(fresh), *edges.PARTS[name](fresh), *edges.removal(fresh))
        results += [compare(bases, *row, phrases=asked.phrases) for row in rows]
    if asked.flows:
        results += flows.life(bases)
    print(f"{sum(results)} of {len(results)} answers agree")


if __name__ == "__main__":
    main()
