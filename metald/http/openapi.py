"""The OpenAPI 3.1 document, made of the route table, the field tables and `answers`.

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
from metald.http.answers import ANSWERS, BULK, ERROR, LINKS
from metald.http.fields import View
from metald.http.published import NAME, Site, argument, published
from metald.http.route import Arg, Route
from metald.http.views import Views

_PARAMETER = re.compile(r"\{(\w+)\}")
_IDENT: Mapping[str, Any] = {"type": "string", "pattern": NAME, "description": "A UUID or a name."}
_TEXT: Mapping[str, Any] = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[A-Za-z0-9._~@:-]+$"}
_IDENTS = frozenset(
    {
        *("node", "port", "chassis", "portgroup", "allocation", "deploy_template", "runbook"),
        *("inspection_rule", "volume_connector", "volume_target", "vif"),
    }
)
_HEADERS: Mapping[str, tuple[str, str]] = {
    "request-id": ("x-openstack-request-id", "The id under which the log knows the request."),
    "version": (versions.OLD_HEADER, "The microversion that was spoken."),
    "minimum": (versions.MIN_HEADER, "The oldest microversion that is served."),
    "maximum": (versions.MAX_HEADER, "The newest microversion that is served."),
    "location": ("Location", "Where the new thing is, or where the progress of what was asked can be seen."),
    "etag": ("ETag", "The state of what is shown: for If-None-Match and, of one thing, If-Match."),
    "preference": ("Preference-Applied", "How long the request may have waited, where it asked for that with Prefer."),
    "allow": ("Allow", "The methods that the path takes."),
    "retry": ("Retry-After", "Seconds after which a new try is sensible."),
}
_VERSION_PATTERN = r"^([Ll][Aa][Tt][Ee][Ss][Tt]|1\.([1-9]|[1-9][0-9]|10[0-9]|11[0-5]))$"
assert versions.MAX == 115, "the pattern above names the newest version"
_REASONS: Mapping[int, str] = {
    400: "The request or what is stored is wrong, or the state does not permit it.",
    401: "Nobody proved who they are.",
    403: "The caller may not do this, or the thing is protected.",
    404: "There is no such thing, or the version does not know the path yet.",
    405: "The path does not take the method, or not in this version.",
    406: "The version is not served, or does not know what was asked for yet.",
    408: "The body came too slowly.",
    409: "The thing is busy, exists already, or is in a state that does not permit this.",
    412: "The thing is not what If-Match names.",
    413: "The body is too large.",
    415: "The body is of another type than JSON.",
    500: "A machine or a server said no, or metald has a defect.",
    503: "The database is not there.",
}


def document(routes: Iterable[Route], views: Views, site: Site | None = None) -> dict[str, Any]:
    """The whole document.

    Args:
        routes: the route table.
        views: the field tables.
        site: what a running daemon knows of itself.
    """
    site = site or Site()
    paths: dict[str, dict[str, Any]] = {}
    known = {f"{route.method} {route.path}": route for route in routes}
    for route in known.values():
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known, site)
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
            "parameters": _parameters(),
            "headers": {
                key: {"description": text, "schema": {"type": "string"}, "required": key in ("request-id", "allow")}
                for key, (_, text) in _HEADERS.items()
            },
            "responses": {str(status): _refusal(status, text) for status, text in _REASONS.items()},
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic", "description": "`http_basic`: a user of the htpasswd file."},
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token", "description": "`keystone`: a token."},
            },
        },
    }


def _parameters() -> dict[str, Any]:
    return {
        "version": {
            "name": versions.OLD_HEADER,
            "in": "header",
            "description": "The microversion to speak, or `latest`; without it the oldest.",
            "schema": {"type": "string", "pattern": _VERSION_PATTERN},
            "example": "latest",
        },
        "standard-version": {
            "name": versions.STANDARD_HEADER,
            "in": "header",
            "description": "The same as a list of services and versions, `baremetal 1.115`; it wins where both are sent.",
            "schema": {"type": "string"},
            "example": "baremetal latest",
        },
    }


def _operation(route: Route, known: Mapping[str, Route], site: Site) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": dict(_IDENT if name in _IDENTS else _TEXT)}
        for name in _PARAMETER.findall(route.path)
    ]
    parameters += [_argument(arg) for arg in route.args]
    parameters += [{"name": name, "in": "header", "schema": {"type": "string"}} for name in heeded(route)]
    if route.versioned:
        parameters += [{"$ref": "#/components/parameters/version"}, {"$ref": "#/components/parameters/standard-version"}]
    operation: dict[str, Any] = {
        "operationId": _name(route),
        "summary": route.summary,
        "tags": [_tag(route.path)],
        "parameters": parameters,
        "responses": _responses(route, known),
        "security": _security(route, site),
        "x-since": f"1.{route.since}",
    }
    if route.policy:
        operation["x-policy"] = route.policy
    if route.body is not None:
        required = bool(route.body.get("required")) or route.body.get("type") == "array"
        one = published(route.body, site)
        schema = {"anyOf": [one, {"type": "array", "minItems": 1, "maxItems": 1000, "items": one}]} if route.bulk else one
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    return operation


def _name(route: Route) -> str:
    return re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_")


def heeded(route: Route) -> tuple[str, ...]:
    """The further request headers that a route heeds."""
    return (*route.honours, *(("If-None-Match",) if route.stamp is not None else ()))


def _successes(route: Route) -> tuple[int, ...]:
    return (route.status, *route.also, *((304,) if route.stamp is not None else ()))


def _tag(path: str) -> str:
    parts = [part for part in path.split("/") if part and part != "v1"]
    return parts[0] if parts else "root"


def _security(route: Route, site: Site) -> list[dict[str, list[str]]]:
    if route.public:
        return []
    ways: dict[str, list[dict[str, list[str]]]] = {
        "noauth": [],
        "http_basic": [{"basic": []}],
        "keystone": [{"token": []}],
        "any": [{}, {"basic": []}, {"token": []}],
    }
    return ways[site.auth]


def _argument(arg: Arg) -> dict[str, Any]:
    found = {"name": arg.name, "in": "query", "required": arg.required, "schema": argument(arg.kind.schema), "x-since": f"1.{arg.since}"}
    return found | ({"style": "form", "explode": False, "description": "Words with commas between."} if "items" in arg.kind.schema else {})


def _responses(route: Route, known: Mapping[str, Route]) -> dict[str, Any]:
    found = {str(status): _success(route, status, known) for status in _successes(route)}
    for status in _refusals(route):
        found[str(status)] = {"$ref": f"#/components/responses/{status}"}
    return found


def _refusals(route: Route) -> list[int]:
    """Every status of an error that the route may answer with."""
    found = {400, 405, 500, 503}
    if not route.public:
        found |= {401, 403}
    if route.versioned:
        found |= {404, 406}
    if route.method != "GET" or "{" in route.path or route.public:
        found.add(409)
    if route.body is not None:
        found |= {408, 413, 415}
    if "If-Match" in route.honours:
        found.add(412)
    return sorted(found)


def _headers(*keys: str) -> dict[str, Any]:
    return {_HEADERS[key][0]: {"$ref": f"#/components/headers/{key}"} for key in keys}


def _success(route: Route, status: int, known: Mapping[str, Route]) -> dict[str, Any]:
    versioned = ("version", "minimum", "maximum") if route.versioned else ()
    located = ("location",) if status in (201, 202) else ()
    tagged = ("etag",) if status in (200, 304) and "If-None-Match" in heeded(route) else ()
    awaited = ("preference",) if status in (200, 304) and "Prefer" in route.honours else ()
    headers = _headers("request-id", *versioned, *located, *tagged, *awaited)
    found: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": headers}
    told = ANSWERS.get(f"{route.method} {route.path}")
    if status in (200, 201, 207) or (told is not None and 200 not in _successes(route)):
        schema: dict[str, Any] = {"$ref": f"#/components/schemas/{route.answer}"} if route.answer else dict(told or {})
        if route.bulk:
            schema = {"anyOf": [schema, BULK]}
        found["content"] = {route.content_type: {"schema": schema if route.content_type == "application/json" else {"type": "string"}}}
    if status == 201:
        found["links"] = _links(route, known)
    return found


def _links(route: Route, known: Mapping[str, Route]) -> dict[str, Any]:
    """From what creates a thing to what shows, changes and deletes it, and what belongs to it."""
    found: dict[str, Any] = {}
    start = f"{route.path}/{{{route.answer}}}"
    for other in known.values():
        if (other.path == start or other.path.startswith(f"{start}/")) and _PARAMETER.findall(other.path) == [route.answer]:
            found[_name(other)] = {"operationId": _name(other), "parameters": {route.answer: "$response.body#/uuid"}}
        properties = (other.body or {}).get("properties", {})
        if other.status == 201 and f"{route.answer}_uuid" in properties:
            found[_name(other)] = {"operationId": _name(other), "requestBody": {f"{route.answer}_uuid": "$response.body#/uuid"}}
    return found


def _refusal(status: int, text: str) -> dict[str, Any]:
    more = {405: ("allow",), 409: ("retry",), 503: ("retry",)}.get(status, ())
    return {
        "description": text,
        "headers": _headers("request-id", *more),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/error"}}},
    }


def _schemas(views: Views) -> dict[str, Any]:
    found: dict[str, Any] = {"error": ERROR}
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
    more = {name: {**LINKS, "x-since": f"1.{since}"} for name, since, _ in view.links}
    return {"type": "object", "properties": {**properties, "links": LINKS, **more}, "required": ["links"]}


def main() -> None:
    """Write the document to stdout."""
    from metald.http.routes import ROUTES

    sys.stdout.buffer.write(
        orjson.dumps(document(ROUTES, Views(lambda _node: None)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )


if __name__ == "__main__":
    main()
