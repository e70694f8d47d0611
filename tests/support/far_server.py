"""Somebody else's HTTP server, with all its faults: slow, short, changed, gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import web


class FarServer:
    """A running server.

    Attributes:
        files: what it has, by name.
        etags: versions of its files; those without one have no validators.
        asked: paths that were asked for, in order; `conditions` the headers If-None-Match and If-Modified-Since that came with them.
        hold: when not set, bodies stop half-way until it is.
        short: names whose bodies end early.
        unsized: names that are sent without a length.
        status: what it answers with instead, when not 200.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.etags: dict[str, str] = {}
        self.asked: list[str] = []
        self.conditions: list[str | None] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.half = asyncio.Event()
        self.short: set[str] = set()
        self.unsized: set[str] = set()
        self.status = 200
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.asked.append(request.path)
        self.conditions.append(request.headers.get("If-None-Match") or request.headers.get("If-Modified-Since"))
        if self.status != 200 or name not in self.files:
            return web.Response(status=self.status if self.status != 200 else 404)
        etag = self.etags.get(name)
        if etag and request.headers.get("If-None-Match") == etag:
            return web.Response(status=304)
        data = self.files[name]
        response = web.StreamResponse(headers={"ETag": etag} if etag else {})
        if name in self.unsized:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        self.half.set()
        await self.hold.wait()
        if name in self.short:
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(data[len(data) // 2 :])
        return response


@asynccontextmanager
async def far_server(files: Mapping[str, bytes]) -> AsyncIterator[FarServer]:
    """Run one on a free port."""
    server = FarServer(files)
    app = web.Application()
    app.router.add_get("/{name:.+}", server.answer)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        server.hold.set()
        await runner.cleanup()
