"""Errors on the wire: Ironic's two forms, in one object whose value is a string that holds JSON.

Form A comes from handlers, form B from routing and version negotiation; both are what existing clients parse. Beside it stands
metald's own `metald` object: a machine-readable code, the field at fault, the remedy and a link to what is written of the code.
The text of an error that is not in `metald.errors` never reaches a client.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import orjson

from metald.errors import MetaldError, NotAuthenticated
from metald.http.versions import BadVersion
from metald.model.masking import mask_text

REALM = "Baremetal API"


class BadCredentials(NotAuthenticated):
    """The credentials are missing or wrong.

    Args:
        message: what is wrong.
        challenge: what the header `WWW-Authenticate` says.
    """

    def __init__(self, message: str, challenge: str = f'Basic realm="{REALM}"') -> None:
        super().__init__(message)
        self.challenge = challenge


class RoutingError(MetaldError):
    """There is no such path, the method is wrong, or the path cannot be read; answered in form B."""

    code = "routing"
    advice = "Compare the path and the method with `/openapi.json`."

    def __init__(self, status: int, message: str = "", *, remedy: str = "", field: str | None = None, allow: Iterable[str] = ()) -> None:
        super().__init__(message, remedy=remedy, field=field)
        self.status = status  # type: ignore[misc]  # one class for the few statuses of routing
        self.allow = ", ".join(allow)


class BodyError(MetaldError):
    """The body is too big or too deep; answered without the outer object, as Ironic's middleware does."""

    code = "body"
    advice = "Send less, or raise the limit in the section `api` of the settings."

    def __init__(self, status: int, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy, field="body")
        self.status = status  # type: ignore[misc]


_SHORT = 200
DOCS = "/docs/errors"
"""Where the daemon tells what each code means (see `errorpage`)."""
INTERNAL = "internal"
"""The code of a defect."""


def structured(error: MetaldError) -> dict[str, Any]:
    """metald's own object for an error."""
    return own(error.code, mask_text(error.remedy) or error.advice, error.field)


def own(code: str, remedy: str, field: str | None = None) -> dict[str, Any]:
    """The object of a code that is no error's."""
    return {"code": code, "field": field, "remedy": remedy, "docs": f"{DOCS}#{code}"}


def text_of(error: MetaldError) -> str:
    """What happened and, unless it is long, what to do: one text for people, without secrets."""
    text = error.message
    if error.remedy and len(error.remedy) <= _SHORT:
        text = f"{text}{'' if not text or text[-1] in '.!?' else '.'} {error.remedy}".strip()
    return mask_text(text)


def encode(error: MetaldError) -> bytes:
    """The body that answers `error`."""
    text = text_of(error)
    about = structured(error)
    client = error.status < 500
    if isinstance(error, BodyError):
        return orjson.dumps({"faultcode": "Client", "faultstring": text, "metald": about})
    inner: dict[str, Any]
    if isinstance(error, RoutingError | BadVersion):
        inner = {"code": error.status, "title": HTTPStatus(error.status).phrase, "description": text}
    else:
        inner = {"faultcode": "Client" if client else "Server", "faultstring": text, "debuginfo": None}
    return orjson.dumps({"error_message": orjson.dumps(inner).decode(), "metald": about})


def internal(request_id: str) -> bytes:
    """The body that answers a defect: nothing but the id under which the log tells more."""
    inner = {"faultcode": "Server", "faultstring": f"Internal error; the log knows it as {request_id}.", "debuginfo": None}
    about = own(INTERNAL, f"Report it with the log lines of {request_id}.")
    return orjson.dumps({"error_message": orjson.dumps(inner).decode(), "metald": about})
