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


async def test_a_plan_fits_the_document_and_is_not_told_of_what_is_only_accepted(api: Api) -> None:
    document = await api.get("/openapi.json")
    responses = document["paths"]["/v1/nodes/{node}/states/provision"]["put"]["responses"]
    assert "content" not in responses["202"]
    node = (await api.node())["uuid"]
    await api.force(node, provision_state="available")
    schema = {**responses["200"]["content"]["application/json"]["schema"], "components": document["components"]}
    for verb in ("active", "rescue", "manage"):
        plan = await api.ask(
            "PUT",
            f"/v1/nodes/{node}/states/provision?plan=1",
            {"target": verb, "rescue_password": "x"} if verb == "rescue" else {"target": verb},
        )
        assert plan.status == 200
        Draft202012Validator(schema).validate(plan.json)


async def test_the_headers_of_conditional_and_waiting_requests_are_told_where_they_come(api: Api) -> None:
    document = await api.get("/openapi.json")
    node = (await api.node())["uuid"]
    for path in ("/v1/nodes", "/v1/nodes/{node}", "/v1/nodes/{node}/states"):
        told = document["paths"][path]["get"]["responses"]["200"]["headers"]
        assert "ETag" in told
        assert "ETag" in (await api.ask("GET", path.format(node=node))).headers
    assert "Preference-Applied" in document["paths"]["/v1/nodes/{node}/states"]["get"]["responses"]["200"]["headers"]
    assert "Preference-Applied" not in document["paths"]["/v1/nodes"]["get"]["responses"]["200"]["headers"]


async def test_the_pages_need_nothing_from_elsewhere(api: Api) -> None:
    for path, kind in (("/docs", "text/html"), ("/docs/docs.js", "text/javascript"), ("/docs/docs.css", "text/css")):
        answer = await api.ask("GET", path)
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith(kind)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert b"http://" not in answer.body
        assert b"https://" not in answer.body


_FREE = {"GET /v1/nodes/{node}/vmedia"}
"""What the vendor's hardware makes up."""


def test_every_answer_is_typed() -> None:
    document = openapi.document(ROUTES, Views(lambda _node: None))
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            answer = operation["responses"].get("200", {}).get("content", {}).get("application/json")
            free = "vendor_passthru" in path or f"{method.upper()} {path}" in _FREE
            assert answer is None or answer["schema"] or free, f"{method} {path} needs an entry in metald/http/answers.py"
            for status in ("400", "405", "500"):
                assert status in operation["responses"]
