"""A private RabbitMQ from Debian's packages: own node name, own ports, own directories, own epmd; gone when the tests end.

It runs as an ordinary user and takes some seconds to start, so one serves a whole pytest worker; tests that take it are
in one xdist group, and each has a virtual host of its own. It can be killed and started again on the same port.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_BIN = Path("/usr/lib/rabbitmq/bin")
_START = 90.0


def _erl_call() -> Path:
    """A program of Debian's erlang-base, which the server needs too."""
    return next(iter(sorted(Path("/usr/lib/erlang").glob("erts-*/bin/erl_call"))))


def available() -> bool:
    """Whether this machine has a RabbitMQ server."""
    return (_BIN / "rabbitmq-server").exists() and shutil.which("epmd") is not None


def _port() -> int:
    """A port below those that the kernel gives out by itself, so that it is still free at the next start."""
    while True:
        port = random.randrange(15000, 32000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _erlang(text: str) -> str:
    """As it is written between quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


class PrivateRabbit:
    """One broker.

    Args:
        tls: (CA, certificate, key) files that the TLS listener uses; none without.
    """

    def __init__(self, tls: tuple[Path, Path, Path] | None = None) -> None:
        self.port = _port()
        self.tls_port = _port() if tls else 0
        self._epmd_port = _port()
        self._dist_port = _port()
        self._name = f"metald{secrets.token_hex(4)}@localhost"
        self._dir = Path(tempfile.mkdtemp(prefix="metald-rabbit-", dir="/tmp"))
        self._as: dict[str, object] = {}
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._hosts = 0
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "loopback_users = none",
            "log.console = true",
            "log.console.level = warning",
            "log.file = false",
            "vm_memory_high_watermark.absolute = 1GB",
            "disk_free_limit.absolute = 50MB",
            "channel_max = 100",
        ]
        if tls:
            names = [shutil.copy(path, self._dir / path.name) for path in tls]
            lines.append(f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}")
            pairs = zip(("cacertfile", "certfile", "keyfile"), names, strict=True)
            lines += [f"ssl_options.{key} = {name}" for key, name in pairs]
        (self._dir / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self._dir / "enabled_plugins").write_text("[].\n")
        if os.geteuid() == 0:
            entry = pwd.getpwnam("rabbitmq")
            for path in (self._dir, *self._dir.iterdir()):
                os.chown(path, entry.pw_uid, entry.pw_gid)
            self._as = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._dir),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONFIG_FILE": str(self._dir / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_MNESIA_BASE": str(self._dir / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._dir / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._dir / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self._dir / "generated"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(self._dir / "feature_flags"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +S 2:2",
            "RABBITMQ_ALLOW_INPUT": "1",
        }

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._dir / "output").open("ab") as output:
            return subprocess.Popen(
                command, env=self._environment(), cwd=self._dir, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, **self._as,  # type: ignore[call-overload]
            )  # fmt: skip

    def start(self) -> None:
        """Start the broker, and wait until it answers."""
        if self._epmd is None:
            self._epmd = self._spawn("epmd")
        self._server = self._spawn(str(_BIN / "rabbitmq-server"), "-noinput")
        deadline = time.monotonic() + _START
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._dir / "output").read_text(errors="replace")[-4000:])
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """The process that was started last."""
        assert self._server is not None
        return self._server.pid

    def _answers(self) -> bool:
        """A wrong protocol header is answered with the right one (AMQP 0-9-1, 4.2.2) once the broker takes connections."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as probe:
            probe.sendall(b"AMQP\0\0\x08\0")
            return probe.recv(8) == b"AMQP\0\0\x09\x01"
        return False

    def kill(self) -> None:
        """SIGKILL, as in a crash of a broker that has run for a while.

        RabbitMQ's Raft keeps the names of new quorum queues in tables that are saved seldom, and its database the bindings; a queue
        that was made just before a SIGKILL never answers again. That is the broker's own affair, so both are saved first.
        """
        if self._server is not None and self._server.poll() is None:
            self.ask("[dets:sync(Table) || Table <- dets:all()], mnesia:sync_log()")
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait(30)

    def ask(self, expression: str) -> str:
        """Have the broker evaluate an Erlang expression; what came of it. A hundred times faster than `rabbitmqctl`.

        On a machine that does other things too the two may not have met in time; then nothing was evaluated, and it is asked again.
        """
        cookie = (self._dir / ".erlang.cookie").read_text().strip()
        command = [str(_erl_call()), "-n", self._name, "-c", cookie, "-e"]
        deadline = time.monotonic() + _START
        while True:
            done = subprocess.run(
                command, env=self._environment(), cwd=self._dir, input=f"{expression}.\n", capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
            if "failed to connect" not in done.stderr or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if done.returncode or not done.stdout.startswith("{ok,"):
            raise RuntimeError(f"{expression}: {done.stdout}{done.stderr}")
        return str(done.stdout)

    def alarm(self, on: bool, *, disk: bool = False) -> None:
        """Raise or clear the alarm of the memory, or of the disk: it stops every connection that publishes.

        The same as `rabbitmqctl set_vm_memory_high_watermark absolute` and `set_disk_free_limit`.
        """
        if disk:
            self.ask(f"rabbit_disk_monitor:set_disk_free_limit({10**15 if on else 50_000_000})")
        else:
            self.ask(f"vm_memory_monitor:set_vm_memory_high_watermark({{absolute,{1000 if on else 10**9}}})")

    def pause(self) -> None:
        """Stop the broker as an operator does; what runs it stays. `resume` is much faster than a start."""
        self.ask("rabbit:stop()")

    def resume(self) -> None:
        """Start it again."""
        self.ask("rabbit:start()")

    def fresh_host(self) -> str:
        """The name of a new virtual host."""
        self._hosts += 1
        name = f"test{self._hosts}"
        allow = 'rabbit_auth_backend_internal:set_permissions(<<"guest">>,<<"%s">>,<<".*">>,<<".*">>,<<".*">>,<<"t">>)'
        self.ask(f'rabbit_vhost:add(<<"{name}">>,<<"t">>),{allow % name}')
        return name

    def add_user(self, name: str, password: str, host: str) -> None:
        """Make a user who may do everything on a virtual host, as `rabbitmqctl add_user` and `set_permissions` do."""
        self.ask(
            f'rabbit_auth_backend_internal:add_user(<<"{name}">>,<<"{password}">>,<<"t">>),'
            f'rabbit_auth_backend_internal:set_permissions(<<"{name}">>,<<"{host}">>,<<".*">>,<<".*">>,<<".*">>,<<"t">>)'
        )

    def remove_user(self, name: str) -> None:
        """Delete a user."""
        self.ask(f'rabbit_auth_backend_internal:delete_user(<<"{name}">>,<<"t">>)')

    def permit(self, name: str, host: str, configure: str, write: str, read: str) -> None:
        """What a user may do in a virtual host, by patterns of names, as `rabbitmqctl set_permissions` does it."""
        patterns = ",".join(f'<<"{_erlang(pattern)}">>' for pattern in (configure, write, read))
        self.ask(f'rabbit_auth_backend_internal:set_permissions(<<"{name}">>,<<"{host}">>,{patterns},<<"t">>)')

    def change_password(self, name: str, password: str) -> None:
        """As `rabbitmqctl change_password` does it."""
        self.ask(f'rabbit_auth_backend_internal:change_password(<<"{name}">>,<<"{password}">>,<<"t">>)')

    def remove_host(self, name: str) -> None:
        """Delete a virtual host with all that is in it, so that the broker's next start needs not recover it."""
        self.ask(f'rabbit_vhost:delete(<<"{name}">>,<<"t">>)')

    def url(self, host: str = "/", *, tls: bool = False, user: str = "guest:guest", port: int | None = None) -> str:
        """What a user would set as `amqp.url`."""
        place = f"localhost:{self.tls_port}" if tls else f"127.0.0.1:{port or self.port}"
        return f"{'amqps' if tls else 'amqp'}://{user}@{place}/{'%2F' if host == '/' else host}"

    def remove(self) -> None:
        """End everything and leave nothing behind."""
        self.kill()
        if self._epmd is not None:
            # the broker's helpers end with it; epmd is a child of ours
            self._epmd.kill()
            self._epmd.wait(30)
        shutil.rmtree(self._dir, ignore_errors=True)


def private_rabbit(tls: tuple[Path, Path, Path] | None = None) -> Iterator[PrivateRabbit]:
    """Body of a session fixture."""
    server = PrivateRabbit(tls)
    try:
        server.start()
        yield server
    finally:
        server.remove()
