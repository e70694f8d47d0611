"""A private MariaDB for an Ironic in parts: own directory, own port on loopback, gone when it ends.

It needs Debian's package mariadb-server, whose service may stay off; nothing else here does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.support.daemon import free_port

_START = 90.0


class MariaDb:
    """A database server that runs inside `with`.

    Args:
        folder: everything of it lies below here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._user = ["--user=mysql"] if os.geteuid() == 0 else []

    @property
    def url(self) -> str:
        """Where Ironic's database is, as SQLAlchemy writes it."""
        return f"mysql+pymysql://ironic:ironic@127.0.0.1:{self._port}/ironic?charset=utf8"

    def __enter__(self) -> MariaDb:
        if shutil.which("mariadbd") is None:
            raise SystemExit("MariaDB is missing. As root: apt-get install mariadb-server")
        data = self._folder / "data"
        data.mkdir(parents=True)
        if self._user:
            for path in (self._folder, data):
                shutil.chown(path, "mysql")
        made = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", *self._user]
        subprocess.run([*made, "--auth-root-authentication-method=normal"], check=True, stdout=subprocess.DEVNULL)
        words = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={self._socket}", f"--port={self._port}"]
        words += ["--bind-address=127.0.0.1", f"--pid-file={self._folder / 'pid'}", *self._user]
        with (self._folder / "output").open("wb") as output:
            self._server = subprocess.Popen(words, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + _START
        while not self._socket.exists():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"MariaDB did not start: {(self._folder / 'output').read_text()[-2000:]}")
            time.sleep(0.1)
        self.run("CREATE DATABASE ironic CHARACTER SET utf8; CREATE USER ironic@'127.0.0.1' IDENTIFIED BY 'ironic'")
        self.run("GRANT ALL ON ironic.* TO ironic@'127.0.0.1'; FLUSH PRIVILEGES")
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait(60)

    @property
    def _socket(self) -> Path:
        return self._folder / "socket"

    def run(self, sql: str) -> str:
        """Run statements as the server's administrator, and return what they print."""
        words = ["mariadb", "--no-defaults", f"--socket={self._socket}", "--user=root", "--batch", "--skip-column-names", "-e", sql]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def multiply(self, nodes: int) -> None:
        """Copy the first node of Ironic's until there are so many: posting them would take minutes."""
        where = "table_schema = 'ironic' AND table_name = 'nodes' AND column_name NOT IN ('id', 'uuid', 'name')"
        columns = ", ".join(f"`{name}`" for name in self.run(f"SELECT column_name FROM information_schema.columns WHERE {where}").split())
        copy = f"INSERT INTO ironic.nodes (uuid, {columns}) SELECT UUID(), {columns} FROM ironic.nodes ORDER BY id LIMIT"
        there = int(self.run("SELECT count(*) FROM ironic.nodes"))
        while there < nodes:
            more = min(there, nodes - there)
            self.run(f"{copy} {more}")
            there += more
