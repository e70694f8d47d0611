"""An API over fake-hardware for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.api import Api, serving


@pytest_asyncio.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A served API with nothing in it."""
    async with serving(tmp_path) as served:
        yield served
