"""One image over HTTP, into a sink.

A broken transfer goes on where it stopped as long as the server proves that the resource is the same (`If-Range`), also in a later
process. A server that sends a byte now and then is as silent as one that sends none.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import aiohttp

from metald.images.request import ImageRequest
from metald.images.sink import Sink
from metald.images.sources import CHUNK, REDIRECTS, Meter, Progress, Room, check_status, client, proxy_for, tried

_LEAST_RATE = 1024.0
"""Bytes a second, over the time in which a byte must come, below which a transfer counts as broken."""


class Download:
    """See the module.

    Args:
        request: which image; its URL is an HTTP URL.
        notes: a file beside the partial one that remembers what the server said of the resource.
        timeout: seconds without a byte.
        room: called with the size as soon as it is known, or with what has come so far.
        show: told of the progress.
    """

    def __init__(self, request: ImageRequest, sink: Sink, notes: Path, timeout: float, room: Room, show: Progress) -> None:
        self._request = request
        self._sink = sink
        self._notes = notes
        self._timeout = timeout
        self._room = room
        self._meter = Meter(show, "Downloading the image")
        self._validator = ""
        self._resumed = False

    async def run(self) -> bool:
        """Fetch all of it. Returns whether what is in the sink came in more than one piece.

        Raises:
            ImageError: the server refused, went silent, or could not be reached in four tries.
        """
        self._validator = await asyncio.to_thread(self._remembered)
        await asyncio.to_thread(self._sink.open, resume=bool(self._validator))
        async with client(self._timeout) as session:
            await tried(self._request.shown, self._timeout, lambda: self._try(session))
        return self._resumed

    async def _try(self, session: aiohttp.ClientSession) -> None:
        headers = {"Accept-Encoding": "identity"}
        if self._request.authorization:
            headers["Authorization"] = self._request.authorization
        if self._sink.size and self._validator:
            headers |= {"Range": f"bytes={self._sink.size}-", "If-Range": self._validator}
        url, proxy = self._request.url, proxy_for(self._request.url, self._request)
        async with session.get(url, headers=headers, max_redirects=REDIRECTS, proxy=proxy) as response:
            if response.status == 416 and self._sink.size:
                self._resumed = True
                return  # there is nothing behind what we have
            check_status(response, self._request.shown)
            if response.status == 206 and _continues(response, self._sink.size):
                self._resumed = True
            else:
                await asyncio.to_thread(self._sink.restart)
                self._resumed = False
            length = response.content_length
            self._meter.total = self._sink.size + length if length is not None else None
            await self._room(self._meter.total or 0)
            self._validator = _validator(response)
            await asyncio.to_thread(self._remember)
            await self._receive(response)
        if self._meter.total is not None and self._sink.size != self._meter.total:
            raise aiohttp.ClientPayloadError("the connection was closed early")

    async def _receive(self, response: aiohttp.ClientResponse) -> None:
        gathered = bytearray()
        begun, had = time.monotonic(), 0
        try:
            async for chunk in response.content.iter_any():
                gathered += chunk
                had += len(chunk)
                if time.monotonic() - begun >= self._timeout:
                    if had < _LEAST_RATE * self._timeout:
                        raise aiohttp.ClientPayloadError(f"only {had} bytes came in {self._timeout:g} seconds")
                    begun, had = time.monotonic(), 0
                if len(gathered) >= CHUNK:
                    taken, gathered = gathered, bytearray()
                    await self._store(taken)
        finally:
            if gathered:
                await self._store(gathered)

    async def _store(self, data: bytearray) -> None:
        await asyncio.to_thread(self._sink.write, data)
        if self._meter.total is None:
            await self._room(self._sink.size)
        self._meter.at(self._sink.size)

    def _remember(self) -> None:
        self._notes.write_text(json.dumps({"url": self._request.url, "validator": self._validator}))

    def _remembered(self) -> str:
        try:
            notes = json.loads(self._notes.read_text())
        except (OSError, ValueError):
            return ""
        same = isinstance(notes, dict) and notes.get("url") == self._request.url
        return str(notes.get("validator") or "") if same else ""


def _validator(response: aiohttp.ClientResponse) -> str:
    """What proves later that the resource is the same: a strong ETag, else the time it was changed (RFC 9110, 13.1.5)."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _continues(response: aiohttp.ClientResponse, at: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {at}-")
