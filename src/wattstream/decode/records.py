"""What a record must keep to become a reading: once for columns, once for the words.

The columns only tell which rows are wrong; the rules for one record tell why.
"""

import struct
from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

import msgspec
import numpy as np

from wattstream.decode.timestamps import parse, parse_one
from wattstream.domain.errors import ReadingError
from wattstream.domain.readings import (
    KINDS,
    MAX_ENERGY_KWH,
    MAX_ID_LENGTH,
    METER,
    VEHICLE,
    Field,
    Kind,
    Readings,
    Stream,
    is_valid_id,
)
from wattstream.domain.units import MICRO, Bool, Float64, Int64, exact, rfc3339


class Record(msgspec.Struct, gc=False):
    """A record of either kind with the types that clients should send."""

    type: str | None = None
    meterId: str | None = None
    vehicleId: str | None = None
    timestamp: str | None = None
    kwhConsumedAc: float | None = None
    kwhDeliveredDc: float | None = None
    voltage: float | None = None
    soc: float | None = None
    batteryTemp: float | None = None


# One call in C a record, where a name looked up in Python would cost two.
_type, _timestamp = attrgetter("type"), attrgetter("timestamp")
_meter_id, _vehicle_id = attrgetter("meterId"), attrgetter("vehicleId")
_TYPE_CODES = {None: 0, Stream.METER: 1, Stream.VEHICLE: 2}


class Limits(NamedTuple):
    """What a request must keep.

    Attributes:
        oldest_us: Earliest timestamp, microseconds since 1970, inclusive.
        newest_us: Latest one, inclusive.
        max_records: Most records of a batch, as `check_array` and `check_count` count them.
        max_patient: Most records that are looked at one by one; None for any number.
        give_way: Called every few records of those, so that other threads run.
    """

    oldest_us: int
    newest_us: int
    max_records: int = 250_000
    max_patient: int | None = None
    give_way: Callable[[], None] = lambda: None


class TakesLongError(Exception):
    """More records must be looked at one by one than the caller has time for."""


def kind_of(record: Record) -> Kind:
    """Return which kind a record is of.

    Raises:
        ReadingError: Its type is unknown, or both ids or neither are there without one.
    """
    if record.type is not None:
        for stream, kind in KINDS.items():
            if record.type == stream or record.type.lower() == stream:
                return kind
        raise ReadingError(
            f'type must be "meter" or "vehicle", got {shown(record.type)}',
            code="type_unknown",
            field="type",
        )
    if record.vehicleId is None:
        if record.meterId is None:
            raise ReadingError(
                "a reading needs meterId or vehicleId", code="id_missing", field="meterId"
            )
        return METER
    if record.meterId is not None:
        raise ReadingError(
            "meterId and vehicleId are both there; add type to say which one reports",
            code="id_ambiguous",
            field="type",
        )
    return VEHICLE


def rows_by_stream(records: list[Record]) -> dict[Stream, Int64]:
    """Return the rows of each stream, ascending; a row in neither breaks a rule of `kind_of`."""
    types = list(map(_type, records))
    code = np.zeros(len(records), np.int8)
    if types.count(None) < len(types):
        code = np.fromiter((_TYPE_CODES.get(t and t.lower(), -1) for t in types), np.int8)
    has_meter = np.array([device is not None for device in map(_meter_id, records)], np.bool_)
    has_vehicle = np.array([device is not None for device in map(_vehicle_id, records)], np.bool_)
    code = np.where((code == 0) & (has_meter != has_vehicle), np.where(has_meter, 1, 2), code)
    return {stream: np.flatnonzero(code == _TYPE_CODES[stream]) for stream in Stream}


def homeless(record: Record) -> ReadingError:
    """Return why a record is of no stream."""
    try:
        kind = kind_of(record)
    except ReadingError as error:
        return error
    raise AssertionError(f"rows and rules disagree on {record!r}: {kind.stream}")


class Unchecked(NamedTuple):
    """Records of one kind as columns of n rows, before any rule is looked at.

    Attributes:
        ids: Outside ids, empty where one is missing.
        times: Timestamps as sent, empty where one is missing.
        energy_kwh: None where it is missing.
        fields: Optional fields in the order of the kind, None where absent.
    """

    ids: list[str]
    times: list[str]
    energy_kwh: list[float | None]
    fields: list[list[float | None]]

    def record(self, kind: Kind, row: int) -> Record:
        """Return one row as a record, without a type."""
        record = Record(timestamp=self.times[row])
        setattr(record, kind.id_key, self.ids[row])
        setattr(record, kind.energy_key, self.energy_kwh[row])
        for field, column in zip(kind.fields, self.fields, strict=True):
            setattr(record, field.key, column[row])
        return record


def columns(records: list[Record], kind: Kind, limits: Limits) -> tuple[Readings, Bool]:
    """Return records as columns, and which rows keep every rule; the others hold nonsense."""
    unchecked = Unchecked(
        [device or "" for device in map(attrgetter(kind.id_key), records)],
        [text or "" for text in map(_timestamp, records)],
        list(map(attrgetter(kind.energy_key), records)),
        [list(map(attrgetter(field.key), records)) for field in kind.fields],
    )
    return checked_columns(unchecked, kind, limits)


def checked_columns(unchecked: Unchecked, kind: Kind, limits: Limits) -> tuple[Readings, Bool]:
    """Return columns in units of ours, and which rows keep every rule; the others hold nonsense."""
    good = _good_ids(unchecked.ids)
    at_us = parse(unchecked.times)
    good &= (at_us >= limits.oldest_us) & (at_us <= limits.newest_us)
    energy = _floats(unchecked.energy_kwh)
    good &= (energy >= 0) & (energy <= MAX_ENERGY_KWH)
    values = np.empty((len(good), len(kind.fields)))
    for i, field in enumerate(kind.fields):
        column = _floats(unchecked.fields[i])
        good &= np.isnan(column) | ((column >= field.low) & (column <= field.high))
        values[:, i] = column
    if not good.all():
        energy = np.where(good, energy, 0)
    energy_ukwh = np.rint(energy * MICRO).astype(np.int64)
    return Readings(kind.stream, unchecked.ids, at_us, energy_ukwh, values), good


def chosen_rows(readings: Readings, good: Bool) -> Readings:
    """Return the rows that are good."""
    return Readings(
        readings.stream,
        [device for device, is_good in zip(readings.ids, good.tolist(), strict=True) if is_good],
        readings.at_us[good],
        readings.energy_ukwh[good],
        readings.values[good],
    )


def _floats(column: list[float | None]) -> Float64:
    """Return numbers as an array, float64[n], read-only; NaN where there is none."""
    try:  # packed in half the time that NumPy needs for a list
        return np.frombuffer(struct.pack(f"{len(column)}d", *column))
    except struct.error:
        return np.array(column, np.float64)


def _good_ids(ids: list[str]) -> Bool:
    joined = "\n".join(ids)
    if joined.isascii():
        text = np.frombuffer(f"{joined}\n".encode(), np.uint8)
        ends = np.flatnonzero(text <= ord(" "))
        if len(ends) == len(ids) and text.max() <= ord("~"):
            lengths = np.diff(ends, prepend=-1) - 1
            return np.asarray((lengths >= 1) & (lengths <= MAX_ID_LENGTH))
    elif " " not in joined and "".join(ids).isprintable():
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.asarray((lengths >= 1) & (lengths <= MAX_ID_LENGTH))
    return np.array([is_valid_id(device) for device in ids])


def explained(record: Record, kind: Kind, limits: Limits) -> ReadingError:
    """Return why the columns refused a record."""
    try:
        checked(record, kind, limits)
    except ReadingError as error:
        return error
    raise AssertionError(f"columns and rules disagree on {record!r}")


def checked(record: Record, kind: Kind, limits: Limits) -> tuple[str, int, int, tuple[float, ...]]:
    """Return id, time, micro-kWh and fields of a record.

    Raises:
        ReadingError: It breaks a rule; the message says which and by what.
    """
    device = checked_id(record, kind)
    energy = getattr(record, kind.energy_key)
    if energy is None:
        raise ReadingError(
            f"{kind.energy_key} is missing ({kind.stream} {device})",
            code="energy_missing",
            field=kind.energy_key,
        )
    if not 0 <= energy <= MAX_ENERGY_KWH:
        raise ReadingError(
            f"{kind.energy_key} must be in [0, 1000000000] kWh, got {exact(energy)} "
            f"({kind.stream} {device})",
            code="energy_out_of_range",
            field=kind.energy_key,
        )
    values = tuple([_checked_field(record, field, kind, device) for field in kind.fields])
    return device, _checked_time(record, limits, kind, device), round(energy * MICRO), values


def checked_id(record: Record, kind: Kind) -> str:
    """Return the id that a record reports for its kind.

    Raises:
        ReadingError: It has none, or one that is not allowed.
    """
    device = getattr(record, kind.id_key)
    if device is None:
        raise ReadingError(
            f"a {kind.stream} needs {kind.id_key}", code="id_missing", field=kind.id_key
        )
    if not is_valid_id(device):
        raise ReadingError(
            f"{kind.id_key} must be 1 to {MAX_ID_LENGTH} printable characters without white "
            f"space, got {shown(device)}",
            code="id_invalid",
            field=kind.id_key,
        )
    return str(device)


def _checked_field(record: Record, field: Field, kind: Kind, device: str) -> float:
    value = getattr(record, field.key)
    if value is None:
        return float("nan")
    if not field.low <= value <= field.high:
        raise ReadingError(
            f"{field.key} must be in [{field.low:g}, {field.high:g}] {field.unit}, "
            f"got {exact(value)} ({kind.stream} {device})",
            code=f"{field.name}_out_of_range",
            field=field.key,
        )
    return float(value)


def _checked_time(record: Record, limits: Limits, kind: Kind, device: str) -> int:
    def error(code: str, message: str) -> ReadingError:
        words = f"timestamp {message} ({kind.stream} {device})"
        return ReadingError(words, code=code, field="timestamp")

    text = record.timestamp
    if text is None:
        raise error("timestamp_missing", "is missing")
    try:
        at_us = parse_one(text)
    except ValueError as reason:
        code = "timestamp_without_offset" if "offset;" in str(reason) else "timestamp_invalid"
        raise error(code, f"{shown(text)} {reason}") from reason
    if at_us > limits.newest_us:
        raise error(
            "timestamp_in_future",
            f"must not be later than {rfc3339(limits.newest_us)}, got {shown(text)}",
        )
    if at_us < limits.oldest_us:
        raise error(
            "timestamp_too_old",
            f"must not be earlier than {rfc3339(limits.oldest_us)}, got {shown(text)}",
        )
    return at_us


def shown(value: str | bytes) -> str:
    """Return what was sent as a message may show it: short, in ASCII quotes, escaped."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else repr(value)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 60 else text[:57] + "…"
