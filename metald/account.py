"""Gives root up: what is the daemon's own goes to an ordinary account, then the process becomes that account for good.

Rules: nothing outside the daemon's own places changes its owner, also where a link or a second name of a file leads there.
What the account could not use later is found now, while somebody looks at the start.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pwd
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from metald.config import ConfigError, Settings


def find(user: str) -> pwd.struct_passwd | None:
    """The account to become, or None when the process is not root's or is to stay so.

    Args:
        user: its name; empty means to stay.

    Raises:
        ConfigError: there is no such account.
    """
    if not user:
        return None
    try:
        account = pwd.getpwnam(user)
        return account if os.geteuid() == 0 else None
    except KeyError:
        raise ConfigError(f"user: there is no account {user!r} on this machine. Create it, or leave the setting empty.") from None


def become(account: pwd.struct_passwd) -> None:
    """Be this account in every thread (glibc's set*id calls are for the whole process); no capability is kept (capabilities(7))."""
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)


def hand_over(account: pwd.struct_passwd, places: Iterable[Path]) -> None:
    """Let the account own files, and folders with all that is in them. What does not exist is passed over."""
    for place in places:
        with contextlib.suppress(FileNotFoundError):
            _give(account, place.name, os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY))
        for _folder, folders, files, descriptor in os.fwalk(place, follow_symlinks=False) if place.is_dir() else ():
            for name in (*folders, *files):
                _give(account, name, os.dup(descriptor))


def _give(account: pwd.struct_passwd, name: str, folder: int) -> None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        # a second name may lie anywhere; who made it may not be the one who owns the file
        second_name = found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode)
        if (found.st_uid, found.st_gid) != (account.pw_uid, account.pw_gid) and not second_name:
            os.chown(name, account.pw_uid, account.pw_gid, dir_fd=folder, follow_symlinks=False)
    finally:
        os.close(folder)


def check(user: str, needs: Mapping[Path, tuple[str, int]]) -> None:
    """See that the account can work with its files.

    Args:
        user: for the text.
        needs: for each path the setting it comes from, and the mode of access(2); one that is missing is passed over.

    Raises:
        ConfigError: names what it cannot use, and the setting.
    """
    for path, (setting, mode) in needs.items():
        try:
            path.stat()
            good = os.access(path, mode)
        except FileNotFoundError:
            continue
        except PermissionError:
            good = False
        if not good:
            raise ConfigError(
                f"{setting}: account {user!r} cannot {_VERBS[mode]} {path}. Change its owner or mode, or those of a folder above it."
            )


_LOADED_LATER = ("asyncssh", "prometheus_client", "pycdlib", "pyghmi.ipmi.command", "regex")
"""What other daemons load when they first need it. Python may be installed where the account cannot read, below /root for instance."""

READ = os.R_OK
WRITE = os.R_OK | os.W_OK
ENTER = os.R_OK | os.W_OK | os.X_OK
_VERBS = {READ: "read", WRITE: "write", ENTER: "write in"}


def drop_root(settings: Settings, database: Path | None, images: Path) -> None:
    """Become the account of `user`, with all that is the daemon's own; every low port is bound by now.

    Raises:
        ConfigError: there is no such account, or it could not work.
    """
    found = find(settings.user)
    if found is None:
        return
    state_dir = Path(settings.state_dir)
    own = [state_dir, images]
    needs = {state_dir: ("state_dir", ENTER), images: ("images.cache_dir", ENTER)}
    if database is not None:
        own += [Path(f"{database}{ending}") for ending in ("", "-wal", "-shm", ".lock")]
        needs |= {database.parent: ("store.url", ENTER), database: ("store.url", WRITE)}
    for setting, text, mode in (
        ("dhcp.dnsmasq_hostsdir", settings.dhcp.dnsmasq_hostsdir, ENTER),
        ("dhcp.dnsmasq_optsdir", settings.dhcp.dnsmasq_optsdir, ENTER),
        ("api.htpasswd", settings.api.htpasswd, READ),
        ("api.users", settings.api.users, READ),
        ("amqp.commands.users", settings.amqp.commands.users, READ),
        ("amqp.commands.keys", settings.amqp.commands.keys, READ),
    ):
        if text:
            needs[Path(text)] = (setting, mode)
    hand_over(found, own)
    for module in _LOADED_LATER:
        importlib.import_module(module)
    become(found)
    check(settings.user, needs)
