"""The page that the `docs` link of every error leads to: each code, what it means, and what to do.

It is made of the classes of errors and served by the daemon itself, so that it fits the release and needs no network.
docs/reference/errors.md is the same page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from metald.errors import MetaldError
from metald.http import problem
from metald.http.call import Call, Reply
from metald.http.route import Route

_CODE = re.compile(r"`([^`]+)`")
_INTERNAL = (
    problem.INTERNAL,
    500,
    "A defect of metald. Nothing but an id is told; the log knows it.",
    "Report it with the log lines of that id.",
)
_STYLE = (
    "body{font:16px/1.5 sans-serif;margin:2em auto;max-width:70em}"
    "td,th{padding:.4em .8em;text-align:left;vertical-align:top}tr:target{background:#ffc}"
)

Entry = tuple[str, int, str, str]
"""Code, HTTP status (0: chosen by the case), meaning, advice."""


def entries() -> list[Entry]:
    """Every code of an error, by its name."""
    found: dict[str, Entry] = {_INTERNAL[0]: _INTERNAL}
    for kind in _kinds(MetaldError):
        if kind.__module__.startswith("metald."):
            meaning = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
            status = 0 if issubclass(kind, problem.RoutingError | problem.BodyError) else kind.status
            found.setdefault(kind.code, (kind.code, status, meaning, kind.advice))
    del found[MetaldError.code]
    return [found[code] for code in sorted(found)]


def _kinds(kind: type[MetaldError]) -> Iterator[type[MetaldError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def markdown() -> str:
    """The page as docs/reference/errors.md."""
    lines = [
        "# Errors",
        "",
        "Made from `metald/errors.py` by `make generate`. The daemon serves the same page at `/docs/errors`.",
        "",
        "Every error carries, beside Ironic's `error_message`, an object `metald`: `code` is one of those below and never changes its",
        "meaning; `field` names what of the request is at fault, if anything; `remedy` is what to do in this very case; `docs` leads here.",
        "",
        "| code | status | what it means | what to do |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f'| <a id="{code}"></a>`{code}` | {status or "4xx"} | {meaning} | {advice} |' for code, status, meaning, advice in entries()]
    return "\n".join(lines) + "\n"


def page() -> bytes:
    """The page for a browser."""
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{status or "4xx"}</td><td>{_marked(meaning)}</td><td>{_marked(advice)}</td></tr>'
        for code, status, meaning, advice in entries()
    )
    head = "<tr><th>code</th><th>status</th><th>what it means</th><th>what to do</th></tr>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>metald: errors</title><style>{_STYLE}</style>'
        f"<h1>Errors</h1><table>{head}{rows}</table></html>"
    ).encode()


def _marked(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", html.escape(text, quote=False))


async def show(_call: Call) -> Reply:
    """Every code of an error."""
    return Reply(page(), headers={"Content-Type": "text/html; charset=utf-8"})


ROUTES = (Route("GET", problem.DOCS, show, "What errors mean", public=True, versioned=False, content_type="text/html"),)
