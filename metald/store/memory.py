"""The in-memory table of one kind: what every read of the daemon is answered from.

Rules: reads never wait and never copy a resource (resources are frozen); only the writer changes the table, and only
with what the database has already made durable; rows come in the order of insertion (`id`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar

from metald.model import Resource
from metald.store.kinds import Kind

R = TypeVar("R", bound=Resource)

_by_id = attrgetter("id")


class Memory(Generic[R]):
    """All rows of one kind, with a look-up for each unique and each indexed field."""

    __slots__ = ("_counted", "_fields", "_groups", "_rows", "_unique", "counts", "generation", "gone")

    def __init__(self, kind: Kind[R]) -> None:
        self.generation: int = 0
        """Grows with each installed change; equal numbers mean equal content."""
        self.counts: Counter[tuple[Any, ...]] = Counter()
        """How many rows there are of each combination of the fields that are counted."""
        self.gone: Callable[[R], None] | None = None
        """Is told of each row that leaves, as it was last."""
        self._counted = attrgetter(*kind.counted) if kind.counted else None
        self._rows: dict[str, R] = {}
        self._fields = (*kind.unique, *kind.indexed)
        # both lead to UUIDs, so that a row that keeps its values is replaced without touching them
        self._unique: dict[str, dict[Any, str]] = {field: {} for field in kind.unique}
        self._groups: dict[str, dict[Any, dict[str, None]]] = {field: {} for field in kind.indexed}

    def get(self, uuid: str) -> R | None:
        """The row with this UUID."""
        return self._rows.get(uuid)

    def by(self, field: str, value: Any) -> R | None:
        """The row whose unique `field` is `value`.

        Raises:
            KeyError: the field is not a unique one.
        """
        if field == "uuid":
            return self._rows.get(value)
        uuid = self._unique[field].get(value)
        return None if uuid is None else self._rows[uuid]

    def where(self, field: str, value: Any) -> list[R]:
        """The rows whose indexed `field` is `value`, in insertion order; `None` finds the rows that have none.

        Raises:
            KeyError: the field is not an indexed one.
        """
        group = self._groups[field].get(value)
        return sorted(map(self._rows.__getitem__, group), key=_by_id) if group else []

    def count(self, field: str, value: Any) -> int:
        """How many rows `where` would find.

        Raises:
            KeyError: the field is not an indexed one.
        """
        return len(self._groups[field].get(value) or ())

    def all(self) -> list[R]:
        """Every row, in insertion order."""
        return list(self._rows.values())

    def __iter__(self) -> Iterator[R]:
        """Every row, in insertion order. Do not await while iterating: use `all()` for that."""
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, uuid: object) -> bool:
        return uuid in self._rows

    def install(self, saved: Sequence[R], deleted: Sequence[str] = ()) -> None:
        """Show what has become durable. For the writer only.

        New rows must come in the order of their ids. All old unique values go before the new ones come, so that rows
        of one change may pass values on to each other.
        """
        self.generation += 1
        for uuid in deleted:
            row = self._rows.pop(uuid, None)
            if row is not None:
                self._forget(row)
                self._count(row, None)
                if self.gone is not None:
                    self.gone(row)
        moved: list[R] = []
        for row in saved:
            old = self._rows.get(row.uuid)
            if old is None:
                moved.append(row)
            elif any(getattr(old, field) != getattr(row, field) for field in self._fields):
                self._forget(old)
                moved.append(row)
            self._rows[row.uuid] = row
            self._count(old, row)
        for row in moved:
            self._remember(row)

    def _count(self, old: R | None, new: R | None) -> None:
        if self._counted is None:
            return
        before = self._counted(old) if old is not None else None
        after = self._counted(new) if new is not None else None
        if before == after:
            return
        if after is not None:
            self.counts[after] += 1
        if before is not None:
            self.counts[before] -= 1
            if not self.counts[before]:
                del self.counts[before]

    def _remember(self, row: R) -> None:
        for field, owners in self._unique.items():
            value = getattr(row, field)
            if value is not None:
                owners[value] = row.uuid
        for field, groups in self._groups.items():
            groups.setdefault(getattr(row, field), {})[row.uuid] = None

    def _forget(self, row: R) -> None:
        for field, owners in self._unique.items():
            owners.pop(getattr(row, field), None)
        for field, groups in self._groups.items():
            value = getattr(row, field)
            group = groups[value]
            del group[row.uuid]
            if not group:
                del groups[value]
