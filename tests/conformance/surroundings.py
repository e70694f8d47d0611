"""What suites run in: virtual environments, an identity service, a metald of their own.

Rules: each environment lives below build/conformance and is made once from requirements with hashes. Nothing but loopback is
asked once it is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.conformance import identity

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "conformance"
DEADLINE = 3600.0
"""Seconds that a suite, or the making of its environment, may take."""


def environment(suite: str) -> Path:
    """The Python of a suite's virtual environment, which is made if its requirements are new."""
    requirements = HERE / "requirements" / f"{suite}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    place = BUILD / suite
    python = place / "bin" / "python"
    stamp = place / ".requirements"
    if not stamp.exists() or stamp.read_text() != digest:
        venv.create(place, with_pip=True, clear=True)
        pip = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
            "-r",
            requirements,
        ]
        subprocess.run(pip, check=True, timeout=DEADLINE)
        stamp.write_text(digest)
    return python


def version(python: Path, package: str) -> str:
    """The version of a package in an environment."""
    words = [python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@contextlib.contextmanager
def keystone(url: str, address: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[str]:
    """An identity service for the suites that want one, whose catalogue has the service at `url`."""
    server = identity.server(address, url)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def metald(folder: Path, settings: Mapping[str, str] | None = None, *, port: int = 0) -> Iterator[str]:
    """A metald of its own, with fake-hardware and, unless the settings say otherwise, no authentication.

    Args:
        folder: its state and its log are made here.
        settings: more environment, such as `{"METALD__API__AUTH": "keystone"}`.
        port: where it is to listen; 0 takes a free one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{port or free_port()}"
    own = {
        "METALD__STATE_DIR": str(folder / "state"),
        "METALD__API__LISTEN": address,
        "METALD__BOOT__HTTP_LISTEN": f"127.0.0.1:{free_port()}",
    }
    with (folder / "metald.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "metald", "serve"], cwd=ROOT, env={**os.environ, **own, **(settings or {})}, stdout=log, stderr=log
        )
        try:
            _wait(f"http://{address}", process)
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("metald did not start; see metald.log")
