"""What a node's driver_info says of its hypervisor host and of the machine there: parsed and checked, then frozen.

Rules:

- The keys are those of Ironic's former `ssh` driver where it had one. Each error names the key, what is wrong, the remedy.
- No network and no files: `parse` may run in `validate`, in the API, for thousands of nodes.
- Passwords and keys never show in a repr or an error.
- What may become part of a command is of few characters; a machine's name never does, it is only compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from metald.errors import Invalid
from metald.model import Node

VIRSH: Final = "virsh"
QEMU: Final = "qemu"
VBOX: Final = "vbox"
PARALLELS: Final = "parallels"
VIRT_TYPES: Final = (VIRSH, QEMU, VBOX, PARALLELS)
"""What `ssh_virt_type` may be."""

PROPERTIES: Final[Mapping[str, str]] = {
    "ssh_address": "IP address or host name of the hypervisor host. Required.",
    "ssh_username": "User to log in as. Required.",
    "ssh_virt_type": f"Virtualisation software on the host: {', '.join(VIRT_TYPES)}. Required.",
    "ssh_password": "Password of that user. One of ssh_password, ssh_key_contents and ssh_key_filename is required.",
    "ssh_key_contents": "Private key of that user, in OpenSSH's or PEM format, without passphrase.",
    "ssh_key_filename": "File on metald's machine that holds the private key.",
    "ssh_port": "TCP port of the host's sshd. By default 22.",
    "ssh_host_key": "The host's public keys, a line each, as `ssh-keyscan` prints them. By default drivers.ssh_host.known_hosts is asked.",
    "ssh_machine": "Name or UUID of the virtual machine. By default it is found by the addresses of the node's ports. Not for qemu.",
    "ssh_libvirt_uri": "Libvirt connection on the host, for virsh. By default drivers.ssh_host.libvirt_uri.",
    "ssh_qmp_socket": "Unix socket of QEMU's monitor (QMP) on the host. Required for qemu.",
    "ssh_terminal_port": "Console: TCP port on the host's 127.0.0.1 that the machine's serial port listens at.",
    "ssh_terminal_socket": "Console: Unix socket on the host that the machine's serial port listens at.",
}

_URI = re.compile(r"[a-z][a-z0-9+]{0,30}://[A-Za-z0-9._:@/?=&,%~-]{0,300}")
_PATH = re.compile(r"/[A-Za-z0-9._/@:+-]{1,100}")
_UUID = re.compile(r"\{?([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\}?")
_MOST_SECRET = 16384


@dataclass(frozen=True, slots=True)
class HostInfo:
    """How to reach and enter one host. Equal infos share a connection."""

    address: str
    username: str
    port: int = 22
    password: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    key_file: str | None = None
    host_keys: tuple[str, ...] = ()
    """Pinned, each `algorithm base64`; empty: the file of the settings is asked."""

    @property
    def label(self) -> str:
        """What error texts call the host."""
        return f"host [{self.address}]:{self.port}" if ":" in self.address else f"host {self.address}:{self.port}"

    @property
    def secret_key(self) -> str:
        """The driver_info key that holds the credential."""
        return "ssh_password" if self.password is not None else "ssh_key_contents" if self.key is not None else "ssh_key_filename"


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """One machine on one host."""

    node: str
    """The node's label, for error texts."""
    host: HostInfo
    virt_type: str
    name: str | None = None
    uri: str | None = None
    qmp_socket: str = ""
    terminal_port: int | None = None
    terminal_socket: str | None = None


def uuid_of(text: str) -> str | None:
    """A UUID in its plain form, with or without the braces that some programs put around it; None when it is none."""
    found = _UUID.fullmatch(text.strip())
    return found.group(1).lower() if found else None


def parse(node: Node) -> MachineInfo:
    """Read where the machine is out of `node.driver_info`.

    Raises:
        Invalid: a key is missing or wrong; `field` is `driver_info`.
    """
    return _Reader(node).read()


def check_key(info: MachineInfo) -> None:
    """Check that `ssh_key_contents` can be used.

    Raises:
        Invalid: it is no private key, or is protected by a passphrase.
    """
    import asyncssh

    if info.host.key is None:
        return
    try:
        asyncssh.import_private_key(info.host.key)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError):
        raise Invalid(
            f"Node {info.node}: driver_info ssh_key_contents is no private key that can be used.",
            remedy="Set it to the whole text of the key's file, line ends included; the key must have no passphrase.",
            field="driver_info",
        ) from None


class _Reader:
    """One pass over one node's driver_info."""

    def __init__(self, node: Node) -> None:
        self.node, self.info = node, node.driver_info

    def fail(self, key: str, problem: str, remedy: str) -> NoReturn:
        raise Invalid(f"Node {self.node.label}: driver_info {key} {problem}.", remedy=remedy, field="driver_info")

    def read(self) -> MachineInfo:
        virt_type = self.required("ssh_virt_type")
        if virt_type not in VIRT_TYPES:
            self.fail("ssh_virt_type", "is unknown", f"Set it to one of {', '.join(VIRT_TYPES)}.")
        socket = self.path("ssh_qmp_socket")
        if virt_type == QEMU and socket is None:
            self.fail("ssh_qmp_socket", "is missing, which qemu needs", "Set it to the path of QEMU's QMP socket on the host.")
        return MachineInfo(
            node=self.node.label,
            host=self.host(),
            virt_type=virt_type,
            name=self.name(),
            uri=self.uri(),
            qmp_socket=socket or "",
            terminal_port=self.number("ssh_terminal_port"),
            terminal_socket=self.path("ssh_terminal_socket"),
        )

    def host(self) -> HostInfo:
        password, key, file = (self.secret(key) for key in ("ssh_password", "ssh_key_contents", "ssh_key_filename"))
        if sum(given is not None for given in (password, key, file)) != 1:
            self.fail(
                "ssh_password, ssh_key_contents, ssh_key_filename",
                "must hold exactly one credential",
                "Set one of the three and remove the others.",
            )
        if file is not None and not (file.startswith("/") and file.isprintable()):
            self.fail("ssh_key_filename", "is no absolute path", "Set it to the full path of a private key on metald's machine.")
        return HostInfo(
            address=self.address(),
            username=self.username(),
            port=self.number("ssh_port") or 22,
            password=password,
            key=key,
            key_file=file,
            host_keys=self.host_keys(),
        )

    def text(self, key: str) -> str | None:
        value: Any = self.info.get(key)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.fail(key, "is not a text", f"Set it to: {PROPERTIES[key]}")
        return str(value).strip()

    def required(self, key: str) -> str:
        value = self.text(key)
        if not value:
            self.fail(key, "is missing", f"Set it: {PROPERTIES[key].removesuffix(' Required.')}")
        return value

    def secret(self, key: str) -> str | None:
        value: Any = self.info.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str) or len(value) > _MOST_SECRET:
            self.fail(key, "is no text of reasonable length", "Put it in quotes.")
        return value

    def address(self) -> str:
        value = self.required("ssh_address")
        if value.startswith("[") and value.endswith("]"):
            value = value[1:-1]
        if len(value) > 253 or value.startswith("-") or not re.fullmatch(r"[A-Za-z0-9._:%-]+", value):
            self.fail("ssh_address", "is no IP address or host name", "Set it without a port; the port is ssh_port.")
        return value

    def username(self) -> str:
        value = self.required("ssh_username")
        if len(value) > 64 or not value.isprintable() or value.startswith("-"):
            self.fail("ssh_username", "is no user name", "Set it to a user of the host.")
        return value

    def number(self, key: str) -> int | None:
        value = self.text(key)
        if value is None:
            return None
        if not value.isascii() or not value.isdigit() or len(value) > 5 or not 0 < int(value) < 65536:
            self.fail(key, "is no TCP port", "Set it to a number from 1 to 65535.")
        return int(value)

    def path(self, key: str) -> str | None:
        value = self.text(key)
        if value is not None and not _PATH.fullmatch(value):
            self.fail(key, "is no path of a Unix socket", "Set it to an absolute path of at most 100 letters, digits and ._/@:+-")
        return value

    def uri(self) -> str | None:
        value = self.text("ssh_libvirt_uri")
        if value is not None and not _URI.fullmatch(value):
            self.fail("ssh_libvirt_uri", "is no libvirt URI", "Set it to one such as qemu:///system.")
        return value

    def name(self) -> str | None:
        value = self.text("ssh_machine")
        if value is not None and (len(value) > 255 or not value.isprintable()):
            self.fail("ssh_machine", "is no name of a machine", "Set it to the name or the UUID that the host shows, without line ends.")
        return uuid_of(value) or value if value else None

    def host_keys(self) -> tuple[str, ...]:
        import asyncssh

        found: list[str] = []
        for line in (self.text("ssh_host_key") or "").splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            # ssh-keyscan puts the host's name in front, files of public keys a comment behind
            start = next((i for i, word in enumerate(words) if word.startswith(("ssh-", "ecdsa-", "sk-", "rsa-"))), 0)
            key = " ".join(words[start : start + 2])
            try:
                asyncssh.import_public_key(key)
            except (asyncssh.KeyImportError, ValueError):
                self.fail("ssh_host_key", "is no public key", "Set it to what `ssh-keyscan HOST` prints, after comparing it with the host.")
            found.append(key)
        if self.text("ssh_host_key") and not found:
            self.fail("ssh_host_key", "holds no public key", "Set it to what `ssh-keyscan HOST` prints, after comparing it with the host.")
        return tuple(found)
