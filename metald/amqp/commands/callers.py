"""Who sends a command: the broker's user, with the roles that the operator gave it, or who a signed claim says.

RabbitMQ checks that the property `user_id` is the user of the connection that published. Rules: without a file of users
or keys every message is the administrator's, and the broker's own permissions say who may publish. With one, a message
needs a claim (see `claims`), or a `user_id`, and may do what the table of that user says:

    [ci]
    roles = ["admin"]
    system = true

    [tenant]
    roles = ["member"]
    project = "0b5a2c1e9f0d4c7c8d1b3f7f5a0e9a11"
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from metald.amqp.commands.claims import HEADER, Claim, Claims
from metald.config import Commands as Settings
from metald.config import ConfigError
from metald.errors import NotAllowed
from metald.model.caller import Caller


class Standing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user is: roles, for the whole system or for one project."""

    roles: tuple[str, ...] = ()
    system: bool = False
    project: str | None = None


class Callers:
    """The senders of commands.

    Args:
        settings: the files of users and of keys.

    Raises:
        ConfigError: a file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._claims = Claims(settings.keys) if settings.keys else None
        # with keys but no users, only claims let in
        self._users: dict[str, Standing] | None = {} if settings.keys else None
        path = settings.users
        if not path:
            return
        try:
            self._users = msgspec.convert(tomllib.loads(Path(path).read_text()), dict[str, Standing], strict=False)
        except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"amqp.commands.users: {path} cannot be used: {error}. Give a TOML file with a table for each user."
            ) from None

    def claim(self, token: Any) -> Claim | None:
        """The claim of a message; None if it makes none.

        Raises:
            NotAllowed: it does not hold, or none are taken here.
        """
        if token is None:
            return None
        if self._claims is None:
            raise NotAllowed("Claims are not taken here.", remedy="Set amqp.commands.keys to a file of keys.", field=HEADER)
        return self._claims.read(token)

    def of(self, user_id: str | None, request_id: str) -> Caller:
        """The sender of a message.

        Raises:
            NotAllowed: nobody says who sent it, or that user may send nothing.
        """
        if self._users is None:
            return Caller(user=user_id or "amqp", request_id=request_id)
        if not user_id:
            remedy = "Set the property user_id to your user on the broker." if self._users else f"Sign it, in the header {HEADER}."
            raise NotAllowed("The message does not say who sent it.", remedy=remedy, field="user_id")
        standing = self._users.get(user_id)
        if standing is None:
            raise NotAllowed(f"User {user_id[:80]!r} may not send commands.", remedy="amqp.commands.users names who may.", field="user_id")
        return Caller(user=user_id, request_id=request_id, roles=standing.roles, project=standing.project, system=standing.system)
