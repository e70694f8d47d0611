"""What the demo needs before it starts and keeps for the next time: ramdisk, image and key, in build/.

Each is made anew when the code that makes it has changed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.image import build_tiny_image
from lab.process import LabError, run
from metald.ramdisk.agent import build_agent
from metald.ramdisk.build import build
from metald.ramdisk.packages import BuildError
from metald.ramdisk.recipe import Recipe

_ROOT = Path(__file__).parent.parent
BUILD = _ROOT / "build"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was made.

    Attributes:
        ramdisk: directory with `kernel` and `initramfs`.
        image: raw disk image of a small operating system that knows no key but those of its config drive.
        sha512: of the image.
        key: private SSH key; the public one is beside it.
    """

    ramdisk: Path
    image: Path
    sha512: str
    key: Path

    @property
    def public_key(self) -> str:
        """The line for `authorized_keys`."""
        return self.key.with_suffix(".pub").read_text().strip()


def _digest(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def sources(*places: Path) -> list[Path]:
    """The files at and below some places."""
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place])]
    return [file for file in files if file.is_file() and "__pycache__" not in file.parts]


def make(what: str, made: Path, recipe: list[Path], work: Callable[[], object], say: Say) -> None:
    """Make something unless it is there and the files of its recipe are what they were. Blocks."""
    stamp = made.with_name(f".{made.name}.sources")
    digest = _digest(recipe)
    if made.exists() and stamp.exists() and stamp.read_text() == digest:
        say(f"{what}: as it was made before")
        return
    say(f"{what}: making it")
    work()
    stamp.write_text(digest)


async def prepare(say: Say) -> Prepared:
    """Make what is missing.

    Raises:
        LabError: a tool or package is missing; the text says which.
    """
    ramdisk, image, key = BUILD / "ramdisk", BUILD / "image" / "tiny.raw", BUILD / "demo" / "id_ed25519"
    work = BUILD / "debian"
    for directory in (ramdisk.parent, image.parent, key.parent, work):
        directory.mkdir(parents=True, exist_ok=True)
    recipe = sources(_ROOT / "metald" / "ramdisk")
    tiny = [*recipe, *sources(_ROOT / "lab" / "image.py", _ROOT / "lab" / "files")]
    try:
        await asyncio.to_thread(make, "SSH ramdisk", ramdisk, recipe, lambda: build(ramdisk, work), say)
        await asyncio.to_thread(make, "small image", image, tiny, lambda: build_tiny_image(image, "", work=work), say)
    except BuildError as error:
        raise LabError(str(error)) from error
    if not key.exists():
        await run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "metald-demo", "-f", str(key))
    sha512 = await asyncio.to_thread(_sha512, image)
    return Prepared(ramdisk, image, sha512, key)


async def prepare_agent(say: Say) -> Path:
    """The directory with the ramdisk of the Ironic Python Agent, made when it is missing; `stress-ng` is in it for burn-in.

    Raises:
        LabError: a tool or package is missing; the text says which.
    """
    ramdisk, work = BUILD / "agent-lab", BUILD / "debian"
    work.mkdir(parents=True, exist_ok=True)
    what = Recipe(packages=("stress-ng",))
    recipe = sources(_ROOT / "metald" / "ramdisk", Path(__file__))
    try:
        await asyncio.to_thread(make, "agent's ramdisk", ramdisk, recipe, lambda: build_agent(ramdisk, work, what), say)
    except BuildError as error:
        raise LabError(str(error)) from error
    return ramdisk


def _sha512(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()
