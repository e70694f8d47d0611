"""By what metald proves itself to a hypervisor host, and the host to metald. Nothing is ever trusted that was not given beforehand."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from metald.drivers.ssh_host.info import HostInfo
from metald.errors import HostAuthFailed

if TYPE_CHECKING:
    import asyncssh

_MOST_KEY: Final = 64 << 10


async def keys(info: HostInfo) -> list[asyncssh.SSHKey] | None:
    """The private keys to log in with; None where a password does.

    Raises:
        HostAuthFailed: the key cannot be read or used.
    """
    import asyncssh

    if info.password is not None:
        return None
    try:
        text = info.key if info.key is not None else await asyncio.to_thread(_read_key, Path(info.key_file or ""))
        return [asyncssh.import_private_key(text)]
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError):
        problem = "is no private key without passphrase"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or 'it is no file of a key'}"
    raise HostAuthFailed(f"The key for {info.label} in driver_info {info.secret_key} {problem}.", remedy="Correct it.")


async def trusted(info: HostInfo, path: str) -> Any:
    """The keys by which the host may prove itself, as asyncssh takes them: those of the node, else those in the file at `path`.

    Raises:
        HostAuthFailed: the file cannot be read.
    """
    import asyncssh

    if info.host_keys:
        return [asyncssh.import_public_key(key) for key in info.host_keys], [], []
    try:
        return await asyncio.to_thread(asyncssh.read_known_hosts, path)
    except FileNotFoundError:
        return [], [], []
    except (OSError, ValueError) as error:
        raise HostAuthFailed(f"drivers.ssh_host.known_hosts: {path} cannot be read: {error}.", remedy="Correct that file.") from None


def _read_key(path: Path) -> str:
    """A file's text; a device, a pipe or a large file is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_KEY:
            raise OSError
        return file.read(_MOST_KEY).decode("utf-8", "strict")
