"""`vendor_passthru` of nodes and drivers: methods that only this vendor's hardware has, under any HTTP method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metald.drivers.optional import VendorMethod
from metald.errors import Invalid
from metald.http.call import Call, Reply
from metald.http.route import Arg, Route
from metald.http.schema import NULLABLE_OBJECT
from metald.http.v1 import lookups

_VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_METHOD = Arg("method", required=True)


def _shown(methods: Mapping[str, VendorMethod]) -> dict[str, Any]:
    return {
        name: {
            "http_methods": list(method.verbs),
            "async": method.asynchronous,
            "description": method.description,
            "attach": False,
            "require_exclusive_lock": method.exclusive,
        }
        for name, method in methods.items()
    }


async def node_methods(call: Call) -> dict[str, Any]:
    """List a node's vendor methods."""
    return _shown(call.services.hardware.vendor_methods(lookups.node(call).uuid))


async def call_node(call: Call) -> Reply:
    """Call a vendor method of a node."""
    node = lookups.node(call)
    method = _method(call)
    hardware = call.services.hardware
    return _answer(*await hardware.call_vendor(node.uuid, method, call.method, call.body or {}, call.caller))


async def driver_methods(call: Call) -> dict[str, Any]:
    """List a hardware type's vendor methods."""
    return _shown(call.services.hardware.driver_vendor_methods(lookups.driver(call)))


async def call_driver(call: Call) -> Reply:
    """Call a vendor method of a hardware type."""
    driver = lookups.driver(call)
    method = _method(call)
    return _answer(*await call.services.hardware.call_driver_vendor(driver, method, call.method, call.body or {}))


def _method(call: Call) -> str:
    method = str(call.path.get("method", call.args.get("method", "methods")))
    if not method:
        raise Invalid("Method not specified", field="method")
    return method


def _answer(asynchronous: bool, value: Any) -> Reply:
    return Reply(status=202) if asynchronous else Reply.of(value)


def _routes(base: str, methods: Any, handler: Any, what: str, policy: str) -> tuple[Route, ...]:
    path = f"{base}/vendor_passthru"
    found = [Route("GET", f"{path}/methods", methods, f"List {what}'s vendor methods", policy=policy)]
    for verb in _VERBS:
        summary = f"Call {what}'s vendor method"
        body = None if verb == "GET" else NULLABLE_OBJECT
        found.append(Route(verb, path, handler, summary, args=(_METHOD,), body=body, body_name="data", also=(202,), policy=policy))
        found.append(Route(verb, f"{path}/{{method}}", handler, summary, body=body, body_name="data", also=(202,), policy=policy))
        if verb != "GET":
            # The name of the list, called as if it were a method, is no method rather than no path.
            found.append(Route(verb, f"{path}/methods", handler, summary, body=body, body_name="data", also=(202,), policy=policy))
    return tuple(found)


ROUTES = (
    *_routes("/v1/nodes/{node}", node_methods, call_node, "a node", "baremetal:node:vendor_passthru"),
    *_routes("/v1/drivers/{driver}", driver_methods, call_driver, "a driver", "baremetal:driver:vendor_passthru"),
)
