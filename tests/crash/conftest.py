"""The launcher that the crash tests start their daemons with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.crash.forge import Forge, forge


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def smith() -> AsyncIterator[Forge]:
    """A launcher for the tests of a module."""
    async with forge() as running:
        yield running
