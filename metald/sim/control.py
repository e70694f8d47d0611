"""The control API of a simulated fleet: what there is to see, and faults and power by hand.

    GET  /                          the fleet: how many, what they do, since when
    GET  /ledger                    every effect, added up over all machines
    GET  /nodes                     name, BMC, addresses, power and what runs, of each
    GET  /nodes/{name}              counters, faults and story of one
    POST /nodes/{name}/power        {"power": "on"|"off"}: behind the BMC's back
    POST /faults                    {"nodes": "10%"|"all"|NAME, "fault": {"dead": true}, "seconds": 20}
    GET  /events?since=N            the story from its Nth line on
    GET  /image.raw                 a small bootable image

Rules: the control API listens on a loopback address. A wrong call is answered with 400 and what is allowed.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from aiohttp import web

from metald.sim.fate import FaultError
from metald.sim.story import Story

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

IMAGE_SIZE: Final = 1 << 20


def image(size: int = IMAGE_SIZE) -> bytes:
    """A raw disk image that a BIOS takes for bootable: boot code, one Linux partition, the rest the same in every run."""
    entry = struct.pack("<B3sB3sII", 0x80, b"\0\2\0", 0x83, b"\xff\xff\xff", 128, max(1, size // 512 - 128))
    sector = b"\xeb\x63".ljust(446, b"\x90") + entry.ljust(64, b"\0") + b"\x55\xaa"
    return sector + hashlib.shake_128(b"metald").digest(size - len(sector))


class Controlled(Protocol):
    """What the control API shows and changes."""

    story: Story

    def state(self) -> dict[str, Any]:
        """The fleet as a whole."""
        ...

    def ledger(self) -> dict[str, int]:
        """Every counter, added up."""
        ...

    def listed(self) -> list[dict[str, Any]]:
        """One line for each machine."""
        ...

    def shown(self, name: str) -> dict[str, Any]:
        """One machine. Raises KeyError."""
        ...

    def power(self, name: str, on: bool) -> None:
        """Change a machine's power behind the BMC's back. Raises KeyError."""
        ...

    def inject(self, nodes: str, fault: Mapping[str, Any], seconds: float = 0.0) -> int:
        """Let some machines have a fault now. Raises FaultError."""
        ...


class ControlServer:
    """The control API.

    Args:
        fleet: what is controlled.
        size: bytes of the image that it serves.
    """

    def __init__(self, fleet: Controlled, size: int = IMAGE_SIZE) -> None:
        self._fleet = fleet
        self._image = image(size)
        self._runner: web.AppRunner | None = None
        self.url = ""
        self.image_sha256 = hashlib.sha256(self._image).hexdigest()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; `url` then says where."""
        app = web.Application(middlewares=[_told])
        get = app.router.add_get
        get("/", self._state)
        get("/ledger", self._ledger)
        get("/nodes", self._nodes)
        get("/nodes/{name}", self._node)
        get("/events", self._events)
        get("/image.raw", self._raw)
        app.router.add_post("/faults", self._faults)
        app.router.add_post("/nodes/{name}/power", self._power)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound = self._runner.addresses[0]
        self.url = f"http://{bound[0]}:{bound[1]}"

    async def close(self) -> None:
        """End."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _state(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self._fleet.state())

    async def _ledger(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self._fleet.ledger())

    async def _nodes(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"nodes": self._fleet.listed()})

    async def _node(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._fleet.shown(request.match_info["name"]))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        lines, after = self._fleet.story.since(int(request.query.get("since", "0")))
        return web.json_response({"events": lines, "next": after})

    async def _raw(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self._image, content_type="application/octet-stream")

    async def _faults(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        struck = self._fleet.inject(str(body.get("nodes", "all")), body["fault"], float(body.get("seconds", 0)))
        return web.json_response({"nodes": struck})

    async def _power(self, request: web.Request) -> web.StreamResponse:
        wanted = (await request.json())["power"]
        if wanted not in ("on", "off"):
            raise FaultError('power must be "on" or "off".')
        self._fleet.power(request.match_info["name"], wanted == "on")
        return web.json_response({"power": wanted})


@web.middleware
async def _told(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Turn what cannot be done into an answer that says why."""
    try:
        return await handler(request)
    except FaultError as error:
        return web.json_response({"error": str(error)}, status=400)
    except json.JSONDecodeError:
        return web.json_response({"error": "The body must be JSON."}, status=400)
    except KeyError as error:
        known = "name" in request.match_info
        text = "There is no such machine." if known else f"The body lacks {error}."
        return web.json_response({"error": text}, status=404 if known else 400)
    except (ValueError, TypeError, AttributeError) as error:
        return web.json_response({"error": str(error)}, status=400)
