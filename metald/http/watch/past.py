"""The past of the sequence as watchers and histories read it: page by page, each of them small, and nothing missed in silence.

Rules: a page is bounded in bytes, so that who reads slowly holds little; who reads for one node alone is led by the index of
the nodes. A place that cannot be gone on from is said: 410 to who asked for it.
"""

from __future__ import annotations

from metald.errors import Purged
from metald.http.watch.filters import Filter
from metald.store.queries import Page
from metald.store.store import Store

REMEDY = "Take a snapshot (?snapshot=true) and follow from there; store.event_retention_days says how long events are kept."


async def read(store: Store, wanted: Filter, since: int, *, limit: int, size: int) -> Page:
    """Events after a number, among which are all that the filter takes, up to `Page.end`; see `Store.page`.

    Raises:
        Unavailable: the database cannot be used now.
    """
    node = next(iter(wanted.nodes)) if len(wanted.nodes) == 1 else None
    return await store.page(since=since, node_uuid=node, limit=limit, size=size)


def check(page: Page, since: int) -> None:
    """Let nobody go on from where it cannot be gone on from. 0 is the beginning, wherever that is.

    Raises:
        Purged: events after `since` are not kept any more, or it is a number that no event has had yet.
    """
    following = page.gap(since) if since else None
    if following is None:
        return
    if since > page.last:
        text = f"No event has the number {since}: the newest is {page.last}. The database was restored from a backup, or is another."
    else:
        text = f"Events after {since} are not kept any more; the next is {following}."
    raise Purged(text, remedy=REMEDY, field="since")
