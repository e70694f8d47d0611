"""The OpenAPI 3.1 document, made of the route table and the field tables.

python -m metald.http.openapi > docs/reference/openapi.json
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson

from metald import __version__
from metald.http import versions
from metald.http.fields import View
from metald.http.route import Arg, Route
from metald.http.views import Views

_PARAMETER = re.compile(r"\{(\w+)\}")
_VERSION = {"$ref": "#/components/parameters/version"}
_LINKS = {
    "type": "array",
    "items": {"type": "object", "properties": {"href": {"type": "string"}, "rel": {"type": "string"}}, "required": ["href", "rel"]},
}


def document(routes: Iterable[Route], views: Views) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "metald: bare metal provisioning",
            "version": __version__,
            "description": f"Wire-compatible with OpenStack Ironic v1, microversions 1.{versions.MIN} to 1.{versions.MAX}.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(views),
            "parameters": {
                "version": {
                    "name": versions.OLD_HEADER,
                    "in": "header",
                    "description": "The microversion to speak, or `latest`; without it the oldest.",
                    "schema": {"type": "string", "pattern": r"^(latest|1\.[0-9]+)$"},
                }
            },
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _PARAMETER.findall(route.path)
    ]
    parameters += [_argument(arg) for arg in route.args]
    parameters += [{"name": name, "in": "header", "schema": {"type": "string"}} for name in heeded(route)]
    if route.versioned:
        parameters.append(_VERSION)
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "summary": route.summary,
        "tags": [_tag(route.path)],
        "parameters": parameters,
        "responses": {**{str(status): _success(route, status) for status in _successes(route)}, "4XX": _error(), "5XX": _error()},
        "security": [] if route.public else [{}, {"basic": []}],
        "x-since": f"1.{route.since}",
    }
    if route.policy:
        operation["x-policy"] = route.policy
    if route.body is not None:
        required = bool(route.body.get("required")) or route.body.get("type") == "array"
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": route.body}}}
    return operation


def heeded(route: Route) -> tuple[str, ...]:
    """The further request headers that a route heeds."""
    return (*route.honours, *(("If-None-Match",) if route.stamp is not None else ()))


def _successes(route: Route) -> tuple[int, ...]:
    return (route.status, *route.also, *((304,) if route.stamp is not None else ()))


def _tag(path: str) -> str:
    parts = [part for part in path.split("/") if part and part != "v1"]
    return parts[0] if parts else "root"


def _argument(arg: Arg) -> dict[str, Any]:
    found = {"name": arg.name, "in": "query", "required": arg.required, "schema": arg.kind.schema, "x-since": f"1.{arg.since}"}
    return found | ({"style": "form", "explode": False} if arg.kind.schema.get("type") == "array" else {})


def _success(route: Route, status: int) -> dict[str, Any]:
    found: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status in (200, 201):
        schema = {"$ref": f"#/components/schemas/{route.answer}"} if route.answer else {}
        found["content"] = {"application/json": {"schema": schema}}
    return found


def _error() -> dict[str, Any]:
    return {"description": "An error", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/error"}}}}


def _schemas(views: Views) -> dict[str, Any]:
    found: dict[str, Any] = {"error": _ERROR}
    for name, view in views.named().items():
        found[name] = _resource(view)
        items = {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}
        found[f"{name}_list"] = {
            "type": "object",
            "properties": {view.key: items, "next": {"type": "string", "format": "uri"}},
            "required": [view.key],
        }
    return found


def _resource(view: View[Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {name: {**(field.schema or {}), "x-since": f"1.{field.since}"} for name, field in view.fields.items()}
    return {"type": "object", "properties": {**properties, "links": _LINKS}, "required": ["links"]}


_ERROR: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "error_message": {"type": "string", "description": "JSON in a string: `faultstring`, or `title` and `description`."},
        "metald": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "field": {"type": ["string", "null"]},
                "remedy": {"type": ["string", "null"]},
                "docs": {"type": "string", "description": "Where the code is explained, relative to the daemon."},
            },
        },
    },
}


def main() -> None:
    """Write the document to stdout."""
    from metald.http.routes import ROUTES

    sys.stdout.buffer.write(
        orjson.dumps(document(ROUTES, Views(lambda _node: None)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )


if __name__ == "__main__":
    main()
