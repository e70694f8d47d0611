"""A Keystone v3 that believes everybody, for test suites that will not start without one.

Rules:

- It hands out a token for any user and password, with the scope that is asked for, and a catalogue whose only service is
  the Ironic or metald under test. A user whose name ends with `reader`, `member` or `manager` has that role and those below
  it; `service` has that role; everybody else is an admin.
- It tells what it knows of a token that it handed out, so that the service may also run with Keystone's tokens.
- Standard library only: it also runs in the virtual environments of the suites, which do not have aiohttp.

    python -m tests.conformance.identity 127.0.0.1:5000 http://127.0.0.1:6385
"""

from __future__ import annotations

import json
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_DOMAIN = {"id": "default", "name": "Default"}
_FOREVER = "2099-01-01T00:00:00.000000Z"


_ROLES = ("admin", "manager", "member", "reader")


def _roles(name: str) -> list[dict[str, str]]:
    """The roles of a user: the one that the name ends with, and those that it implies."""
    own = next((role for role in _ROLES if name.endswith(role)), "admin")
    names = ("service",) if name == "service" else _ROLES[_ROLES.index(own) :]
    return [{"id": _stable(role), "name": role} for role in names]


def _stable(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, name).hex


def _endpoint(url: str) -> list[dict[str, str]]:
    return [
        {"id": _stable(url + kind), "interface": kind, "region": "RegionOne", "region_id": "RegionOne", "url": url}
        for kind in ("public", "internal", "admin")
    ]


def token(asked: dict[str, Any], own: str, service: str) -> dict[str, Any]:
    """The body of a token for an authentication request.

    Args:
        asked: the request's `auth`.
        own: URL of this identity service.
        service: URL of the bare metal service.
    """
    user = asked.get("identity", {}).get("password", {}).get("user", {})
    name = user.get("name") or user.get("id") or "admin"
    scope = asked.get("scope") or {}
    body: dict[str, Any] = {
        "methods": ["password"],
        "user": {"id": _stable(name), "name": name, "domain": _DOMAIN, "password_expires_at": None},
        "roles": _roles(name),
        "audit_ids": [uuid.uuid4().hex],
        "issued_at": "2020-01-01T00:00:00.000000Z",
        "expires_at": _FOREVER,
        "catalog": [
            {"id": "baremetal", "type": "baremetal", "name": "ironic", "endpoints": _endpoint(service)},
            {"id": "identity", "type": "identity", "name": "keystone", "endpoints": _endpoint(own + "/v3")},
        ],
    }
    if "system" in scope:
        body["system"] = {"all": True}
    elif "domain" in scope:
        body["domain"] = _DOMAIN
    else:
        project = scope.get("project", {}).get("name") or name
        body["project"] = {"id": _stable(project), "name": project, "domain": _DOMAIN}
    return body


def server(address: tuple[str, int], service: str) -> ThreadingHTTPServer:
    """An identity service for `service`, not yet serving; port 0 takes a free one."""
    known: dict[str, dict[str, Any]] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for key, text in (headers or {}).items():
                self.send_header(key, text)
            self.end_headers()
            self.wfile.write(data)

        def _own(self) -> str:
            host, port = self.server.server_address[:2]
            return f"http://{host!s}:{port}"

        def do_GET(self) -> None:
            version = {
                "id": "v3.14",
                "status": "stable",
                "updated": "2020-04-07T00:00:00Z",
                "links": [{"rel": "self", "href": self._own() + "/v3/"}],
                "media-types": [],
            }
            if self.path.rstrip("/") == "/v3":
                self._answer(200, {"version": version})
            elif self.path == "/":
                self._answer(300, {"versions": {"values": [version]}})
            elif self.path.split("?")[0] == "/v3/auth/tokens":
                subject = self.headers.get("X-Subject-Token", "")
                found = known.get(subject)
                self._answer(404 if found is None else 200, {"token": found}, {"X-Subject-Token": subject})
            else:
                self._answer(200, {self.path.rstrip("/").rsplit("/", 1)[-1].split("?")[0]: []})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            body = token(asked.get("auth", {}), self._own(), service)
            made = uuid.uuid4().hex
            known[made] = body
            self._answer(201, {"token": body}, {"X-Subject-Token": made})

        def do_DELETE(self) -> None:
            self._answer(200, {})

    return ThreadingHTTPServer(address, Handler)


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    server((host, int(port)), sys.argv[2]).serve_forever()
