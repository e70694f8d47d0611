"""What pyghmi's `Command` reads of a BMC, as plain values: sensors, parts (FRU), network settings (LAN), event log (SEL).

Rules: each function runs inside of `PyghmiCommands.call`, where it may wait; whatever type pyghmi made of a BMC's bytes, what
leaves here are JSON values, and bounded. What a BMC says that it has none of is empty, and no error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from pyghmi import constants
from pyghmi.exceptions import PyghmiException

from metald.drivers.base import Sensor
from metald.drivers.ipmi.refusal import CompletionCode

if TYPE_CHECKING:
    from pyghmi.ipmi.command import Command

_NOTHING_THERE: Final = frozenset((0xC9, 0xCB))
"""Completion codes of a BMC that has none of what it was asked for: parameter out of range, sensor, data or record not present."""

_MOST: Final = 10_000
_MOST_TEXT: Final = 1024
_HEALTH: Final = {constants.Health.Ok: "ok", constants.Health.Warning: "warning", constants.Health.Critical: "critical"}


def sensors(command: Command) -> list[Sensor]:
    """Every sensor, read once."""
    return [_sensor(reading) for reading in _there(command, command.get_sensor_data())]


def parts(command: Command) -> list[dict[str, Any]]:
    """The board itself, and each FRU device that the sensor repository names."""
    return [{"name": str(name), "info": plain(found)} for name, found in _there(command, command.get_inventory()) if found]


def network(command: Command) -> dict[str, Any]:
    """IPv4 of the channel that is in use."""
    return {str(key): plain(value) for key, value in command.get_net_configuration(gateway_macs=False).items()}


def event_log(command: Command) -> list[dict[str, Any]]:
    """Every record, oldest first."""
    from pyghmi.ipmi import events

    for _ in _there(command, _names(command)):
        break
    names = command._sdr or SimpleNamespace(sensors={}, fru={})
    records = events.EventHandler(names, command).fetch_sel(command)
    return [{str(key): plain(value) for key, value in record.items()} for record in records[:_MOST]]


def _names(command: Command) -> Iterator[object]:
    """The repository that has the sensors' names; events can be told without."""
    yield command.init_sdr()


def _there(command: Command, found: Iterable[Any]) -> Iterator[Any]:
    """What there is, until the BMC says that there is no such thing."""
    try:
        yield from islice(found, _MOST)
    except PyghmiException:
        refusal = command.ipmi_session.refusal
        if not isinstance(refusal, CompletionCode) or refusal.completion not in _NOTHING_THERE:
            raise


def _sensor(reading: Any) -> Sensor:
    return Sensor(
        name=str(reading.name),
        type=str(reading.type),
        value=None if reading.unavailable or not isinstance(reading.value, int | float) else float(reading.value),
        units=(reading.units or "").strip(),
        health=_HEALTH.get(reading.health, "failed"),
        states=tuple(str(state) for state in reading.states),
    )


def plain(value: Any) -> Any:
    """A JSON value: bytes as hexadecimal digits, what is none of JSON's types as text, texts of bounded length."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray):
        return bytes(value)[:_MOST_TEXT].hex(" ")
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return str(value)[:_MOST_TEXT]
