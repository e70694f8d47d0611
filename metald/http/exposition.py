"""Sensors of the whole fleet in Prometheus' text format, written without its library: there may be hundreds of thousands of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from metald.statemachine.sensor_sweep import Reading

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_HEALTH: Final = {"ok": 0, "warning": 1, "critical": 2}
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def sensors(readings: Mapping[str, Reading]) -> bytes:
    """The text. It may take a while: call it in a thread, with a copy."""
    blocks = (
        _block("sensor", "What a sensor measures, in its unit.", _values(readings)),
        _block("sensor_health", "0 is well, 1 a warning, 2 critical, 3 failed.", _healths(readings)),
        _block("sensors_read_failed", "1 where the last reading failed.", _nodes(readings, lambda one: float(one.failed))),
        _block("sensors_read_at_seconds", "When a node's sensors were read last, since 1970.", _nodes(readings, lambda one: one.at)),
    )
    return "".join(line for block in blocks for line in block).encode()


def _block(name: str, text: str, samples: Iterator[tuple[Mapping[str, str], float]]) -> Iterator[str]:
    yield f"# HELP metald_{name} {text}\n# TYPE metald_{name} gauge\n"
    seen: set[tuple[str, ...]] = set()
    for labels, value in samples:
        key = tuple(labels.values())
        if key not in seen:  # some BMCs give two sensors one name, which Prometheus refuses altogether
            seen.add(key)
            inner = ",".join(f'{label}="{str(text).translate(_ESCAPES)}"' for label, text in labels.items())
            yield f"metald_{name}{{{inner}}} {value:.17g}\n"


def _values(readings: Mapping[str, Reading]) -> Iterator[tuple[Mapping[str, str], float]]:
    for uuid, reading in readings.items():
        for one in reading.sensors:
            if one.value is not None:
                yield {"node": uuid, "name": reading.name, "sensor": one.name, "type": one.type, "unit": one.units}, one.value


def _healths(readings: Mapping[str, Reading]) -> Iterator[tuple[Mapping[str, str], float]]:
    for uuid, reading in readings.items():
        for one in reading.sensors:
            yield {"node": uuid, "name": reading.name, "sensor": one.name, "type": one.type}, _HEALTH.get(one.health, 3)


def _nodes(readings: Mapping[str, Reading], value: Callable[[Reading], float]) -> Iterator[tuple[Mapping[str, str], float]]:
    for uuid, reading in readings.items():
        yield {"node": uuid, "name": reading.name}, value(reading)
