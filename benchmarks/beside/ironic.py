"""A real Ironic 39 from the package index, without authentication: one process on SQLite, or its API and its conductor as processes
of their own on MariaDB and RabbitMQ; with fake-hardware, or the lab's machines.

Its packages are locked in `constraints.txt` beside this file and live in `build/ironic`, made when first asked for
(about two minutes). Each Ironic gets a directory of its own, on a free port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from pathlib import Path

import aiohttp

from benchmarks.beside.mariadb import MariaDb
from benchmarks.parts.process import family, running
from tests.support.daemon import free_port
from tests.support.rabbit import PrivateRabbit

_HERE = Path(__file__).resolve().parent
_VENV = _HERE.parent.parent / "build" / "ironic"
_FAKE = """\
enabled_hardware_types = fake-hardware
enabled_bios_interfaces = fake,no-bios
enabled_boot_interfaces = fake
enabled_console_interfaces = fake,no-console
enabled_deploy_interfaces = fake
enabled_firmware_interfaces = fake,no-firmware
enabled_inspect_interfaces = fake,no-inspect
enabled_management_interfaces = fake
enabled_network_interfaces = noop
enabled_power_interfaces = fake
enabled_raid_interfaces = fake,no-raid
enabled_rescue_interfaces = fake,no-rescue
enabled_storage_interfaces = noop
enabled_vendor_interfaces = fake,no-vendor
"""
IPMI = """\
enabled_hardware_types = ipmi
enabled_bios_interfaces = no-bios
enabled_boot_interfaces = ipxe
enabled_console_interfaces = no-console
enabled_deploy_interfaces = direct
enabled_firmware_interfaces = no-firmware
enabled_inspect_interfaces = no-inspect
enabled_management_interfaces = ipmitool
enabled_network_interfaces = noop
enabled_power_interfaces = ipmitool
enabled_raid_interfaces = no-raid
enabled_rescue_interfaces = no-rescue
enabled_storage_interfaces = noop
enabled_vendor_interfaces = no-vendor
"""
"""Interfaces for virtual machines behind real BMCs."""
_CONF = """\
[DEFAULT]
auth_strategy = noauth
host = beside
{interfaces}
default_network_interface = noop
rpc_transport = none
log_file = {folder}/ironic.log
my_ip = {host}
[api]
host_ip = {host}
port = {port}
[service_catalog]
endpoint_override = http://{host}:{port}
[database]
connection = sqlite:///{folder}/ironic.sqlite
[dhcp]
dhcp_provider = {dhcp}
[pxe]
kernel_append_params = nofb vga=normal console=ttyS0 no_timer_check
tftp_root = {folder}/tftp
images_path = {folder}/images
instance_master_path = {folder}/instances
tftp_master_path = {folder}/master
[deploy]
http_root = {folder}/http
{deploy}
[oslo_concurrency]
lock_path = {folder}/lock
[conductor]
automated_clean = false
sync_power_state_interval = 0
[fake]
"""


def installed() -> Path:
    """The directory with Ironic's programs; they are installed when they are not there."""
    if not (_VENV / ".complete").exists():
        print("installing Ironic into build/ironic ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(_VENV)], check=True)
        pip = [str(_VENV / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", str(_HERE / "constraints.txt")], check=True)
        (_VENV / ".complete").touch()
    return _VENV / "bin"


def _with_mysql() -> None:
    """Let the installed Ironic speak to MariaDB."""
    if not (_VENV / ".pymysql").exists():
        pip = [str(_VENV / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "-r", str(_HERE / "pymysql.txt")], check=True)
        (_VENV / ".pymysql").touch()


class Ironic:
    """An Ironic that runs inside `async with`.

    Args:
        folder: everything of it lies below here.
        host: the address that it listens on.
        interfaces: those that it has enabled, as lines of its configuration.
        deploy: further lines of the section `deploy`, and sections behind it.
        dhcp: its DHCP provider.
        parts: whether the API and the conductor are processes of their own, on MariaDB and RabbitMQ. What these two take is
            not counted as Ironic's.
    """

    def __init__(
        self, folder: Path, *, host: str = "127.0.0.1", interfaces: str = _FAKE, deploy: str = "", dhcp: str = "none", parts: bool = False
    ) -> None:
        self._folder = folder
        self._parts = parts
        self._mariadb = MariaDb(folder / "mariadb")
        self._rabbit: PrivateRabbit | None = None
        self._port = free_port()
        self._host = host
        self._settings = {"host": host, "interfaces": interfaces, "deploy": deploy, "dhcp": dhcp}
        self._bin = installed()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Ironic:
        try:
            await self._set_up()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _set_up(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        text = _CONF.format(folder=self._folder, port=self._port, **self._settings)
        if self._parts:
            _with_mysql()
            self._mariadb.__enter__()
            self._rabbit = PrivateRabbit()
            self._rabbit.start()
            text = text.replace(
                "rpc_transport = none", f"rpc_transport = oslo\ntransport_url = {self._rabbit.url().replace('amqp', 'rabbit')}"
            )
            text = text.replace(f"connection = sqlite:///{self._folder}/ironic.sqlite", f"connection = {self._mariadb.url}")
        self._conf.write_text(text)
        made = await asyncio.create_subprocess_exec(str(self._bin / "ironic-dbsync"), "--config-file", str(self._conf), "create_schema")
        if await made.wait():
            raise SystemExit("ironic-dbsync failed")
        await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self._parts:
            self._mariadb.__exit__()
        if self._rabbit is not None:
            self._rabbit.remove()

    @property
    def _conf(self) -> Path:
        return self._folder / "ironic.conf"

    async def start(self) -> None:
        """Start it and wait for its first answer."""
        one = f"exec {self._bin}/ironic --config-file {self._conf}"
        two = f"{self._bin}/ironic-conductor --config-file {self._conf} & {self._bin}/ironic-api --config-file {self._conf} & wait"
        with (self._folder / "output").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *("sh", "-c", two if self._parts else one), stdout=output, stderr=output, start_new_session=True
            )
        first = "/v1/drivers/fake-hardware" if self._parts else "/v1/nodes?limit=1"
        async with asyncio.timeout(120), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{self.url}{first}") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    if self._process.returncode is not None:
                        raise SystemExit(f"Ironic ended: {(self._folder / 'output').read_text()[-2000:]}") from None
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End it and all that it started."""
        if self._process is None or self._process.returncode is not None:
            return
        left = family(self._process.pid)
        deadline, number = time.monotonic() + 30, signal.SIGTERM
        while left:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            await asyncio.sleep(0.1)
            left = [pid for pid in left if running(pid)]
            number = signal.SIGKILL if time.monotonic() > deadline else signal.SIGCONT
        await self._process.wait()

    def multiply(self, nodes: int) -> None:
        """Copy the first node in the database of a stopped Ironic until there are so many: posting them would take minutes."""
        if self._parts:
            self._mariadb.multiply(nodes)
            return
        with sqlite3.connect(self._folder / "ironic.sqlite") as database:
            names = [row[1] for row in database.execute("PRAGMA table_info(nodes)") if row[1] not in ("id", "uuid", "name")]
            columns = ", ".join(f'"{name}"' for name in names)
            (there,) = database.execute("SELECT count(*) FROM nodes").fetchone()
            copy = f"INSERT INTO nodes (uuid, {columns}) SELECT ?, {columns} FROM nodes ORDER BY id LIMIT 1"
            database.executemany(copy, [(str(uuid.uuid4()),) for _ in range(nodes - there)])
        database.close()
