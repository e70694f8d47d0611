"""Microversions: which one a request asks for, and what an answer says about them.

Rules: a request without a version gets the oldest; the standard header wins over the old one; the effective version of
the answer is that of the request. A version that is not served answers 406 with the range, which is how clients find the
version they both know.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

from multidict import CIMultiDictProxy

from metald.errors import NotAcceptable

MIN: Final = 1
MAX: Final = 115

OLD_HEADER: Final = "X-OpenStack-Ironic-API-Version"
STANDARD_HEADER: Final = "OpenStack-API-Version"
MIN_HEADER: Final = "X-OpenStack-Ironic-API-Minimum-Version"
MAX_HEADER: Final = "X-OpenStack-Ironic-API-Maximum-Version"

_SERVED: Final = MappingProxyType({f"1.{minor}": minor for minor in range(MIN, MAX + 1)})
_FORM = re.compile(r"(\d{1,5})\.(\d{1,5})")


class BadVersion(NotAcceptable):
    """The version asked for is not served; answered in the routing form of errors, without an effective version."""


def negotiate(headers: CIMultiDictProxy[str]) -> int:
    """The minor version that a request asks for.

    Raises:
        BadVersion: it is not a version, or out of range.
    """
    if STANDARD_HEADER not in headers:
        known = _SERVED.get(headers.get(OLD_HEADER, "1.1"))
        if known is not None and len(headers.getall(OLD_HEADER, ())) < 2:
            return known
    text = _asked(headers)
    if text is None:
        return MIN
    if text.lower() == "latest":
        return MAX
    match = _FORM.fullmatch(text)
    if match is None:
        raise BadVersion(
            f"Invalid value for {OLD_HEADER} header",
            remedy=f"Ask for latest, or for a version from 1.{MIN} to 1.{MAX}.",
            field=OLD_HEADER,
        )
    major, minor = int(match[1]), int(match[2])
    served = f"The supported version range is: [1.{MIN}, 1.{MAX}]."
    if major != 1:
        raise BadVersion(
            f"Mutually exclusive versions requested. Version {major}.{minor} requested but not supported by this service. {served}",
            field=OLD_HEADER,
        )
    if not MIN <= minor <= MAX:
        raise BadVersion(
            f"Version 1.{minor} was requested but the minor version is not supported by this service. {served}", field=OLD_HEADER
        )
    return minor


def _asked(headers: CIMultiDictProxy[str]) -> str | None:
    for header in headers.getall(STANDARD_HEADER, ()):
        for item in reversed(header.split(",")):
            service, _, version = item.strip().partition(" ")
            if service.lower() == "baremetal":
                return version.strip()
    given = headers.getall(OLD_HEADER, None)
    if given is None:
        return None
    return given[0].strip() if len(set(given)) == 1 else "several"


def require(version: int, since: int) -> None:
    """Refuse what came with a later version than the request's.

    Raises:
        NotAcceptable: always with the version that is needed.
    """
    if version < since:
        raise NotAcceptable(f"Request not acceptable. The minimal required API version should be 1.{since}")
