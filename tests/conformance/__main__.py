"""Runs clients' own test suites against metald, or against whatever serves Ironic's API, and prints a table.

    python -m tests.conformance                                # against a metald of its own
    python -m tests.conformance --url http://127.0.0.1:6399    # against a running Ironic, to compare
    python -m tests.conformance --only ansible

Rules: each suite has a virtual environment of its own below build/conformance, made once from requirements with hashes.
Nothing but loopback is asked once they are there. It exits non-zero when a test fails that `EXPECTED` does not name.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conformance import identity

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "conformance"
DEADLINE = 1800.0

EXPECTED = frozenset(
    {
        "TestNodeStatesMixin::test_list_nodestates",  # a mixin that pytest collects by itself
        "TestNodeStatesMixin::test_set_node_power_state",
        "TestNodeRetired::test_retired_in_available",  # expects another error than the 409
        "TestBareMetalRunbook::test_runbook_rbac_project_scoped",  # needs policies, and this identity service has none
    }
)
"""Tests that fail on Ironic 39 in the same surroundings."""


@dataclass(frozen=True)
class Result:
    """What came of one suite."""

    suite: str
    version: str
    passed: int
    skipped: int
    failed: tuple[str, ...]


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


def tests(suite: str, package: str, modules: str, python: Path, folder: Path, settings: dict[str, str]) -> Result:
    """Run tests that come installed with a package."""
    words = [python, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rfE", "--tb=no", "--pyargs", modules]
    done = subprocess.run(words, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, timeout=DEADLINE)
    (folder / f"{suite}.log").write_text(done.stdout + done.stderr)
    lines = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, flags=re.MULTILINE)
    failed = tuple("::".join(line.split("::")[-2:]) for line in lines)

    def count(word: str) -> int:
        found = re.search(rf"(\d+) {word}", done.stdout)
        return int(found[1]) if found else 0

    if not count("passed"):
        failed = (*failed, f"nothing ran: {(done.stdout + done.stderr)[-300:]}")
    return Result(suite, f"{package} {version(python, package)}", count("passed"), count("skipped"), failed)


def tempest(url: str, folder: Path) -> Result:
    """The API tests of Ironic's tempest plug-in."""
    python = environment("tempest")
    with keystone(url) as own:
        values = {"folder": str(folder), "identity": own}
        for name in ("tempest.conf", "accounts.yaml"):
            text = (HERE / name).read_text()
            for key, value in values.items():
                text = text.replace(f"@{key}@", value)
            (folder / name).write_text(text)
        settings = {"TEMPEST_CONFIG_DIR": str(folder), "TEMPEST_CONFIG": "tempest.conf"}
        return tests("tempest", "ironic-tempest-plugin", "ironic_tempest_plugin.tests.api", python, folder, settings)


def sdk(url: str, folder: Path) -> Result:
    """The functional tests of openstacksdk's bare metal part."""
    python = environment("sdk")
    with keystone(url) as own:
        text = "clouds:\n"
        for cloud in ("devstack", "devstack-admin", "devstack-alt", "devstack-system-admin"):
            scope = "system_scope: all" if "system" in cloud else f"project_name: {cloud}\n      project_domain_name: Default"
            text += f"  {cloud}:\n    region_name: RegionOne\n    auth:\n      auth_url: {own}/v3\n      username: {cloud}\n"
            text += f"      password: secret\n      user_domain_name: Default\n      {scope}\n"
        (folder / "clouds.yaml").write_text(text)
        settings = {"OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml"), "OPENSTACKSDK_FUNC_TEST_TIMEOUT": "60"}
        return tests("sdk", "openstacksdk", "openstack.tests.functional.baremetal", python, folder, settings)


def ansible(url: str, folder: Path) -> Result:
    """A playbook over the bare metal modules of the collection openstack.cloud."""
    python = environment("ansible")
    collection = BUILD / "collection"
    if not (collection / ".complete").exists():
        words = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-d", folder]
        subprocess.run([*words, "-r", HERE / "requirements" / "collection.txt"], check=True, timeout=DEADLINE)
        with zipfile.ZipFile(next(folder.glob("ansible-*.whl"))) as wheel:
            wanted = ("ansible_collections/openstack/cloud/", "ansible_collections/__init__.py")
            wheel.extractall(collection, [name for name in wheel.namelist() if name.startswith(wanted)])
        (collection / ".complete").touch()
    settings = {"ANSIBLE_COLLECTIONS_PATH": str(collection), "ANSIBLE_HOME": str(folder), "ANSIBLE_NOCOLOR": "1"}
    given = ["-e", f"endpoint={url}", "-e", f"ansible_python_interpreter={python}"]
    words = [python.with_name("ansible-playbook"), "-i", "localhost,", *given, HERE / "playbook.yml"]
    done = subprocess.run(words, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, timeout=DEADLINE)
    (folder / "ansible.log").write_text(done.stdout + done.stderr)
    passed = len(re.findall(r"^(?:ok|changed): \[", done.stdout, flags=re.MULTILINE))
    fatal = " ".join(re.findall(r"^fatal: .*", done.stdout, flags=re.MULTILINE))[:300]
    failed = () if done.returncode == 0 else (fatal or done.stderr[-300:],)
    return Result("ansible", f"openstack.cloud of ansible 12.0.0, ansible-core {version(python, 'ansible-core')}", passed, 0, failed)


@contextlib.contextmanager
def keystone(url: str) -> Iterator[str]:
    """An identity service for the suites that want one."""
    server = identity.server(("127.0.0.1", 0), url)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def metald(folder: Path) -> Iterator[str]:
    """A metald of its own, with fake-hardware and no authentication."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"METALD__STATE_DIR": str(folder / "state"), "METALD__API__LISTEN": f"127.0.0.1:{port}"}
    url = f"http://127.0.0.1:{port}"
    with (folder / "metald.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "metald", "serve"], cwd=ROOT, env={**os.environ, **settings}, stdout=log, stderr=log
        )
        try:
            _wait(url, process)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("metald did not start; see metald.log")


SUITES = {"ansible": ansible, "sdk": sdk, "tempest": tempest}


def main() -> int:
    """Run the suites that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Run clients' own test suites.")
    parser.add_argument("--url", help="where Ironic's API is served; by default a metald is started")
    parser.add_argument("--only", choices=sorted(SUITES), action="append", help="this suite alone (may be repeated)")
    asked = parser.parse_args()
    results = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conformance-")))
        url = asked.url or stack.enter_context(metald(folder))
        results = [SUITES[name](url, folder) for name in asked.only or SUITES]
    print(f"{'suite':<10}{'passed':>8}{'skipped':>9}{'failed':>8}{'unexpected':>12}  version")
    unexpected = []
    for result in results:
        new = [name for name in result.failed if name not in EXPECTED]
        unexpected += [f"{result.suite}: {name}" for name in new]
        print(f"{result.suite:<10}{result.passed:>8}{result.skipped:>9}{len(result.failed):>8}{len(new):>12}  {result.version}")
    print("\n".join(unexpected))
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
