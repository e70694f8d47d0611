"""The OpenAPI document says what the routes do."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator

from metald.http import openapi
from metald.http.routes import ROUTES
from metald.http.views import Views
from tests.support.api import Api


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return found + [ref for item in value.values() for ref in references(item)]
    return [ref for item in value for ref in references(item)] if isinstance(value, list) else []


def test_every_route_is_told_and_every_reference_leads_somewhere() -> None:
    document = json.loads(json.dumps(openapi.document(ROUTES, Views(lambda _node: None))))
    assert document["openapi"] == "3.1.0"
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == {(route.method, route.path) for route in ROUTES}
    for reference in references(document):
        place = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    operations = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(operations) == len(set(operations))
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for route in ROUTES:
        if route.body is not None:
            Draft202012Validator.check_schema(route.body)


async def test_answers_fit_the_document(api: Api) -> None:
    document = await api.get("/openapi.json")
    assert document == await api.get("/v1/openapi.json")
    node = await api.node(name="n1", extra={"a": 1})
    port = await api.make("ports", node_uuid=node["uuid"], address="52:54:00:00:00:01")
    chassis = await api.make("chassis")
    rows = [("node", node), ("port", port), ("chassis", chassis), ("conductor", await api.get("/v1/conductors/test"))]
    rows += [("node_list", await api.get("/v1/nodes?limit=1")), ("port_list", await api.get("/v1/ports/detail"))]
    for name, answer in rows:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        Draft202012Validator(schema).validate(answer)
        known = document["components"]["schemas"][name]["properties"]
        extra = set(answer) - set(known) - {"ports", "states", "portgroups", "volume", "nodes"}
        assert not extra
