"""Ironic's notifications as its consumers get them: read by real oslo.messaging, and held to what Ironic's objects have in them.

`ironic_payloads.json` has the version of each payload and the type of each field, `?` where it may be null: facts of
ironic/objects/*.py, release 39. A test holds that list to Ironic itself where it is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.support.commanding import PATIENCE

IRONIC = Path(__file__).parents[2] / "build/ironic/bin/python"
"""Where `benchmarks/beside` puts Ironic."""
_TYPES: dict[str, Any] = {
    "Boolean": lambda value: type(value) is bool,
    "DateTime": lambda value: isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value),
    "FlexibleDict": lambda value: isinstance(value, dict),
    "Integer": lambda value: type(value) is int,
    "ListOfFlexibleDicts": lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
    "ListOfStrings": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "MACAddress": lambda value: isinstance(value, str) and re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", value),
    "String": lambda value: isinstance(value, str),
    "UUID": lambda value: isinstance(value, str) and re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value),
}


def payloads() -> dict[str, tuple[str, dict[str, str]]]:
    """Version and fields of each payload, as committed."""
    listed = json.loads((Path(__file__).parent / "ironic_payloads.json").read_text())
    return {
        name: (one["version"], (listed[one["also"]]["fields"] if "also" in one else {}) | one["fields"]) for name, one in listed.items()
    }


def hold(notices: list[dict[str, Any]]) -> None:
    """Hold notifications to the list: every field, and no other, each of its type."""
    known = payloads()
    for notice in notices:
        payload = notice["payload"]
        version, fields = known[payload["ironic_object.name"]]
        data = payload["ironic_object.data"]
        assert payload["ironic_object.version"] == version
        assert payload["ironic_object.namespace"] == "ironic"
        assert sorted(data) == sorted(fields)
        for field, kind in fields.items():
            value = data[field]
            good = kind.endswith("?") if value is None else _TYPES[kind.removesuffix("?")](value)
            assert good, f"{notice['event_type']}: {field} is {value!r}, Ironic's {payload['ironic_object.name']} has {kind} there"
        assert notice["priority"] == ("ERROR" if notice["event_type"].endswith(".error") else "INFO")
        service = "api" if re.search(r"\.(create|update|delete|maintenance_set)\.", notice["event_type"]) else "conductor"
        assert notice["publisher_id"].startswith(f"ironic-{service}."), notice


_AGAIN = """
import importlib, json, sys
from ironic.objects import base
for name in "node port portgroup chassis allocation deploy_template runbook volume_connector volume_target inspection_rule".split():
    importlib.import_module("ironic.objects." + name)
for line in sys.stdin:
    ours = json.loads(line)
    kind = base.IronicObject.obj_class_from_name(ours["ironic_object.name"], ours["ironic_object.version"])
    theirs = kind.__new__(kind)  # its own constructor wants rows of Ironic's database
    base.IronicObject.__init__(theirs)
    for name, value in ours["ironic_object.data"].items():
        setattr(theirs, name, kind.fields[name].from_primitive(theirs, name, value))
    theirs.obj_reset_changes()
    print(json.dumps(theirs.obj_to_primitive()))
"""


def through_ironic(notices: list[dict[str, Any]]) -> None:
    """Have Ironic make its objects of payloads, and write them again: they come back as they went in."""
    lines = "".join(json.dumps(notice["payload"]) + "\n" for notice in notices)
    done = subprocess.run([IRONIC, "-W", "ignore", "-c", _AGAIN], input=lines, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for notice, line in zip(notices, done.stdout.splitlines(), strict=True):
        assert json.loads(line) == notice["payload"], notice["event_type"]


class Listener:
    """A consumer in a process of its own. Use `listening`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.got: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        """The next line that it prints."""
        assert self._process.stdout is not None
        line: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return line

    async def until(self, *last: str, count: int = 0) -> None:
        """Read until each of these event types, without `baremetal.`, has been seen, and so many notifications."""
        async with asyncio.timeout(PATIENCE):
            while len(self.got) < count or not {f"baremetal.{one}" for one in last} <= {one["event_type"] for one in self.got}:
                self.got.append(await self.next())
        # oslo.messaging hands each to a thread of its own, in no certain order
        self.got.sort(key=lambda one: (one["metadata"]["timestamp"], one["metadata"]["message_id"][-2:]))

    def of(self, event_type: str) -> list[dict[str, Any]]:
        """The data of those of a type, without `baremetal.`."""
        return [one["payload"]["ironic_object.data"] for one in self.got if one["event_type"] == f"baremetal.{event_type}"]


@contextlib.asynccontextmanager
async def listening(url: str, *, durable: bool = False) -> AsyncIterator[Listener]:
    """Listen on a broker; ready when entered."""
    more = ["--durable"] if durable else []
    command = (sys.executable, "-W", "ignore", "-m", "tests.support.oslo_listener", url.replace("amqp://", "rabbit://"), *more)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, limit=1 << 20
    )
    try:
        listener = Listener(process)
        async with asyncio.timeout(PATIENCE):
            await listener.next()
        yield listener
    finally:
        process.kill()
        await process.wait()
