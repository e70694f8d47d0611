"""Errors of the IPMI drivers: which answer of a BMC becomes which error of metald's tree.

Every text names the BMC by address, the cause in words and the remedy; none holds a password or a key.
"""

from __future__ import annotations

from typing import Final

from pyghmi.ipmi.private import constants

from metald.drivers.ipmi import quirks
from metald.drivers.ipmi.info import BmcInfo
from metald.errors import BmcAuthFailed, BmcCipherUnsupported, BmcPrivilegeTooLow, BmcRefused, BmcUnreachable, DriverError

BUSY: Final = frozenset((0xC0, 0xC4, 0xD2))
"""Completion codes of a BMC that did nothing and wants to be asked again shortly (IPMI 2.0 table 5-2): busy, out of space,
still starting."""

UNSURE: Final = frozenset((0xC3, 0xCE, 0xCF))
"""Those of a BMC that may have done what it was asked and cannot say: timed out, no response to be had, and what comes for a
repetition instead of the first answer. What may happen twice is asked anew."""

NOT_NOW: Final = 0xD5
"""Completion code: not possible in the present state."""

IS_FULL: Final = "it has no free session slot; other clients hold them all"
IS_BUSY: Final = "it says that it is busy"
SILENT: Final = {
    "EXPECTINGRAKP2": "it opens a session and then says nothing to the user's name, as some BMCs do when they do not know it",
    "EXPECTINGRAKP4": "it says nothing to the proof of the password, as some BMCs do when password or Kg key is wrong",
}
"""Why a login does not go on, by what pyghmi calls the place where it stands."""

PRIVILEGE_TOO_LOW: Final = 0xD4

# RMCP+ and RAKP status codes, IPMI 2.0 table 13-15.
FULL: Final = frozenset((0x01, 0x0B, 0xC0))
"""No room for another session; some BMCs send the completion code of a busy one here."""
_STALE_SESSION: Final = frozenset((0x02, 0x08))
_ROLE: Final = frozenset((0x09, 0x0A))
_NAME: Final = frozenset((0x0C, 0x0D))
_INTEGRITY: Final = 0x0F

_REACH = "Check ipmi_address and ipmi_port, the network between, and that the BMC has IPMI over LAN enabled."
_CREDENTIALS = "Check ipmi_username and ipmi_password in driver_info against the BMC's users."


class CompletionCode(BmcRefused):
    """The BMC answered with a completion code other than 0; `completion` is that code."""

    def __init__(self, message: str, *, completion: int = 0xFF, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.completion = completion


def passes(netfn: int, command: int, code: int, *, repeat: bool) -> bool:
    """Whether a completion code says no more than that the command should be sent anew, a little later.

    Args:
        repeat: whether the command may be carried out twice.
    """
    return code in BUSY or (repeat and code in UNSURE) or (netfn, command, code) in quirks.STILL_STARTING


def completion_text(netfn: int, command: int, code: int) -> str:
    """The words for a completion code: those of the command, else the generic ones (IPMI 2.0 table 5-2)."""
    special = constants.command_completion_codes.get((netfn | 1, command), {})  # filed under the answer's netfn
    text = special.get(code) or constants.ipmi_completion_codes.get(code)
    return f"{text} (0x{code:02x})" if text else f"completion code 0x{code:02x}"


def refused(info: BmcInfo, netfn: int, command: int, code: int) -> DriverError:
    """The error for an answered command whose completion code is not 0."""
    text = completion_text(netfn, command, code)
    if code == PRIVILEGE_TOO_LOW:
        return BmcPrivilegeTooLow(
            f"{info.label} refused command {netfn:#04x} {command:#04x} at privilege level {info.privilege_name}: {text}.",
            remedy="Raise ipmi_priv_level, or the user's privilege limit on the BMC.",
        )
    return CompletionCode(
        f"{info.label} refused command {netfn:#04x} {command:#04x}: {text}.",
        completion=code,
        remedy="See the BMC's event log; the BMC may be busy, or not support this.",
    )


def login_refused(info: BmcInfo, status: int) -> DriverError | None:
    """The error for a RAKP status code; None when the message belongs to an attempt that is over."""
    if status in _STALE_SESSION:
        return None
    if status in _NAME:
        return unknown_user(info)
    if status == _INTEGRITY:
        return wrong_password(info)
    if status in _ROLE:
        return privilege_refused(info)
    text = constants.rmcp_codes.get(status, f"status 0x{status:02x}")
    return BmcRefused(f"{info.label} refused the login: {text}.", remedy="See the BMC's event log.")


def unknown_user(info: BmcInfo) -> BmcAuthFailed:
    """No such user, or not enabled on that channel."""
    return BmcAuthFailed(f"{info.label} does not know the user {info.username!r}.", remedy=_CREDENTIALS)


def wrong_password(info: BmcInfo) -> BmcAuthFailed:
    """The BMC's proof does not fit our password: either it is wrong or that is not our BMC."""
    return BmcAuthFailed(f"{info.label} does not share the password of user {info.username!r}.", remedy=_CREDENTIALS)


def wrong_kg(info: BmcInfo) -> BmcAuthFailed:
    """User and password fit, the session key does not: the BMC has another Kg key."""
    have = "the one in driver_info is not it" if info.kg else "driver_info has none"
    return BmcAuthFailed(f"{info.label} uses a Kg key, and {have}.", remedy="Set ipmi_hex_kg_key to the BMC's Kg key.")


def privilege_refused(info: BmcInfo) -> BmcPrivilegeTooLow:
    """The user may not have the level asked for."""
    return BmcPrivilegeTooLow(
        f"{info.label} does not grant user {info.username!r} the privilege level {info.privilege_name}.",
        remedy="Set ipmi_priv_level to the user's level (OPERATOR suffices for power and boot device), or raise it on the BMC.",
    )


def no_suite(info: BmcInfo) -> BmcCipherUnsupported:
    """None of the cipher suites was accepted."""
    tried = " and ".join(str(suite) for suite in info.suites)
    return BmcCipherUnsupported(
        f"{info.label} does not accept cipher suite {tried}.",
        remedy="Enable suite 17 or 3 on the BMC, or use interface ipmitool with ipmi_cipher_suite set to one that it has.",
    )


def only_ipmi_15(info: BmcInfo) -> BmcCipherUnsupported:
    """The BMC has no RMCP+."""
    return BmcCipherUnsupported(
        f"{info.label} speaks IPMI 1.5 only, which cannot encrypt.",
        remedy="Enable IPMI 2.0 on it, or use interface ipmitool with ipmi_protocol_version 1.5.",
    )


def unreachable(info: BmcInfo, seconds: float, cause: str = "") -> BmcUnreachable:
    """The BMC did not answer in time."""
    why = f" ({cause})" if cause else ""
    return BmcUnreachable(f"{info.label} did not answer within {seconds:.3g} seconds{why}.", remedy=_REACH)


def left_alone(cause: DriverError, failures: int, seconds: float) -> DriverError:
    """The BMC failed so often that it is not asked for a while; an error of the same kind as its last."""
    error = type(cause)(
        f"{cause.message} It is left alone after {failures} failures in a row, and tried again in {max(seconds, 0.1):.1f} seconds.",
        remedy=cause.remedy,
    )
    error.exchange = cause.exchange
    return error


def unknown_name(info: BmcInfo, cause: str) -> BmcUnreachable:
    """The host name has no address."""
    return BmcUnreachable(f"{info.label}: the name cannot be resolved ({cause}).", remedy="Check ipmi_address and the name servers.")


def unsure(info: BmcInfo, seconds: float) -> BmcUnreachable:
    """A command that must not be sent twice was sent, and no answer came."""
    return BmcUnreachable(
        f"{info.label} did not answer within {seconds:.3g} seconds; whether it obeyed is not known.",
        remedy="Look at the machine before you repeat the command.",
    )
