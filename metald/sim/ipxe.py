"""The part of iPXE that metald's boot scripts use, as a simulated machine's firmware.

A script is run for real: it is fetched, its settings are expanded, its labels, conditions and retries are obeyed, its
kernel and initrd are loaded. So a script that a real machine could not follow leads a simulated one nowhere too.

Rules: no sockets and no clock of its own (`fetch` and `pause` come from the machine). A command that fails ends the
script unless `||` follows it, as in iPXE.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

Fetch = Callable[[str], Awaitable[bytes]]
"""Load a URL; raises `LoadError`."""
Load = Callable[[str], Awaitable[int]]
"""Load a kernel or initrd, whose bytes nobody looks at; returns how many there were, raises `LoadError`."""
Pause = Callable[[float], Awaitable[None]]
"""Let so many seconds of the machine's time pass."""

_SETTING = re.compile(r"\$\{([^}]*)\}")
_JOIN = re.compile(r"\s(\|\||&&)(?:\s|$)")
_MOST_STEPS = 10_000


class LoadError(Exception):
    """A file could not be loaded."""


class ScriptError(Exception):
    """A script holds what this iPXE does not know; the test that sees it has found a defect on one of the two sides."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The script ended by starting a kernel."""

    command_line: str
    loaded: int
    """Bytes of kernel and initrd."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The script ended by booting the first disk."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The script ended, or could not be loaded; the firmware goes on with the next boot device."""


@dataclass(frozen=True, slots=True)
class Restart:
    """The script ended by restarting the machine."""


End = Kernel | Disk | Leave | Restart
_ENDS: Mapping[str, End] = MappingProxyType({"sanboot": Disk(), "exit": Leave(), "reboot": Restart()})


class _Ended(Exception):
    """No error: how a script's end leaves its nested commands."""

    def __init__(self, end: End) -> None:
        super().__init__(end)
        self.end = end


class _Failed(Exception):
    """A command's failure, which scripts handle."""


class Ipxe:
    """One start of iPXE.

    Args:
        macs: addresses of the machine's cards; the first is the one it boots by.
        fetch: loads files.
        load: loads kernels and initrds; by default `fetch` does.
        pause: waits.
        platform: `pcbios` or `efi`.
    """

    def __init__(self, macs: Sequence[str], fetch: Fetch, pause: Pause, *, platform: str = "pcbios", load: Load | None = None) -> None:
        self._fetch = fetch
        self._load_image = load
        self._pause = pause
        self._settings = {"platform": platform, "uuid": "00000000-0000-0000-0000-000000000000", "serial": "simulated"}
        for number, mac in enumerate(macs):
            self._settings[f"net{number}/mac:hexhyp"] = mac.replace(":", "-")
        self._settings["netX/mac:hexhyp"] = self._settings["net0/mac:hexhyp"]
        self._command_line: str | None = None
        self._loaded = 0
        self._lines: list[str] = []
        self._at = 0

    async def run(self, url: str) -> End:
        """Load the script at `url` and follow it to its end."""
        try:
            await self._load(url)
            for _ in range(_MOST_STEPS):
                if self._at >= len(self._lines):
                    return Leave()
                line = self._lines[self._at]
                self._at += 1
                await self._line(line)
        except _Ended as ended:
            return ended.end
        except (_Failed, LoadError):
            return Leave()
        raise ScriptError(f"the script at {url} does not end")

    async def _load(self, url: str) -> None:
        text = (await self._fetch(url)).decode()
        if not text.startswith("#!ipxe"):
            raise _Failed
        self._lines = [line.strip() for line in text.splitlines()[1:]]
        self._at = 0

    async def _line(self, line: str) -> None:
        """One line: commands joined by `||` and `&&`, from the left."""
        if not line or line.startswith(("#", ":")):
            return
        pieces = _JOIN.split(line)
        good = await self._try(pieces[0])
        for join, command in zip(pieces[1::2], pieces[2::2], strict=True):
            if (join == "&&") is good:
                good = await self._try(command)
        if not good:
            raise _Failed

    async def _try(self, text: str) -> bool:
        words = _SETTING.sub(lambda found: self._settings.get(found[1], ""), text).split()
        if not words:
            return True
        try:
            await self._command(words[0], words[1:])
        except (_Failed, LoadError):
            return False
        return True

    async def _command(self, name: str, arguments: list[str]) -> None:
        words = [word for word in arguments if not word.startswith("--")]
        match name, words:
            case "echo", _:
                pass
            case "set", [setting, *value]:
                self._settings[setting.partition(":")[0]] = " ".join(value)
            case "inc", [setting]:
                self._settings[setting] = str(int(self._settings.get(setting) or 0) + 1)
            case "iseq", _:
                if len(words) != 2 or words[0] != words[1]:
                    raise _Failed
            case "goto", [label]:
                self._at = self._lines.index(f":{label}")
            case "sleep", [seconds]:
                await self._pause(float(seconds))
            case "prompt", _:
                await self._pause(int(arguments[arguments.index("--timeout") + 1]) / 1000)
                raise _Failed  # nobody pressed a key
            case (("chain" | "kernel" | "initrd" | "imgfree"), _):
                await self._image(name, arguments)
            case (("boot" | "sanboot" | "exit" | "reboot"), _):
                self._end(name)
            case _:
                raise ScriptError(f"iPXE command {name!r} {words} is not simulated")

    async def _image(self, name: str, arguments: list[str]) -> None:
        while arguments and arguments[0].startswith("--"):
            arguments = arguments[2 if arguments[0] == "--name" else 1 :]
        if name == "imgfree":
            self._command_line, self._loaded = None, 0
        elif name == "chain":
            await self._load(arguments[0])
        else:
            load = self._load_image
            self._loaded += await load(arguments[0]) if load else len(await self._fetch(arguments[0]))
            if name == "kernel":
                self._command_line = " ".join(arguments[1:])

    def _end(self, name: str) -> None:
        if name == "boot":
            if self._command_line is None:
                raise _Failed
            raise _Ended(Kernel(self._command_line, self._loaded))
        raise _Ended(_ENDS[name])
