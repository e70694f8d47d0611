"""Writes every file that is made from the code: settings, states, events, metrics, ports and more. `--check` says which are out of date."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import orjson
import pages
from msgspec import Meta

from metald import __version__
from metald.config import Section, Settings
from metald.configfile import reference
from metald.http import errorpage
from metald.http.openapi import document
from metald.http.routes import ROUTES
from metald.http.views import Views
from metald.model import ProvisionState
from metald.model.asyncapi import addresses
from metald.model.asyncapi import document as events_document
from metald.model.commandtypes import COMMAND_TYPES, REPLY
from metald.model.eventtypes import EVENT_TYPES
from metald.policy import RULES
from metald.statemachine import reads
from metald.statemachine.table import EDGES, FAILED, STABLE, Table

ROOT = Path(__file__).resolve().parent.parent


def states() -> str:
    """docs/explanation/states.md: the diagram, and for each state what leads on."""
    table = Table()
    lines = ["# Provision states", "", "Made from `metald/statemachine/table.py` by `make generate`.", ""]
    lines += [
        f"{len(ProvisionState)} states, {len(EDGES)} transitions. Rounded: at rest. Verbs, which clients ask for, are in capitals;",
        "the other events come from the running workflow.",
        "",
        "```mermaid",
        "stateDiagram-v2",
    ]
    for state in ProvisionState:
        lines.append(f'    state "{state.value}" as {_key(state)}')
    lines.append("    [*] --> enroll")
    for edge in EDGES:
        verb = edge.event.upper() if any(edge.event == v for v in table.verbs(edge.source)) else edge.event
        lines.append(f"    {_key(edge.source)} --> {_key(edge.target)}: {verb}")
    lines += ["```", "", "| state | kind | verbs | events of its workflow |", "| --- | --- | --- | --- |"]
    for state in ProvisionState:
        kind = "at rest" if state in STABLE else "failed" if state in FAILED else "under way"
        verbs = table.verbs(state)
        mine = [e for e in EDGES if e.source is state]
        asked = ", ".join(f"{e.event} → {e.target.value}" for e in mine if e.event in verbs)
        inner = ", ".join(f"{e.event} → {e.target.value}" for e in mine if e.event not in verbs)
        lines.append(f"| {state.value} | {kind} | {asked} | {inner} |")
    return "\n".join(lines) + "\n"


def _key(state: ProvisionState) -> str:
    return re.sub(r"[ -]", "_", state.value)


def policy_page() -> str:
    """docs/reference/policy.md: every rule."""
    lines = [
        "# Policy",
        "",
        "Made from `metald/policy/table.py` by `make generate`. A rule holds for whoever has one of the standings in its row:",
        "`system admin` is the role admin on the whole system, `owner member` the role member in the project that owns the node (or",
        "the allocation, the runbook), `lessee ...` in the project that leases it, `any reader` the role in whatever scope, `elevated",
        "service` the role service in the project of services where `api.service_role_elevated_access` is on. Roles imply those below:",
        "admin, manager, member, reader; a standing that is implied by another of its row is left out. What belongs to a node follows",
        "its node. How it is used: [users and roles](../howto/users.md).",
        "",
        "| rule | lets | system | owner | lessee | any scope | routes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for rule in RULES:
        cells = [_roles(rule.who, relation) for relation in ("system", "owner", "lessee", "any")]
        if "elevated service" in rule.who:
            cells[0] = f"{cells[0]}, elevated service"
        routes = "<br>".join(f"{route.method} {route.path}" for route in ROUTES if route.policy == rule.name)
        lines.append(f"| `{rule.name}` | {rule.meaning} | {' | '.join(cells)} | {routes} |")
    public = [f"- {route.method} {route.path}" for route in ROUTES if route.public]
    return "\n".join([*lines, "", "Nobody is asked who they are for:", "", *public]) + "\n"


def _roles(who: frozenset[str], relation: str) -> str:
    """The least roles of a relation, in words."""
    mine = {standing.split()[1] for standing in who if standing.startswith(f"{relation} ")}
    least = next((role for role in ("reader", "member", "manager", "admin") if role in mine), None)
    return ", ".join([role for role in (least, "service" if "service" in mine else None) if role is not None])


def settings_page() -> str:
    """docs/reference/config.md: every setting."""
    lines = [
        "# Settings",
        "",
        "Made from `metald/config/` by `make generate`. A setting comes from the file given by `--config`, or from the",
        "environment as `METALD__SECTION__KEY`; the environment wins.",
        "",
    ]
    _settings(Settings, Settings(), "", lines)
    return "\n".join(lines) + "\n"


def _settings(kind: type[Section], values: Section, prefix: str, lines: list[str]) -> None:
    inner = [(f.name, getattr(values, f.name)) for f in msgspec.structs.fields(kind)]
    rows = [f for f in msgspec.structs.fields(kind) if not isinstance(getattr(values, f.name), Section)]
    title = prefix.rstrip(".") or "top level"
    lines += [f"## {title}", "", (kind.__doc__ or "").strip().splitlines()[0], ""]
    if rows:
        lines += ["| setting | default | meaning | environment |", "| --- | --- | --- | --- |"]
    for field in rows:
        base: Any = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
        text = next(
            (m.description for m in get_args(field.type)[1:] if isinstance(m, Meta) and m.description), "Seconds that one call takes."
        )
        if get_origin(base) is Literal:
            text += f" One of {', '.join(f'`{c}`' for c in get_args(base))}."
        default = msgspec.json.encode(getattr(values, field.name)).decode()
        name = "METALD__" + f"{prefix}{field.name}".replace(".", "__").upper()
        lines.append(f"| `{prefix}{field.name}` | `{default}` | {text.replace('|', chr(92) + '|')} | `{name}` |")
    lines.append("")
    for name, value in inner:
        if isinstance(value, Section):
            _settings(type(value), value, f"{prefix}{name}.", lines)


def openapi() -> str:
    """docs/reference/openapi.json: every path of the API."""
    text = orjson.dumps(document(ROUTES, Views(lambda _node: None)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return text.decode()


def paths() -> str:
    """docs/reference/paths.md: every path of the API in a line."""
    lines = [
        "# API",
        "",
        "Made from `metald/http/routes.py` by `make generate`. `since` is the oldest microversion that knows it; paths without one",
        "are metald's own. `GET /openapi.json` and [openapi.json](openapi.json) have the details.",
        "",
    ]
    lines += ["| method | path | since | what it does |", "| --- | --- | --- | --- |"]
    for route in sorted(ROUTES, key=lambda r: (r.path, r.method)):
        since = f"1.{route.since}" if route.versioned else ""
        lines.append(f"| {route.method} | `{route.path}` | {since} | {route.summary} |")
    return "\n".join(lines) + "\n"


def asyncapi() -> str:
    """docs/reference/asyncapi.json: every event over AMQP."""
    return orjson.dumps(events_document(__version__), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def events_page() -> str:
    """docs/reference/events.md: every event with its payload."""
    lines = [
        "# Events",
        "",
        "Made from `metald/model/eventtypes.py` by `make generate`.",
        "",
        "Everything that happens is an event with the next number of one sequence without gaps. `GET /v1/nodes/NODE/timeline` lists a",
        "node's, `GET /v1/events/stream` follows all, and over AMQP each is a CloudEvent ([how to](../howto/events.md)).",
        "`GET /asyncapi.json` and [asyncapi.json](asyncapi.json) have the JSON Schemas.",
        "",
        "| over HTTP | over AMQP | meaning |",
        "| --- | --- | --- |",
        "| `seq` | `id`, and `sequence` with zeros before it | place in the sequence, in the order of commits |",
        "| `id` | | UUID of the event |",
        "| | `source` | the installation: `events.source` |",
        "| `type` | `type` | see below |",
        "| `time` | `time` | when it happened, in UTC |",
        "| `node_uuid` | `subject` | the node; in `subject` the thing it is about when no node is concerned |",
        "| `subject` | `object` | the thing it is about when that is not the node |",
        "| `severity` | `severity` | `INFO`, `WARNING` or `ERROR` |",
        "| `user` | `user` | who asked, when somebody did |",
        "| `data` | `data` | see below |",
        "",
        "| type | tells of | data | routing keys |",
        "| --- | --- | --- | --- |",
    ]
    for one in EVENT_TYPES.values():
        data = ", ".join(f"`{field.encode_name}`" for field in msgspec.structs.fields(one.payload))
        lines.append(f"| `{one.name}` | {one.text} | {data} | {', '.join(f'`{key}`' for key in addresses(one))} |")
    lines += ["", "What is in the data:", ""]
    for payload in dict.fromkeys(one.payload for one in EVENT_TYPES.values()):
        names = ", ".join(f"`{one.name}`" for one in EVENT_TYPES.values() if one.payload is payload)
        lines.append(f"- {names}: {' '.join((payload.__doc__ or '').split())}")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """docs/reference/commands.md: every command, and the reply."""
    lines = [
        "# Commands",
        "",
        "Made from `metald/model/commandtypes.py` by `make generate`.",
        "",
        "What a message may ask for ([how to](../howto/commands.md)). The routing key is the command, with `urgent.` before it for the",
        "urgent queue; a CloudEvent's `type` may have `metald.command.` before it. What a command may have beside the arguments named",
        "here is what the body of its HTTP request may have ([paths](paths.md)). `GET /asyncapi.json` and [asyncapi.json](asyncapi.json)",
        "have the JSON Schemas.",
        "",
        "| command | what it does | needs | may have | HTTP request |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in COMMAND_TYPES.values():
        needs, more = (", ".join(f"`{name}`" for name in names) for names in (one.required, one.more))
        lines.append(f"| `{one.name}` | {one.text} | {needs} | {more} | `{one.request}` |")
    lines += [
        "",
        "**Many at once**: `nodes` (`ports`), a list in place of `node` (`port`), or `items`, a list of such arguments.",
        "",
        "The reply, to the queue that `reply_to` names:",
        "",
        "| field | meaning |",
        "| --- | --- |",
    ]
    for name, schema in REPLY["properties"].items():
        values = ", ".join(f"`{value}`" for value in schema.get("enum", ()))
        lines.append(f"| `{name}` | {' '.join(filter(None, (values, schema.get('description'))))} |")
    return "\n".join(lines) + "\n"


FILES: dict[str, Callable[[], str]] = {
    "conf/metald.toml": reference,
    "docs/explanation/states.md": states,
    "docs/reference/asyncapi.json": asyncapi,
    "docs/reference/commands.md": commands_page,
    "docs/reference/config.md": settings_page,
    "docs/reference/events.md": events_page,
    "docs/reference/errors.md": errorpage.markdown,
    "docs/reference/metrics.md": pages.metrics,
    "docs/reference/policy.md": policy_page,
    "docs/reference/ports.md": pages.ports,
    "docs/reference/openapi.json": openapi,
    "docs/reference/paths.md": paths,
    "docs/reference/reads.md": reads.markdown,
}


def main() -> int:
    """Write the files, or check them; returns the exit status."""
    stale = []
    for name, make in FILES.items():
        path, text = ROOT / name, make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        sys.stderr.write(f"Out of date: {', '.join(stale)}. Run: make generate\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
