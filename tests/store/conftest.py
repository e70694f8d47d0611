"""Every test that takes `place` or `store` runs on SQLite and on a private PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from metald.config import StoreSettings
from metald.store.store import Store
from tests.support.postgres import PrivatePostgres, available, private_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[PrivatePostgres]:
    if not available():
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    yield from private_postgres()


@dataclass(frozen=True)
class Place:
    """Where a store of one test is; opening it again finds what was there."""

    settings: StoreSettings
    state_dir: Path

    async def open(self, **changes: Any) -> Store:
        return await Store.open(self.settings if not changes else self.with_settings(**changes).settings, self.state_dir)

    def with_settings(self, **changes: Any) -> Place:
        values = {name: getattr(self.settings, name) for name in self.settings.__struct_fields__} | changes
        return replace(self, settings=StoreSettings(**values))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(StoreSettings(timeout=5.0), tmp_path / "state")
    server: PrivatePostgres = request.getfixturevalue("postgres")
    return Place(StoreSettings(url=server.url(server.fresh_database()), timeout=5.0), tmp_path / "state")


@pytest_asyncio.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = await place.open()
    yield store
    await store.close()
