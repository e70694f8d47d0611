"""What every section of the settings is made of, and the error that names a wrong one."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Duration = Annotated[float, Meta(gt=0)]


class ConfigError(Exception):
    """A setting is wrong. The text names the setting, where it came from, and the remedy."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section."""
