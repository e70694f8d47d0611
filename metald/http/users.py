"""The users of http_basic: their bcrypt hashes, and what each of them may do.

Two files. The first is htpasswd's: `user:hash` lines. The second is TOML and may be left away, as Ironic has none: without
it every user is the system's administrator. With it a user is what its table says, and who has none may do nothing:

    [alice]
    roles = ["admin"]
    system = true

    [bob]
    roles = ["member"]
    project = "0b5a2c1e9f0d4c7c8d1b3f7f5a0e9a11"

Rules: a look at a file is a stat; it is read in a thread, when it has changed. A broken or missing file lets nobody in.
"""

from __future__ import annotations

import asyncio
import logging
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from metald.config import ConfigError

_log = logging.getLogger(__name__)

_HASH = re.compile(rb"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_Stamp = tuple[tuple[int, int, int], ...]


class Standing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user is: roles, for the whole system or for one project."""

    roles: tuple[str, ...] = ()
    system: bool = False
    project: str | None = None


ADMINISTRATOR = Standing(roles=("admin",), system=True)
NOBODY = Standing()


class Users:
    """Both files, read again when one has changed.

    Args:
        passwords: the file of hashes.
        standings: the file of roles; None where every user is an administrator.

    Raises:
        ConfigError: a file cannot be read, or a line is wrong.
    """

    def __init__(self, passwords: Path, standings: Path | None) -> None:
        self._passwords = passwords
        self._standings = standings
        self._reading = asyncio.Lock()
        self.generation = 0
        """Grows with each change: what was found out about users before it is worth nothing."""
        self._stamp, self._hashes, self._known = self._load()

    def hashed(self, user: str) -> bytes | None:
        """The hash of a user's password."""
        return self._hashes.get(user)

    def costliest(self) -> bytes | None:
        """The hash that takes the most work."""
        return max(self._hashes.values(), key=_cost, default=None)

    def standing(self, user: str) -> Standing:
        """What a user is."""
        return ADMINISTRATOR if self._known is None else self._known.get(user, NOBODY)

    async def refresh(self) -> None:
        """Read the files again if one has changed."""
        if self._look() == self._stamp:
            return
        async with self._reading:
            if self._look() == self._stamp:
                return
            try:
                self._stamp, self._hashes, self._known = await asyncio.to_thread(self._load)
            except ConfigError as error:
                if self._stamp:
                    _log.error("nobody can log in until this is mended: %s", error)
                self._stamp, self._hashes, self._known = (), {}, {}
            self.generation += 1

    def _look(self) -> _Stamp | None:
        """The files' marks of change, None when one is gone."""
        try:
            return tuple(_mark(path) for path in (self._passwords, self._standings) if path is not None)
        except OSError:
            return None

    def _load(self) -> tuple[_Stamp, dict[str, bytes], dict[str, Standing] | None]:
        path = self._passwords
        try:
            marks = [_mark(path)]
            lines = path.read_bytes().splitlines()
            known = None
            if self._standings is not None:
                path = self._standings
                marks.append(_mark(path))
                known = _read_standings(path, path.read_bytes())
        except OSError as error:
            name = "htpasswd" if path is self._passwords else "users"
            raise ConfigError(f"api.{name}: {path} cannot be read ({error.strerror}). Give the file of users.") from None
        return tuple(marks), _read_hashes(self._passwords, lines), known


def _mark(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _read_hashes(path: Path, lines: list[bytes]) -> dict[str, bytes]:
    users: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        user, colon, hashed = line.strip().partition(b":")
        if not line.strip() or line.startswith(b"#"):
            continue
        if not colon or _HASH.fullmatch(hashed) is None:
            raise ConfigError(f"api.htpasswd: {path} line {number} is not user:bcrypt-hash. Make it with htpasswd -B.")
        users[user.decode(errors="replace")] = hashed
    return users


def _read_standings(path: Path, text: bytes) -> dict[str, Standing]:
    try:
        found: Mapping[str, Standing] = msgspec.convert(tomllib.loads(text.decode()), dict[str, Standing])
    except (ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"api.users: {path}: {error}. Each user is a table with roles, and with system = true or project.") from None
    for user, standing in found.items():
        if standing.system == (standing.project is not None) or standing.project == "":
            raise ConfigError(f"api.users: {path}: {user} needs either system = true or a project, not both.")
    return dict(found)


def _cost(hashed: bytes) -> bytes:
    """The two digits after the version: each step doubles the work."""
    return hashed[4:6]
