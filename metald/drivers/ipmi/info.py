"""What a node's driver_info says of its BMC: parsed and checked once, then carried as a frozen value.

Rules:

- The keys are Ironic's, with Ironic's meanings. Each error names the key, what is wrong, and the remedy.
- No network and no files: `parse` may run in `validate`, in the API, for thousands of nodes.
- The password and the Kg key never show in a repr or an error.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from metald.errors import Invalid, Unsupported
from metald.model import Node

PRIVILEGES: Final[Mapping[str, int]] = {"CALLBACK": 1, "USER": 2, "OPERATOR": 3, "ADMINISTRATOR": 4}
"""Privilege levels by name, IPMI 2.0 section 6.8."""

SUITES: Final = (17, 3)
"""Cipher suites tried when the node names none, best first. Both encrypt and authenticate (IPMI 2.0 table 22-20)."""

_MAX_USER = 16
_MAX_PASSWORD = 20
_KG_BYTES = 20
_TRUE = frozenset(("1", "t", "true", "on", "y", "yes"))
_FALSE = frozenset(("0", "f", "false", "off", "n", "no", ""))

PROPERTIES: Final[Mapping[str, str]] = {
    "ipmi_address": "IP address or host name of the BMC. Required.",
    "ipmi_username": "User name on the BMC, 16 bytes at most. By default the anonymous user.",
    "ipmi_password": "Password of that user, 20 bytes at most. By default empty.",
    "ipmi_port": "UDP port of the BMC. By default 623.",
    "ipmi_priv_level": "Privilege level asked for: ADMINISTRATOR (default), OPERATOR, USER or CALLBACK.",
    "ipmi_cipher_suite": "Cipher suite, 17 or 3 (interface ipmitool: 0 to 17). By default 17, then 3.",
    "ipmi_hex_kg_key": "The BMC's Kg key for two-key login: 40 hexadecimal digits. By default none.",
    "ipmi_protocol_version": "IPMI version, 2.0 (default) or 1.5 (interface ipmitool only).",
    "ipmi_force_boot_device": "True: set the boot device before each boot, for BMCs that forget a persistent one.",
    "ipmi_disable_boot_timeout": "False: leave the BMC's 60-second limit on boot flags in force. By default it is switched off.",
    "ipmi_bridging": "Bridging to a satellite controller: no (default), single or dual.",
    "ipmi_transit_channel": "Bridging: channel to the first controller. For dual bridging.",
    "ipmi_transit_address": "Bridging: address of the first controller. For dual bridging.",
    "ipmi_target_channel": "Bridging: channel to the target. For single and dual bridging.",
    "ipmi_target_address": "Bridging: address of the target. For single and dual bridging.",
    "ipmi_local_address": "Bridging: our address on the bus.",
}


@dataclass(frozen=True, slots=True)
class Bridge:
    """A way through one or two controllers to the one that answers (IPMI 2.0 section 6.3). Strings as given by the user."""

    target_channel: str
    target_address: str
    transit_channel: str | None = None
    transit_address: str | None = None
    local_address: str | None = None


@dataclass(frozen=True, slots=True)
class BmcInfo:
    """How to reach and enter one BMC. Two equal infos share a session."""

    address: str
    port: int = 623
    username: str = ""
    password: str = field(default="", repr=False)
    privilege: int = 4
    suites: tuple[int, ...] = SUITES
    kg: bytes | None = field(default=None, repr=False)
    protocol: str = "2.0"
    bridge: Bridge | None = None
    force_boot_device: bool = False
    disable_boot_timeout: bool = True

    @property
    def label(self) -> str:
        """What error texts call the BMC."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"BMC {host}:{self.port}"

    @property
    def privilege_name(self) -> str:
        """The privilege level in Ironic's words."""
        return next(name for name, level in PRIVILEGES.items() if level == self.privilege)


def parse(node: Node) -> BmcInfo:
    """Read the BMC's coordinates out of `node.driver_info`.

    Raises:
        Invalid: a key is missing or wrong; `field` is `driver_info`.
    """
    return _Reader(node).read()


def require_plain(info: BmcInfo, node: Node) -> None:
    """Refuse what the native interface cannot do, naming the interface that can.

    Raises:
        Unsupported: IPMI 1.5, or a cipher suite other than 3 and 17.
    """
    wrong = ""
    if info.protocol != "2.0":
        wrong = "ipmi_protocol_version 1.5"
    elif not set(info.suites) <= set(SUITES):
        wrong = f"ipmi_cipher_suite {info.suites[0]}"
    if wrong:
        raise Unsupported(
            f"Node {node.label}: the interface pyghmi does not support {wrong}.",
            remedy="Use the power and management interface ipmitool, or remove that key from driver_info.",
            field="driver_info",
        )


def _unmapped(address: str) -> str:
    """An IPv4 address that was written as an IPv6 one (`::ffff:192.0.2.1`), plainly: our IPv6 socket is for IPv6 alone."""
    try:
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return str(mapped) if mapped else address


class _Reader:
    """One pass over one node's driver_info."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.info = node.driver_info

    def fail(self, key: str, problem: str, remedy: str) -> NoReturn:
        raise Invalid(f"Node {self.node.label}: driver_info {key} {problem}.", remedy=remedy, field="driver_info")

    def read(self) -> BmcInfo:
        return BmcInfo(
            address=self.address(),
            port=self.number("ipmi_port", 623, 1, 65535),
            username=self.secret_text("ipmi_username", _MAX_USER),
            password=self.secret_text("ipmi_password", _MAX_PASSWORD),
            privilege=self.privilege(),
            suites=self.suites(),
            kg=self.kg(),
            protocol=self.choice("ipmi_protocol_version", "2.0", ("2.0", "1.5")),
            bridge=self.bridge(),
            force_boot_device=self.flag("ipmi_force_boot_device", default=False),
            disable_boot_timeout=self.flag("ipmi_disable_boot_timeout", default=True),
        )

    def text(self, key: str) -> str | None:
        value: Any = self.info.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self.fail(key, "is not a text", f"Set it to {PROPERTIES[key][:1].lower()}{PROPERTIES[key][1:]}")
        return str(value).strip()

    def address(self) -> str:
        value = self.text("ipmi_address")
        if not value:
            self.fail("ipmi_address", "is missing", "Set it to the IP address or host name of the BMC.")
        if value.startswith("[") and value.endswith("]"):
            value = value[1:-1]
        # A leading dash would be an option to ipmitool; blanks and controls are never part of a name.
        if len(value) > 253 or value.startswith("-") or not value.isprintable() or any(c in value for c in " /\\\"'"):
            self.fail("ipmi_address", "is no IP address or host name", "Set it to the IP address or host name of the BMC, without a port.")
        return _unmapped(value)

    def number(self, key: str, default: int, low: int, high: int) -> int:
        value = self.text(key)
        if value is None or value == "":
            return default
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            self.fail(key, "is not a whole number in range", f"Set it to a number from {low} to {high}.")
        return int(value)

    def secret_text(self, key: str, limit: int) -> str:
        value: Any = self.info.get(key)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.fail(key, "is not a text", "Put it in quotes.")
        text = str(value)
        if len(text.encode("utf-8", "surrogatepass")) > limit:
            self.fail(key, f"is longer than {limit} bytes, which IPMI 2.0 does not allow", "Set a shorter one on the BMC and here.")
        if any(ord(c) < 0x20 or 0xD800 <= ord(c) <= 0xDFFF for c in text):
            self.fail(key, "holds a control character", "Remove it; line ends often come along with copied text.")
        return text

    def privilege(self) -> int:
        value = (self.text("ipmi_priv_level") or "ADMINISTRATOR").upper()
        if value not in PRIVILEGES:
            self.fail("ipmi_priv_level", "is unknown", f"Set it to one of {', '.join(sorted(PRIVILEGES))}.")
        return PRIVILEGES[value]

    def suites(self) -> tuple[int, ...]:
        if self.text("ipmi_cipher_suite") in {None, ""}:
            return SUITES
        return (self.number("ipmi_cipher_suite", 17, 0, 17),)

    def kg(self) -> bytes | None:
        value = self.text("ipmi_hex_kg_key")
        if not value:
            return None
        try:
            key = bytes.fromhex(value)
        except ValueError:
            key = b""
        if len(key) != _KG_BYTES or len(value) != 2 * _KG_BYTES:
            self.fail("ipmi_hex_kg_key", "is not a Kg key", f"Set it to exactly {2 * _KG_BYTES} hexadecimal digits.")
        return key if any(key) else None  # all zeros is how a BMC says that it has none (section 13.28)

    def choice(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        value = (self.text(key) or default).lower()
        if value not in allowed:
            self.fail(key, "is unknown", f"Set it to one of {', '.join(allowed)}.")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.info.get(key)
        if value is None:
            return default
        word = str(value).strip().lower()
        if word not in _TRUE | _FALSE:
            self.fail(key, "is neither true nor false", "Set it to true or false.")
        return word in _TRUE

    def bridge(self) -> Bridge | None:
        kind = self.choice("ipmi_bridging", "no", ("no", "single", "dual"))
        if kind == "no":
            return None
        keys = ["ipmi_target_channel", "ipmi_target_address"]
        if kind == "dual":
            keys += ["ipmi_transit_channel", "ipmi_transit_address"]
        found: list[str | None] = [self.bus(key) for key in keys]
        for key, value in zip(keys, found, strict=True):
            if value is None:
                self.fail(key, f"is missing, but ipmi_bridging is {kind}", "Set it, or set ipmi_bridging to no.")
        found += [None] * (4 - len(found))
        channel, address, transit_channel, transit_address = found
        assert channel is not None
        assert address is not None
        return Bridge(channel, address, transit_channel, transit_address, self.bus("ipmi_local_address"))

    def bus(self, key: str) -> str | None:
        value = self.text(key)
        if value is None or value == "":
            return None
        try:
            number = int(value, 0)
        except ValueError:
            number = -1
        if not 0 <= number <= 0xFF:
            self.fail(key, "is no bus address or channel", "Set it to a number from 0 to 0xff.")
        return hex(number)
