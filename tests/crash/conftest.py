"""The launcher that the crash tests start their daemons with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.crash.forge import Forge, forge


@pytest.fixture
async def smith() -> AsyncIterator[Forge]:
    """A launcher for one test."""
    async with forge() as running:
        yield running
