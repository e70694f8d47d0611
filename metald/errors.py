"""The whole tree of errors that metald raises on purpose.

Each error says whose fault it is, which HTTP status it becomes, and what to do next. The text of an error is for
users: it names the thing, the cause and the remedy, and never holds a secret. Anything that is not in this tree and
reaches the API is a defect and answers 500 without its text.

    MetaldError
    |- Invalid (400)            the request or a node's settings are wrong
    |  |- Unsupported           the hardware type or interface cannot do this
    |  `- WrongState            the verb does not lead on from this state
    |- NotAllowed (401, 403)
    |- NotFound (404)
    |- NotAcceptable (406)      the API version asked for does not know this
    |- Conflict (409)           the thing changed, exists, or is busy: Busy, Duplicate, StaleVersion
    |- Expired (408)            it was not to be done that late
    |- Purged (410)             the events after this one are not kept any more
    |- PreconditionFailed (412) the thing is not what If-Match names
    |- Unavailable (503)        the store is gone or the disk is full; or too many wait already: Full
    `- WorldError (500)         a machine, a network or a server out there said no
       |- DriverError           BmcUnreachable, BmcAuthFailed, BmcCipherUnsupported, BmcPrivilegeTooLow, BmcRefused,
       |                      HostUnreachable, HostAuthFailed, HostRefused
       |- ImageError            an image cannot be fetched, verified or written
       |- DeployError           a ramdisk died, a disk is missing or too small
       |- InspectionError       what a ramdisk found in a machine is not as it must be
       `- DeadlineExceeded      something outside did not happen in time
"""

from __future__ import annotations

from typing import ClassVar


class MetaldError(Exception):
    """Base of all errors.

    Args:
        message: what happened, naming the thing; a sentence for users.
        remedy: what to do next; appended to the text when given.
        field: the name of the offending input field, when there is one.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "error"
    advice: ClassVar[str] = "Read the text; the daemon's log tells more under the request's id."
    """What to do about errors of this kind, in general: docs/reference/errors.md is made of it."""

    def __init__(self, message: str, *, remedy: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.field = field

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message


class Invalid(MetaldError):
    """The request, or what is stored of the node, is wrong."""

    status = 400
    code = "invalid"
    advice = "Correct the field that is named and send the request again."


class Unsupported(Invalid):
    """The hardware type or the interface cannot do this."""

    code = "unsupported"
    advice = "Choose another interface of the hardware type, or another hardware type; `GET /v1/drivers` shows what is enabled."


class WrongState(Invalid):
    """The verb does not lead on from the node's state."""

    code = "wrong-state"
    advice = "Ask for a verb that leads on from the present state; `GET /v1/nodes/{node}/explain` lists them."


class InMaintenance(Invalid):
    """The node is out of service, and the verb needs it in service."""

    code = "maintenance"
    advice = "See `maintenance_reason` and `fault`; when that is mended, clear the maintenance."


class Retired(Invalid):
    """The node is to leave the fleet and takes no new instance."""

    code = "retired"
    advice = "Unset `retired` if the node is to stay."


class NotAuthenticated(MetaldError):
    """Nobody proved who they are."""

    status = 401
    code = "not-authenticated"
    advice = "Send credentials that are known and have not expired."


class NotAllowed(MetaldError):
    """The caller may not do this, or the node is protected."""

    status = 403
    code = "not-allowed"
    advice = "Use an account that may do this, or unset `protected` first."


class Protected(NotAllowed):
    """The node's instance must not be removed."""

    code = "protected"
    advice = "See `protected_reason`; unset `protected` first."


class NotFound(MetaldError):
    """There is no such thing."""

    status = 404
    code = "not-found"
    advice = "Check the name or the UUID; what may not be seen is not found either."


class NotAcceptable(MetaldError):
    """The API version asked for does not know this."""

    status = 406
    code = "not-acceptable"
    advice = "Ask for a newer microversion in `X-OpenStack-Ironic-API-Version`."


class Conflict(MetaldError):
    """The thing is in a condition that does not admit the change."""

    status = 409
    code = "conflict"
    advice = "Look at the thing as it is now, then decide whether the change is still wanted."


class Busy(Conflict):
    """A workflow or another request owns the node; retry later."""

    code = "busy"
    advice = "Send the request again after the seconds that `Retry-After` says."


class Duplicate(Conflict):
    """The name, address or UUID is taken."""

    code = "duplicate"
    advice = "Choose another value, or use the thing that has it."


class StaleVersion(Conflict):
    """The row changed between reading and writing."""

    code = "stale-version"
    advice = "Read the thing again and repeat the change."


class PreconditionFailed(MetaldError):
    """The thing is no longer as the client's If-Match says."""

    status = 412
    code = "precondition-failed"
    advice = "Get the thing again, look at what changed, and repeat the change with the new `ETag`."


class TooLarge(MetaldError):
    """The body or the image is over its limit."""

    status = 413
    code = "too-large"
    advice = "Send less, or raise the limit in the settings."


class Expired(MetaldError):
    """What was asked for was not to be done that late."""

    status = 408
    code = "expired"


class Purged(MetaldError):
    """What was asked for was kept once, and is not any more."""

    status = 410
    code = "gap"
    advice = "Read the present state first, then watch from the number that it came with."


class Unavailable(MetaldError):
    """The store cannot take the write now; nothing was changed."""

    status = 503
    code = "unavailable"
    advice = "Send the request again later; see the daemon's log and `GET /readyz`."


class Full(Unavailable):
    """Too many wait already for what this would wait for; nothing was changed."""

    code = "full"
    advice = "Send it again when fewer wait, or raise the setting that is named."


class WorldError(MetaldError):
    """Something outside the daemon failed. `transient` tells the engine whether a retry may help."""

    code = "world"
    advice = "Look at the machine, the network or the server that is named."
    transient: ClassVar[bool] = False
    exchange: tuple[str, ...] = ()
    """What was said to the machine last and what it answered, a line each, without secrets; for the node's time-line."""


class DriverError(WorldError):
    """A BMC or a hypervisor refused or failed."""

    code = "driver"
    advice = "Look at the BMC: its web page, its log, its firmware."


class BmcUnreachable(DriverError):
    """The BMC did not answer within its budget."""

    code = "bmc-unreachable"
    advice = "Check the address in `driver_info`, the cable and the BMC's network; metald tries again by itself."
    transient = True


class BmcAuthFailed(DriverError):
    """The BMC refused the user name or the password."""

    code = "bmc-auth"
    advice = "Correct the user name and the password in `driver_info`."


class BmcCipherUnsupported(DriverError):
    """The BMC and metald share no cipher suite."""

    code = "bmc-cipher"
    advice = "Enable cipher suite 17 or 3 on the BMC."


class BmcPrivilegeTooLow(DriverError):
    """The BMC user may not do this."""

    code = "bmc-privilege"
    advice = "Give the BMC's user a higher privilege, or set the one it has in `driver_info`."


class BmcRefused(DriverError):
    """The BMC answered with an error completion code."""

    code = "bmc-refused"
    advice = "Look up the completion code in the BMC's manual; a cold reset of the BMC often helps."


class HostUnreachable(DriverError):
    """The hypervisor host cannot be reached by SSH, or the connection to it broke."""

    code = "host-unreachable"
    advice = "Check `ssh_address` and `ssh_port`, the network and the host's sshd; metald tries again by itself."
    transient = True


class HostAuthFailed(DriverError):
    """The hypervisor host refused the login, or proved not to be the host that is trusted."""

    code = "host-auth"
    advice = "Correct the user name, the password or the key in `driver_info`; compare the host key with the host's own."


class HostRefused(DriverError):
    """The hypervisor does not have the machine, or refused what was asked of it."""

    code = "host-refused"
    advice = "Run the command that is named on the host, as the same user, and see what it says."


class ImageError(WorldError):
    """An image cannot be fetched, verified, converted or written."""

    code = "image"
    advice = "Check the image's URL, its checksum and the server that it comes from."


class DeployError(WorldError):
    """The ramdisk or the disk cannot do what the deployment needs."""

    code = "deploy"
    advice = "Look at the node's time-line and at its console."


class RamdiskLost(DeployError):
    """The ramdisk went away in the middle of its work."""

    code = "ramdisk-lost"
    advice = "Look at the machine's console: it crashed, restarted or lost its network."
    transient = True


class InspectionError(WorldError):
    """What a ramdisk told of its machine cannot be used, or a rule of the operator's refuses it."""

    code = "inspection"
    advice = "Correct the inspection rule, or the inventory that it does not fit."


class DeadlineExceeded(WorldError):
    """Something outside did not happen in time."""

    code = "deadline"
    advice = "Look at what was waited for; raise its time in the settings when it is only slow."
