"""A ride: one row goes with the first change that succeeds, and with no other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from metald.config import StoreSettings
from metald.errors import Duplicate
from metald.model import Chassis, Event, Node
from metald.store.changes import Change
from metald.store.ride import riding
from metald.store.store import Store


async def test_the_row_goes_with_the_first_change_that_succeeds(tmp_path: Path) -> None:
    store = await Store.open(StoreSettings(), tmp_path)
    try:
        await store.commit(Change(save=[Node(name="taken", driver="d")]))
        with riding(lambda change: Chassis(description=f"{len(change.save)} rows")) as ride:
            with pytest.raises(Duplicate):
                await store.commit(Change(save=[Node(name="taken", driver="d")]))
            assert ride.done is None
            assert list(store.table(Chassis)) == []
            committed = await store.commit(Change(save=[Node(name="free", driver="d")], events=[Event(type="t")]))
            assert [type(row) for row in committed.saved] == [Node], "who commits does not see the row"
            assert len(committed.events) == 1
            await store.commit(Change(save=[Node(name="later", driver="d")]))
        assert [row.description for row in store.table(Chassis)] == ["1 rows"]
        assert ride.done == store.table(Chassis).all()[0]
    finally:
        await store.close()


async def test_what_goes_on_by_itself_carries_nothing(tmp_path: Path) -> None:
    store = await Store.open(StoreSettings(), tmp_path)
    try:
        with riding(lambda _change: Chassis()) as ride:
            begun = asyncio.Event()

            async def later() -> None:
                await begun.wait()
                await store.commit(Change(save=[Node(name="n", driver="d")]))

            task = asyncio.create_task(later())
        begun.set()
        await task
        assert ride.done is None
        assert list(store.table(Chassis)) == []
    finally:
        await store.close()
