"""The suites: what each runs, of which package, and against what."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.surroundings import BUILD, DEADLINE, HERE, environment, free_port, keystone, metald, version

GOPHERCLOUD = "github.com/gophercloud/gophercloud"
_GO_PATH = Path("/usr/share/gocode")
"""Where Debian's packages of Go libraries are unpacked."""


@dataclass(frozen=True)
class Result:
    """What came of one suite."""

    suite: str
    version: str
    passed: int
    skipped: int
    failed: tuple[str, ...]


def _tests(suite: str, package: str, modules: str, python: Path, folder: Path, settings: Mapping[str, str]) -> Result:
    """Run tests that come installed with a package, or that stand in a file."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    words = [python, "-m", "pytest", "-c", folder / "pytest.ini", "--noconftest", "-p", "no:cacheprovider", "-q", "-rfE", "--tb=short"]
    words += ["--pyargs", modules]
    done = subprocess.run(words, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, timeout=DEADLINE)
    (folder / f"{suite}.log").write_text(done.stdout + done.stderr)
    lines = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, flags=re.MULTILINE)
    failed = tuple("::".join(line.split("::")[-2:]) for line in lines)

    def count(word: str) -> int:
        found = re.search(rf"(\d+) {word}", done.stdout.splitlines()[-1] if done.stdout else "")
        return int(found[1]) if found else 0

    if not count("passed"):
        failed = (*failed, f"nothing ran: {(done.stdout + done.stderr)[-300:]}")
    return Result(suite, f"{package} {version(python, package)}", count("passed"), count("skipped"), failed)


def _configured(folder: Path, own: str, scope: str) -> dict[str, str]:
    """Write tempest's settings, and return what names them."""
    values = {"folder": str(folder), "identity": own, "scope": scope}
    for name in ("tempest.conf", "accounts.yaml"):
        text = (HERE / name).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        (folder / name).write_text(text)
    return {"TEMPEST_CONFIG_DIR": str(folder), "TEMPEST_CONFIG": "tempest.conf"}


def tempest(url: str, folder: Path) -> Result:
    """The API tests of Ironic's tempest plug-in."""
    python = environment("tempest")
    with keystone(url) as own:
        settings = _configured(folder, own, "false")
        return _tests("tempest", "ironic-tempest-plugin", "ironic_tempest_plugin.tests.api", python, folder, settings)


def rbac(_url: str, folder: Path) -> Result:
    """Those of its tests that ask who may do what, against a metald that takes Keystone's tokens."""
    python = environment("tempest")
    port = free_port()
    with keystone(f"http://127.0.0.1:{port}") as own:
        taken = {
            "METALD__API__AUTH": "keystone",
            "METALD__KEYSTONE__AUTH_URL": f"{own}/v3",
            "METALD__KEYSTONE__USERNAME": "service",
            "METALD__KEYSTONE__PASSWORD": "secret",
            "METALD__KEYSTONE__PROJECT": "service",
        }
        with metald(folder / "rbac", taken, port=port):
            settings = _configured(folder, own, "true")
            return _tests("rbac", "ironic-tempest-plugin", "ironic_tempest_plugin.tests.api.rbac_defaults", python, folder, settings)


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
        # its own limit of five seconds for a test is for quiet machines
        limits = {"OPENSTACKSDK_FUNC_TEST_TIMEOUT": "120", "OS_TEST_TIMEOUT": "120"}
        settings = {"OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml"), **limits}
        return _tests("sdk", "openstacksdk", "openstack.tests.functional.baremetal", python, folder, settings)


def ironicclient(url: str, folder: Path) -> Result:
    """The functional tests of python-ironicclient, which run the command `openstack`."""
    python = environment("ironicclient")
    place = folder / ".tox"
    place.mkdir()
    (place / "functional").symlink_to(python.parent.parent)
    (folder / "ironicclient.conf").write_text(f"[functional]\nauth_strategy = noauth\nironic_url = {url}\n")
    settings = {"IRONICCLIENT_TEST_CONFIG": str(folder / "ironicclient.conf")}
    return _tests("ironicclient", "python-ironicclient", "ironicclient.tests.functional", python, folder, settings)


def nova(url: str, folder: Path) -> Result:
    """The calls of Nova's driver for Ironic, by the library that it makes them with."""
    return _tests("nova", "openstacksdk", str(HERE / "nova_calls.py"), environment("sdk"), folder, {"METALD_URL": url})


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


def gophercloud(url: str, folder: Path) -> Result:
    """gophercloud's own acceptance tests of bare metal, and what Metal3 asks by it; with Go and the library of Debian."""
    if shutil.which("go") is None or not (_GO_PATH / "src" / GOPHERCLOUD).exists():
        return Result("gophercloud", "not installed: golang-go, golang-github-gophercloud-gophercloud-dev", 0, 0, ())
    settings = {
        "GO111MODULE": "off",
        "GOPATH": str(_GO_PATH),
        "GOCACHE": str(BUILD / "gocache"),
        "GOTMPDIR": str(folder),
        "IRONIC_ENDPOINT": f"{url}/v1",
    }
    words = ["go", "test", "-v", "-count=1", "-tags", "acceptance"]
    output = ""
    for package, place in ((f"{GOPHERCLOUD}/acceptance/openstack/baremetal/noauth", folder), (".", HERE / "gophercloud")):
        done = subprocess.run(
            [*words, package], cwd=place, env={**os.environ, **settings}, capture_output=True, text=True, timeout=DEADLINE
        )
        output += done.stdout + done.stderr
        if done.returncode and "--- FAIL" not in done.stdout:
            return Result("gophercloud", "?", 0, 0, (output[-300:],))
    (folder / "gophercloud.log").write_text(output)
    asked = ["dpkg-query", "-W", "-f", "${Version}", "golang-github-gophercloud-gophercloud-dev"]
    packaged = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    failed = tuple(re.findall(r"^--- FAIL: (\S+)", output, flags=re.MULTILINE))
    return Result("gophercloud", f"gophercloud {packaged}", len(re.findall(r"^--- PASS", output, flags=re.MULTILINE)), 0, failed)


SUITES: Mapping[str, Callable[[str, Path], Result]] = {
    suite.__name__: suite for suite in (gophercloud, nova, ansible, sdk, tempest, rbac, ironicclient)
}
"""Each suite by its name, those first that take the least time."""
