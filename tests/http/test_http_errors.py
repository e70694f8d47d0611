"""Bad input: whatever is sent is answered with 4xx in the wire's forms, and nothing of the inside comes out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metald.errors import Invalid, MetaldError
from metald.http import body, errorpage, patch
from metald.http.v1 import nodes
from tests.support.api import Api, api_settings, serving


async def test_the_two_forms_of_errors(api: Api) -> None:
    raised = await api.ask("GET", "/v1/nodes/nobody")
    assert raised.headers["Content-Type"].startswith("application/json")
    inner = json.loads(raised.json["error_message"])
    assert inner == {"faultcode": "Client", "faultstring": "Node nobody could not be found.", "debuginfo": None}
    about = raised.json["metald"]
    assert (about["code"], about["field"], about["docs"]) == ("not-found", "node", "/docs/errors#not-found")
    assert about["remedy"]
    routed = json.loads((await api.ask("GET", "/v1/bogus")).json["error_message"])
    assert (routed["code"], routed["title"]) == (404, "Not Found")


async def test_the_link_of_every_error_leads_to_its_code(api: Api) -> None:
    page = await api.ask("GET", "/docs/errors")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    raised = [
        await api.ask(method, path, data, version=version)
        for method, path, data, version in (
            ("GET", "/v1/nodes/nobody", None, "1.80"),
            ("GET", "/v1/bogus", None, "1.80"),
            ("GET", "/v1/nodes", None, "9.9"),
            ("POST", "/v1/nodes", b"{", "1.80"),
            ("POST", "/v1/nodes", b"[" * 2000 + b"]" * 2000, "1.80"),
            ("POST", "/v1/nodes", b'{"driver": "none"}', "1.80"),
        )
    ]
    for answer in raised:
        about = answer.json["metald"]
        assert set(about) == {"code", "field", "remedy", "docs"}
        assert about["remedy"]
        path, _, code = about["docs"].partition("#")
        assert path == "/docs/errors"
        assert f'<tr id="{code}">'.encode() in page.body
    assert all(meaning and advice for _, _, meaning, advice in errorpage.entries())


async def test_paths_and_methods(api: Api) -> None:
    rows: list[tuple[str, str, int]] = [
        ("GET", "/v2", 404),
        ("GET", "/v2/nodes", 404),
        ("GET", "/bogus", 404),
        ("GET", "/v1/nodes/", 200),
        ("GET", "/nodes", 200),
        ("GET", "/nodes/", 200),
        ("GET", "/v1/", 200),
        ("HEAD", "/v1", 200),
        ("HEAD", "/", 200),
        ("HEAD", "/v1/nodes", 405),
        ("POST", "/v1", 405),
        ("DELETE", "/v1/nodes", 405),
        ("PUT", "/v1/nodes", 405),
        ("OPTIONS", "/v1/nodes", 200),
        ("GET", "/v1/nodes/a/b/c/d", 404),
        ("GET", "/v1//nodes", 404),
        ("GET", "/v1/nodes/%00", 400),
        ("GET", "/v1/nodes/%c3%28", 400),
        ("GET", "/v1/nodes/" + "x" * 4000, 400),
    ]
    for method, path, status in rows:
        assert (await api.ask(method, path)).status == status, (method, path)


async def test_bodies_that_are_not_json_objects_are_refused(api: Api) -> None:
    rows: list[tuple[bytes, int]] = [
        (b"{", 400),
        (b"[]", 400),
        (b'"x"', 400),
        (b"null", 400),
        (b"NaN", 400),
        (b'{"driver": NaN}', 400),
        (b'{"driver": Infinity}', 400),
        (b'{"driver": "\xff\xfe"}', 400),
        (b'{"driver": "\\ud800"}', 400),
        (b'{"driver": "fake-hardware", "extra": {"a": "\\u0000"}}', 400),
        (b"\x00\x01", 400),
        (b"{" * 100_000, 400),
        (b'{"a":' * 30 + b"1" + b"}" * 30, 400),
        (b"[" * 2000 + b"]" * 2000, 400),
        (b'{"driver": "fake-hardware", "extra": ' + b"[" * 26 + b"]" * 26 + b"}", 400),
        (b'{"driver": "' + b"x" * (1 << 20) + b'"}', 413),
        (b"", 400),
    ]
    for data, status in rows:
        answer = await api.ask("POST", "/v1/nodes", data)
        assert answer.status == status, (data[:50], answer.body)
        assert answer.fault
    assert (await api.get("/v1/nodes"))["nodes"] == []


async def test_limits_are_answered_unwrapped(api: Api) -> None:
    deep = await api.ask("POST", "/v1/nodes", b'{"extra":' + b"[" * 30 + b"]" * 30 + b"}")
    big = await api.ask("POST", "/v1/nodes", b'"' + b"x" * (1 << 21) + b'"')
    for answer, status in ((deep, 400), (big, 413)):
        assert answer.status == status
        assert answer.json["faultcode"] == "Client"


async def test_a_chunked_body_without_end_is_cut_off(api: Api) -> None:
    async def endless() -> Any:
        for _ in range(64):
            yield b"x" * 65536

    async with api.client.post("/v1/nodes", data=endless()) as answer:
        assert answer.status == 413


async def test_other_content_types_are_refused(api: Api) -> None:
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml"):
        answer = await api.ask("POST", "/v1/nodes", b"{}", headers={"Content-Type": kind})
        assert answer.status == 415, kind
    for kind in ("application/json", "application/json; charset=utf-8", "application/json-patch+json", "text/plain"):
        answer = await api.ask("POST", "/v1/chassis", b"{}", headers={"Content-Type": kind})
        assert answer.status == 201, kind


async def test_a_slow_body_is_given_up(tmp_path: Path) -> None:
    async with serving(tmp_path, api_settings(body_timeout=0.05)) as api:
        await _slow_body(api)


async def _slow_body(api: Api) -> None:
    release = asyncio.Event()

    async def slow() -> Any:
        yield b'{"driver":'
        await release.wait()

    async with api.client.post("/v1/nodes", data=slow()) as answer:
        assert answer.status == 408
        release.set()


async def test_a_forged_host_is_refused(api: Api) -> None:
    for host in ('x"y', "a b", "x/y", "a" * 300, "[::1", "x:port"):
        assert (await api.ask("GET", "/v1/nodes", headers={"Host": host})).status == 400, host
    node = await api.node()
    answer = await api.ask("GET", f"/v1/nodes/{node['uuid']}", headers={"Host": "bmc.example:99"})
    assert answer.json["links"][0]["href"].startswith("http://bmc.example:99/v1/nodes/")


async def test_a_defect_shows_its_id_only_and_is_logged_once(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: Any, **_more: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(type(api.house.conductor), "progress", broken)
    uuid = (await api.node())["uuid"]
    with caplog.at_level(logging.INFO, "metald.http"):
        answer = await api.ask("GET", f"/v1/nodes/{uuid}/progress")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert answer.headers["x-openstack-request-id"] in answer.fault
    assert len([r for r in caplog.records if r.exc_info]) == 1


async def test_secrets_do_not_reach_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "metald.http"):
        await api.ask("POST", "/v1/nodes", {"driver": "fake-hardware", "name": "password=hunter2"})
    assert caplog.records
    assert "hunter2" not in caplog.text


async def test_a_global_request_id_is_kept_for_events(api: Api) -> None:
    given = "req-11111111-2222-3333-4444-555555555555"
    answer = await api.ask("GET", "/v1/nodes", headers={"X-OpenStack-Request-ID": given})
    assert answer.headers["x-openstack-request-id"] != given


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELD = st.sampled_from(["driver", "name", "extra", "uuid", "maintenance", "properties", "deploy_interface", "traits", "network_data", "x"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.lists(FIELD | st.text(max_size=8), max_size=4), op=st.sampled_from(["add", "replace", "remove"]), value=JSON)
def test_no_patch_breaks_the_patcher(path: list[str], op: str, value: Any) -> None:
    before = {"extra": {"a": [1, {"b": 2}]}, "name": "n", "driver": "d", "properties": {}}
    kept = json.dumps(before)
    with contextlib.suppress(Invalid):
        after = patch.read([{"op": op, "path": "/" + "/".join(path), "value": value}], sorted(nodes.PATCHABLE)).apply(before)
        assert isinstance(after, dict)
    assert json.dumps(before) == kept


async def test_nothing_that_json_can_say_breaks_a_path(api: Api) -> None:
    """Every route takes any JSON and any argument with an answer below 500."""
    from metald.http.routes import ROUTES

    uuid = (await api.node(name="n1"))["uuid"]
    values: list[Any] = [
        None,
        [],
        {},
        "x",
        3,
        {"target": []},
        {"target": "clean", "clean_steps": {"a": 1}},
        [{"op": "add", "path": "/extra/a"}],
    ]
    for route in ROUTES:
        if route.content_type == "text/event-stream":
            continue  # it has no end
        path = route.path.replace("{node}", uuid).replace("{port}", uuid).replace("{chassis}", uuid)
        for name in ("driver", "conductor", "method", "trait", "vif"):
            path = path.replace("{" + name + "}", "x")
        for value in values:
            answer = await api.ask(route.method, path, json.dumps(value).encode())
            assert answer.status < 500, (route.method, path, value, answer.body)
        for query in ("?limit=%F0%9F%92%A9", "?fields=%00", "?x", "?=", "?&&&", "?fields=" + "a," * 2000):
            answer = await api.ask(route.method, path + query, b"{}" if route.body is not None else None)
            assert answer.status < 500, (route.method, path, query, answer.body)


def test_deep_values_are_found_without_recursion() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(MetaldError):
        body.check_depth(value, 25)
    while isinstance(value, list):
        value = value[0] if value else None
