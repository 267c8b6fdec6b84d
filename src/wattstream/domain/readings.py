"""What a reading is: the two streams, their fields and limits, and readings as columns.

CONTRIBUTING.md tells what a new field touches besides this file.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from wattstream.domain.units import Float64, Int64

MAX_ENERGY_KWH = 1e9
MAX_ID_LENGTH = 128


class Stream(enum.StrEnum):
    """The two kinds of device."""

    METER = "meter"
    VEHICLE = "vehicle"


@dataclass(frozen=True, slots=True)
class Field:
    """An optional measurement of a reading.

    Attributes:
        key: Its JSON key.
        column: Its column in history and live state, unit suffix included.
        name: Stem of its columns in rollups, `<name>_sum_micro` and `<name>_count`.
        low: Least allowed value, inclusive.
        high: Greatest allowed value, inclusive.
        unit: As shown to people.
    """

    key: str
    column: str
    name: str
    low: float
    high: float
    unit: str


@dataclass(frozen=True, slots=True)
class Kind:
    """The shape of one stream's readings."""

    stream: Stream
    id_key: str
    energy_key: str
    fields: tuple[Field, ...]


METER = Kind(
    Stream.METER,
    "meterId",
    "kwhConsumedAc",
    (Field("voltage", "voltage_v", "voltage", 0, 2000, "V"),),
)
VEHICLE = Kind(
    Stream.VEHICLE,
    "vehicleId",
    "kwhDeliveredDc",
    (
        Field("soc", "soc_percent", "soc", 0, 100, "%"),
        Field("batteryTemp", "battery_temp_c", "battery_temp", -60, 150, "°C"),
    ),
)
KINDS = {Stream.METER: METER, Stream.VEHICLE: VEHICLE}


def is_valid_id(device: str) -> bool:
    """Return whether an outside id is 1–128 printable characters without white space."""
    return 1 <= len(device) <= MAX_ID_LENGTH and device.isprintable() and " " not in device


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings of one stream as columns, n rows in order of arrival.

    Attributes:
        stream: The stream of all rows.
        ids: Outside ids, n strings.
        at_us: Measured at, int64[n], microseconds.
        energy_ukwh: Value as sent, int64[n], micro-kWh.
        values: Optional fields in the order of the kind, float64[n, k]; NaN where absent.
    """

    stream: Stream
    ids: list[str]
    at_us: Int64
    energy_ukwh: Int64
    values: Float64

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> "Readings":
        """Return rows [start, stop), sharing memory."""
        rows = slice(start, stop)
        return Readings(
            self.stream, self.ids[rows], self.at_us[rows], self.energy_ukwh[rows], self.values[rows]
        )


class Row(NamedTuple):
    """One reading, where arrays of one element would cost more than all the rest.

    Attributes:
        stream: Its stream.
        device: Outside id.
        at_us: Measured at, microseconds.
        energy_ukwh: Value as sent, micro-kWh.
        values: Optional fields in the order of the kind; NaN where absent.
    """

    stream: Stream
    device: str
    at_us: int
    energy_ukwh: int
    values: tuple[float, ...]


def from_rows(rows: Sequence[Row]) -> Readings:
    """Return rows of one stream, at least one, as columns."""
    _, ids, at_us, energy_ukwh, values = zip(*rows, strict=True)
    return Readings(
        rows[0].stream, list(ids), np.array(at_us), np.array(energy_ukwh), np.array(values)
    )


def to_rows(readings: Readings) -> list[Row]:
    """Return columns as rows."""
    columns = (readings.at_us.tolist(), readings.energy_ukwh.tolist(), readings.values.tolist())
    return [
        Row(readings.stream, device, at_us, energy, tuple(values))
        for device, at_us, energy, values in zip(readings.ids, *columns, strict=True)
    ]


def concat(parts: Sequence[Readings | Row]) -> Readings:
    """Join parts of one stream in their order; at least one part."""
    joined: list[Readings] = []
    for is_row, group in groupby(parts, lambda part: isinstance(part, Row)):
        some = list(group)
        joined += [from_rows(some)] if is_row else some  # type: ignore[arg-type]
    if len(joined) == 1:
        return joined[0]
    return Readings(
        joined[0].stream,
        [device for part in joined for device in part.ids],
        np.concatenate([part.at_us for part in joined]),
        np.concatenate([part.energy_ukwh for part in joined]),
        np.concatenate([part.values for part in joined]),
    )


class Conflict(NamedTuple):
    """Both values of a reading that was sent twice, by the keys of a reading; None where absent.

    Attributes:
        kept: What stands.
        got: What was refused.
    """

    kept: dict[str, float | None]
    got: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that was refused, kept with the reason.

    Attributes:
        index: Position in its request, from 0.
        code: Stable name of the broken rule.
        message: For people.
        field: The key that breaks the rule, or None.
        record: The record as it came, bytes of JSON or of whatever was sent instead.
        stream: Its stream, where that much was clear.
        device: Its outside id, where that much was clear.
        conflict: Both values, where the record contradicts the reading that is kept.
    """

    index: int
    code: str
    message: str
    field: str | None
    record: bytes
    stream: Stream | None = None
    device: str | None = None
    conflict: Conflict | None = None
