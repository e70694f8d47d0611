"""Conditional requests (RFC 9110 section 13) and `Prefer: wait` (RFC 7240): entity tags, If-None-Match, If-Match.

An entity tag is `"what-how"`. *What* names the state that is shown: id and version of a resource, or the generations of the
tables that a list is made of. *How* names the form: microversion, base of links, arguments, the release, and who asks, as far
as that decides what may be seen. Neither costs a look at the body. If-Match compares only *what*, so that a tag from any
microversion guards a change.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable

import msgspec

from metald import __version__
from metald.errors import Invalid, PreconditionFailed
from metald.http import sight
from metald.http.call import Call
from metald.model import Node, Resource

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_LIST = re.compile(r'\s*(?:(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*(?:,\s*)*)+')
_WAIT = re.compile(r"""(?:^|[,;\s])wait\s*=\s*"?([0-9]{1,9})"?(?=[,;\s]|$)""", re.IGNORECASE)
_MOST_FORMS = 4096
_LONGEST = 8192

Stamp = Callable[[Call], str]
"""Names the state that an answer shows; raises what the handler would raise for a thing that is not there."""


def stamp_of(thing: Resource) -> str:
    """The state of one resource. Ids and versions are never used twice, so it holds across restarts too."""
    return f"{thing.id:x}.{thing.version:x}"


def stamp_of_bytes(body: bytes) -> str:
    """The state of what has no version of its own."""
    return hashlib.blake2b(body, digest_size=9).hexdigest()


class Tables:
    """Stamps of lists: the generations of the tables that they are made of, in this run of the daemon."""

    _run = os.urandom(4).hex()

    def __init__(self, *kinds: type[Resource]) -> None:
        self._kinds = kinds

    def __call__(self, call: Call) -> str:
        """See `Stamp`."""
        table = call.services.store.table
        # What a project sees of other things hangs on the owners of their nodes.
        kinds: tuple[type[Resource], ...] = self._kinds if sight.everything(call) else (*self._kinds, Node)
        return ".".join((self._run, *(f"{table(kind).generation:x}" for kind in kinds)))


class Forms:
    """The second half of tags, remembered for requests that come again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], str] = {}

    def tag(self, call: Call, query: str, stamp: str) -> str:
        """The entity tag of the answer to a request."""
        key = (str(call.version), call.base, query, call.route.path, *call.path.values(), _viewer(call))
        form = self._known.get(key)
        if form is None:
            if len(self._known) >= _MOST_FORMS:
                self._known.clear()
            form = self._known[key] = hashlib.blake2b("\0".join((__version__, *key)).encode(), digest_size=6).hexdigest()
        return f'"{stamp}-{form}"'


def _viewer(call: Call) -> str:
    return repr(msgspec.structs.replace(call.caller, request_id=None))


def unchanged(call: Call, tag: str) -> bool:
    """Whether the client has what `tag` names already (If-None-Match, by the weak comparison)."""
    given = call.headers.get("If-None-Match")
    return given is not None and (given.strip() == "*" or any(f'"{opaque}"' == tag for _, opaque in _TAG.findall(given[:_LONGEST])))


def expect(call: Call, thing: Resource) -> None:
    """Refuse a change of a thing that is not as the client saw it (If-Match, by the strong comparison).

    Raises:
        Invalid: the header is no list of entity tags.
        PreconditionFailed: the thing has changed.
    """
    given = call.headers.get("If-Match")
    if given is None or given.strip() == "*":
        return
    if len(given) > _LONGEST or _LIST.fullmatch(given) is None:
        raise Invalid(
            "If-Match is not a list of entity tags", remedy='Send the ETag of a GET as it came, with its quotes, or "*".', field="If-Match"
        )
    stamp = stamp_of(thing)
    if not any(not weak and opaque.partition("-")[0] == stamp for weak, opaque in _TAG.findall(given)):
        raise PreconditionFailed(
            f"{type(thing).__name__} {thing.uuid} is not what If-Match names: it has changed since.",
            remedy="Get it again, look at what changed, and repeat the change with the new ETag.",
            field="If-Match",
        )


def preferred_wait(call: Call) -> int | None:
    """The seconds that the client would wait for an answer (`Prefer: wait=30`); None when it does not say."""
    found = _WAIT.search(call.headers.get("Prefer", "")[:_LONGEST])
    return int(found[1]) if found else None
