"""Two pages of the reference that are read off the code: the metrics, from where they are made, and the ports, from the settings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from metald.config import Section, Settings

_SOURCES = Path(__file__).resolve().parent.parent / "metald"


class _Metric(NamedTuple):
    name: str
    kind: str
    text: str
    labels: tuple[str, ...]
    source: str


def metrics() -> str:
    """docs/reference/metrics.md: every metric of `GET /metrics`."""
    found = sorted(metric for path in sorted(_SOURCES.rglob("*.py")) for metric in _metrics(path))
    assert len({metric.name for metric in found}) == len(found), "two metrics have one name"
    lines = [
        "# Metrics",
        "",
        "Made from the code by `make generate`. `GET /metrics` has them in Prometheus' text format; parts that the settings leave out have",
        "none. Counters are since the start of the daemon. What is worth an alarm: [watch metald with Prometheus](../howto/metrics.md).",
        "",
        "| metric | kind | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for metric in found:
        name = f"metald_{metric.name}{'_total' if metric.kind == 'counter' else ''}"
        lines.append(f"| `{name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.text} |")
    return "\n".join(lines) + "\n"


def _metrics(path: Path) -> Iterator[_Metric]:
    """The metrics that a module makes: every `Family(...)` and `Family.one(...)` in it whose name is a text."""
    for scope in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(scope, ast.FunctionDef):
            continue
        told = {
            target.id: node.value
            for node in ast.walk(scope)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in _own(scope):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Family", "Family.one"):
                name, kind, text = (_text(argument, told) for argument in node.args[:3])
                yield _Metric(name, kind, text, _labels(node.args[3:], dict(told)), path.name)


def _own(scope: ast.FunctionDef) -> Iterator[ast.AST]:
    """What stands in a function and not in one inside it."""
    left: list[ast.AST] = list(scope.body)
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef):
            continue
        yield node
        left += ast.iter_child_nodes(node)


def _text(node: ast.expr, told: dict[str, ast.expr]) -> str:
    value = told.get(node.id) if isinstance(node, ast.Name) else node
    assert isinstance(value, ast.Constant), f"line {node.lineno}: a metric's name, kind and text must be written out"
    return str(value.value)


def _labels(samples: list[ast.expr], told: dict[str, ast.expr]) -> tuple[str, ...]:
    """The labels of a metric's samples: the texts that are keys in what makes them, or are given to `_by`."""
    found: dict[str, None] = {}
    left = list(samples)
    while left:
        for node in ast.walk(left.pop()):
            if isinstance(node, ast.Dict):
                found |= {key.value: None for key in node.keys if isinstance(key, ast.Constant)}
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "_by" and isinstance(node.args[0], ast.Constant):
                found[node.args[0].value] = None
            elif isinstance(node, ast.Name) and node.id in told:
                left.append(told.pop(node.id))
    return tuple(found)


class _Port(NamedTuple):
    where: str
    protocol: str
    who: str
    setting: str


_PORTS = (
    _Port("here", "TCP: HTTP, or HTTPS with `api.tls_certificate`", "clients, agents, ramdisks", "api.listen"),
    _Port(
        "here", "UDP: TFTP; the transfers from ports of their own unless `boot.tftp_single_port`", "booting firmware", "boot.tftp_listen"
    ),
    _Port("here", "TCP: HTTP, or HTTPS with `boot.http_tls_certificate`", "booting machines, ramdisks", "boot.http_listen"),
    _Port("here", "UDP 67 and 4011: DHCP, with `dhcp.provider` = `proxy` or `lease`", "booting machines, relays", "dhcp.interfaces"),
    _Port("here", "none; raw sockets that overhear DHCP", "nobody", "dhcp.watch"),
    _Port("here", "TCP: SSH to consoles", "people", "console.ssh_listen"),
    _Port("here", "TCP: consoles without a password, on `console.tcp_host`", "people on this host", "console.port_range"),
    _Port("at each BMC", "UDP 623, or `driver_info.ipmi_port`: RMCP+", "metald", ""),
    _Port("in each ramdisk", "TCP 22: SSH", "metald", ""),
    _Port("in each agent", "TCP 9999, or as its heartbeat says: HTTPS", "metald", ""),
    _Port("at each hypervisor host", "TCP 22, or `driver_info.ssh_port`: SSH", "metald", ""),
    _Port("PostgreSQL", "TCP 5432, or as the URL says", "metald", "store.url"),
    _Port("RabbitMQ", "TCP 5672, 5671 with TLS, or as the URL says", "metald", "amqp.url"),
    _Port("Keystone", "TCP: HTTP or HTTPS", "metald", "keystone.auth_url"),
)
_LISTENS = ("listen", "port_range", "interfaces", "watch")


def ports() -> str:
    """docs/reference/ports.md: where metald listens and what it connects to."""
    values = dict(_values(Settings(), ""))
    missing = [name for name in values if name.rpartition(".")[2].endswith(_LISTENS) and name not in {port.setting for port in _PORTS}]
    assert not missing, f"{missing}: say in {__file__} what listens there"
    lines = [
        "# Ports",
        "",
        "Made from the settings by `make generate`.",
        "",
        "| where | what | who connects | setting | default |",
        "| --- | --- | --- | --- | --- |",
    ]
    for port in _PORTS:
        value = values[port.setting] if port.setting else None
        default = "" if value is None else f"`{value}`" if value else "off"
        lines.append(f"| {port.where} | {port.protocol} | {port.who} | {f'`{port.setting}`' if port.setting else ''} | {default} |")
    return "\n".join(lines) + "\n"


def _values(section: Section, prefix: str) -> Iterator[tuple[str, object]]:
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from _values(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value
