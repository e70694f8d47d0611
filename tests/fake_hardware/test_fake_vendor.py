"""Vendor methods and steps of fake-hardware: who may be called how, what is awaited, what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metald.drivers.base import NodeContext
from metald.drivers.optional import Vendor, passthru
from metald.errors import BmcRefused
from metald.model import Node, WorkflowKind
from tests.support.api import Api
from tests.support.swap import swap


async def idle(api: Api, uuid: str) -> Node:
    """Wait until nothing drives the node."""
    assert await api.house.engine.idle(uuid, 20)
    return api.house.node(uuid)


async def test_a_nodes_methods_are_those_that_clients_know(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    methods = await api.get(f"/v1/nodes/{uuid}/vendor_passthru/methods", "1.1")
    assert sorted(methods) == ["first_method", "fourth_method_shared_lock", "log_passthrough", "second_method", "third_method_sync"]
    assert methods["third_method_sync"] == {
        "http_methods": ["POST"],
        "async": False,
        "description": "Test if the value of bar is meow",
        "attach": False,
        "require_exclusive_lock": True,
    }
    assert methods["second_method"]["async"]
    assert not methods["fourth_method_shared_lock"]["require_exclusive_lock"]
    assert await api.get("/v1/drivers/fake-hardware/vendor_passthru/methods") == {}


@pytest.mark.parametrize(("bar", "answer"), [("meow", b"true"), ("woof", b"false"), (["meow"], b"false")])
async def test_a_synchronous_method_answers_what_it_returns(api: Api, bar: Any, answer: bytes) -> None:
    uuid = (await api.node())["uuid"]
    for path in ("/third_method_sync", "?method=third_method_sync"):
        found = await api.ask("POST", f"/v1/nodes/{uuid}/vendor_passthru{path}", {"bar": bar})
        assert (found.status, found.body) == (200, answer)


async def test_an_asynchronous_method_is_a_workflow_of_its_own(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, last_error="what went wrong before")
    found = await api.ask("POST", f"/v1/nodes/{uuid}/vendor_passthru/second_method", {"bar": "kazoo"})
    assert (found.status, found.body) == (202, b"")
    node = await idle(api, uuid)
    assert node.reservation is None
    assert node.last_error == "what went wrong before"
    (workflow,) = api.house.workflows(uuid)
    assert workflow.kind is WorkflowKind.HARDWARE
    assert workflow.state == "done"
    types = [event.type for event in await api.house.store.events(node_uuid=uuid)]
    assert types[-4:] == ["node.hardware", "node.step_begun", "node.step", "node.workflow"]


async def test_what_no_method_takes_is_refused(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    base = f"/v1/nodes/{uuid}/vendor_passthru"
    rows: list[tuple[str, str, Any, str]] = [
        ("POST", f"{base}/nope", {}, "No handler for method nope"),
        ("POST", f"{base}/trigger_servicewait", {}, "No handler for method trigger_servicewait"),
        ("POST", f"{base}/methods", {}, "No handler for method methods"),
        ("GET", f"{base}/second_method", None, "The method second_method does not support HTTP GET"),
        ("DELETE", f"{base}/second_method", None, "The method second_method does not support HTTP DELETE"),
        ("POST", f"{base}/second_method", {}, "Parameter 'bar' not passed to method 'second_method'."),
        ("POST", f"{base}/third_method_sync", {"bar": ""}, "Parameter 'bar' not passed to method 'third_method_sync'."),
        ("POST", f"{base}/third_method_sync", {"bar": "x", "foo": 1}, "does not know the parameter 'foo'"),
        ("POST", f"{base}/third_method_sync", ["bar"], "array is not of type 'object'"),
        ("POST", f"{base}/third_method_sync?x=1", {"bar": "x"}, "Unexpected arguments: x"),
        ("POST", base, {}, "Missing mandatory parameter: method"),
        ("POST", f"{base}?method=", {}, "Method not specified"),
        ("POST", "/v1/drivers/fake-hardware/vendor_passthru/first_method", {"bar": 1}, "No handler for method first_method"),
        ("GET", "/v1/drivers/fake-hardware/vendor_passthru?method=x", None, "No handler for method x"),
    ]
    for method, path, body, text in rows:
        found = await api.ask(method, path, body)
        assert found.status == 400, path
        assert text in found.fault
    for path in ("/v1/nodes/nobody/vendor_passthru/second_method", "/v1/drivers/nope/vendor_passthru/x"):
        assert (await api.ask("POST", path, {"bar": 1})).status == 404


async def test_a_node_without_a_vendor_interface_has_no_methods(api: Api) -> None:
    uuid = (await api.node(vendor_interface="no-vendor"))["uuid"]
    assert await api.get(f"/v1/nodes/{uuid}/vendor_passthru/methods") == {}
    found = await api.ask("POST", f"/v1/nodes/{uuid}/vendor_passthru/second_method", {"bar": 1})
    assert (found.status, found.fault) == (400, "No handler for method second_method. There are: none.")


async def test_a_driven_node_takes_only_what_may_run_beside(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, reservation="test")
    base = f"/v1/nodes/{uuid}/vendor_passthru"
    for method in ("second_method", "third_method_sync", "log_passthrough"):
        found = await api.ask("POST", f"{base}/{method}", {"bar": 1})
        assert found.status == 409
        assert "is locked by host test" in found.fault
        assert "Retry-After" in found.headers
    found = await api.ask("POST", f"{base}/fourth_method_shared_lock", {"bar": "woof"})
    assert (found.status, found.body) == (202, b"")


class Stubborn(Vendor):
    """Methods that fail, and one of the hardware type."""

    name = "fake"

    @passthru("PUT", "DELETE")
    async def kick(self, ctx: NodeContext) -> None:
        raise BmcRefused("The BMC said no, password=secret.")

    @passthru("GET", asynchronous=False)
    async def look(self, ctx: NodeContext) -> None:
        raise BmcRefused("The BMC said no.")

    @passthru("GET", "POST", asynchronous=False, optional=None, driver=True)
    async def census(self, **args: Any) -> dict[str, Any]:
        return {"seen": args}


async def test_a_failed_method_tells_its_caller_or_the_node(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    swap(api, Stubborn())
    found = await api.ask("GET", f"/v1/nodes/{uuid}/vendor_passthru/look")
    assert (found.status, found.fault) == (500, "The BMC said no.")
    assert (await api.ask("DELETE", f"/v1/nodes/{uuid}/vendor_passthru/kick")).status == 202
    node = await idle(api, uuid)
    assert node.last_error == "Vendor method kick failed: The BMC said no, password=secret."
    assert "secret" not in (await api.get(f"/v1/nodes/{uuid}"))["last_error"]
    assert node.reservation is None
    assert not node.maintenance


async def test_a_method_of_the_hardware_type_needs_no_node(api: Api) -> None:
    swap(api, Stubborn())
    path = "/v1/drivers/fake-hardware/vendor_passthru"
    assert (await api.get(f"{path}/methods"))["census"]["http_methods"] == ["GET", "POST"]
    found = await api.ask("POST", f"{path}?method=census", {"a": [1]})
    assert (found.status, found.json) == (200, {"seen": {"a": [1]}})
    assert (await api.ask("PUT", f"{path}/census", {})).status == 400


async def steps(api: Api, uuid: str) -> list[str]:
    return [f"{line.interface}.{line.step} {line.outcome}" for line in await api.house.store.journal(node_uuid=uuid)]


async def test_automated_cleaning_calls_the_vendor(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, provision_state="manageable")
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "provide"})).status == 202
    await api.until(uuid, "available")
    assert await steps(api, uuid) == ["vendor.log_passthrough done"]


async def test_cleaning_without_the_ramdisk_that_the_step_needs_fails(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, provision_state="manageable")
    wanted = {"target": "clean", "clean_steps": [{"interface": "vendor", "step": "log_passthrough"}], "disable_ramdisk": True}
    found = await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", wanted)
    assert found.status == 202
    node = await api.until(uuid, "clean failed")
    assert "vendor.log_passthrough requires booting a ramdisk" in (node.last_error or "")


async def serve(api: Api, uuid: str, step: str, **more: Any) -> None:
    body = {"target": "service", "service_steps": [{"interface": "vendor", "step": step}], **more}
    found = await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", body)
    assert found.status == 202, found.body


async def heartbeat(api: Api, uuid: str) -> int:
    token = (await api.get(f"/v1/lookup?node_uuid={uuid}"))["config"]["agent_token"]
    beat = {"callback_url": "https://127.0.0.1:9999", "agent_version": "9", "agent_token": token}
    return (await api.ask("POST", f"/v1/heartbeat/{uuid}", beat)).status


async def test_service_by_the_vendor_needs_no_ramdisk(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, provision_state="active")
    await serve(api, uuid, "log_passthrough", disable_ramdisk=True)
    await api.until(uuid, "active")
    assert await steps(api, uuid) == ["vendor.log_passthrough done"]


async def test_a_service_that_waits_goes_on_with_a_heartbeat(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, provision_state="active")
    await serve(api, uuid, "trigger_servicewait")
    waiting = await api.until(uuid, "service wait")
    assert waiting.service_step["step"] == "trigger_servicewait"
    assert await heartbeat(api, uuid) == 202
    node = await api.until(uuid, "active")
    assert node.service_step == {}
    await serve(api, uuid, "trigger_servicewait")
    await api.until(uuid, "service wait")
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "abort"})).status == 202
    assert "aborted" in ((await api.until(uuid, "service failed")).last_error or "")


async def test_a_call_while_a_service_waits_leaves_the_service_alone(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, provision_state="active")
    await serve(api, uuid, "trigger_servicewait")
    await api.until(uuid, "service wait")
    assert (await api.ask("POST", f"/v1/nodes/{uuid}/vendor_passthru/second_method", {"bar": 1})).status == 202
    node = await idle(api, uuid)
    assert (node.provision_state, node.reservation) == ("service wait", None)
    assert await heartbeat(api, uuid) == 202
    await api.until(uuid, "active")


async def test_a_service_that_goes_on_during_a_call_keeps_its_lock(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, provision_state="active")
    gate, entered = asyncio.Event(), asyncio.Event()
    call = api.house.hardware.call
    blocked: list[str] = []

    async def slow(node: Node, kind: str) -> None:
        if kind == "vendor":
            blocked.append(kind)
            entered.set()
            await gate.wait()
        await call(node, kind)

    await serve(api, uuid, "trigger_servicewait")
    await api.until(uuid, "service wait")
    api.house.hardware.call = slow  # type: ignore[method-assign]
    assert (await api.ask("POST", f"/v1/nodes/{uuid}/vendor_passthru/second_method", {"bar": 1})).status == 202
    await entered.wait()
    assert await heartbeat(api, uuid) == 202
    gate.set()
    node = await api.until(uuid, "active")
    assert node.workflow is None
    await idle(api, uuid)
    assert api.house.node(uuid).reservation is None
