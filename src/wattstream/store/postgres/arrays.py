"""NumPy columns to and from PostgreSQL arrays, in PostgreSQL's binary form.

Whole columns cross the wire as one value each, so Python does no work per row.
Source: PostgreSQL sources, `array_send` and `array_recv`; documentation 54.2.7 (COPY, binary).
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from psycopg import pq
from psycopg.abc import AdaptContext
from psycopg.adapt import Buffer, Dumper, Loader

from wattstream.domain.units import (
    BUCKET_US,
    MINUTE_US,
    NEVER_US,
    Float64,
    Int64,
    Rows,
    to_datetime,
)

# Microseconds from 1970, ours, to 2000, PostgreSQL's. Both ends of int64 are infinities there.
_EPOCH_SHIFT_US = 946_684_800_000_000
_FOREVER_US = 2**63 - 1
_YEAR_1_US, _YEAR_10000_US = -62_135_596_800_000_000, 253_402_300_800_000_000
_TIMESTAMPTZ = 1184
_ELEMENT_OIDS = {"i2": 21, "i4": 23, "i8": 20, "f8": 701}
_ITEMS = {code: np.dtype([("length", ">i4"), ("value", f">{code}")]) for code in _ELEMENT_OIDS}
# Dimensions, whether any is null, element type; then length and lower bound of each dimension.
_HEADER = struct.Struct(">iiI")
_DIMENSION = struct.Struct(">ii")
_COPY_BEGINS, _COPY_ENDS = b"PGCOPY\n\xff\r\n\x00" + bytes(8), b"\xff\xff"
_ARRAY_OIDS = {1005: "i2", 1007: "i4", 1016: "i8", 1022: "f8", 1185: "time"}


def time_param(at_us: int) -> str:
    """Return one time as a statement parameter; beyond the years 1 to 9999 there is no reading."""
    if not _YEAR_1_US <= at_us < _YEAR_10000_US:
        return "-infinity" if at_us < _YEAR_1_US else "infinity"
    return to_datetime(at_us).isoformat()


def minutes_param(bucket_us: int | None) -> "PgArray":
    """Return the minutes of a bucket, counted from 1970, int32[15]; none where there is no bucket.

    With them begin the keys of its readings.
    """
    minutes = 0 if bucket_us is None else BUCKET_US // MINUTE_US
    first = (bucket_us or 0) // MINUTE_US
    return PgArray(np.arange(first, first + minutes, dtype=np.int32))


def is_time(column: str) -> bool:
    """Return whether a column of that name holds times."""
    return column.endswith("_at")


def to_pg_time(at_us: Int64) -> Int64:
    """Return times as PostgreSQL keeps them; the ends of int64 stay infinities."""
    infinite = (at_us == NEVER_US) | (at_us == _FOREVER_US)
    return np.where(infinite, at_us, at_us - np.where(infinite, 0, _EPOCH_SHIFT_US))


def from_pg_time(pg_us: Int64) -> Int64:
    """Return PostgreSQL's times as ours; infinities stay the ends of int64."""
    infinite = (pg_us == NEVER_US) | (pg_us == _FOREVER_US)
    return np.where(infinite, pg_us, pg_us + np.where(infinite, 0, _EPOCH_SHIFT_US))


class PgArray:
    """A column, or several of one type as a table, ready to be sent; statements cast it."""

    def __init__(self, column: NDArray[Any], *, times: bool = False) -> None:
        """Pack int16, int32, int64 or float64, [n] or [n, k]; `times`: microseconds of ours."""
        if times:
            column = to_pg_time(column)
        code = column.dtype.str[1:]
        oid = _TIMESTAMPTZ if times else _ELEMENT_OIDS[code]
        if len(column) == 0:
            self.data = bytearray(_HEADER.pack(0, 0, oid))
            return
        layout = _ITEMS[code]
        begin = _HEADER.size + column.ndim * _DIMENSION.size
        self.data = bytearray(begin + column.size * layout.itemsize)
        _HEADER.pack_into(self.data, 0, column.ndim, 0, oid)
        for axis, length in enumerate(column.shape):
            _DIMENSION.pack_into(self.data, _HEADER.size + axis * _DIMENSION.size, length, 1)
        items = np.frombuffer(self.data, layout, offset=begin).reshape(column.shape)
        items["length"] = column.dtype.itemsize
        items["value"] = column


class _PgArrayDumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: PgArray) -> Buffer:
        return obj.data


class _ColumnLoader(Loader):
    format = pq.Format.BINARY

    def load(self, data: Buffer) -> NDArray[Any]:
        code = _ARRAY_OIDS[self.oid]
        element = "i8" if code == "time" else code
        dimensions = struct.unpack_from(">i", data)[0]
        items = np.frombuffer(data, _ITEMS[element], offset=20 if dimensions else 12)
        column = items["value"].astype(element)
        return from_pg_time(column) if code == "time" else column


class _TimeLoader(Loader):
    format = pq.Format.BINARY

    def load(self, data: Buffer) -> int:
        pg_us = int.from_bytes(data, "big", signed=True)
        return pg_us if pg_us in (NEVER_US, _FOREVER_US) else pg_us + _EPOCH_SHIFT_US


def register(context: AdaptContext) -> None:
    """Make a connection take PgArray, read arrays as columns and times as microseconds.

    The loaders are for binary results: ask for them with `binary=True`.
    """
    context.adapters.register_dumper(PgArray, _PgArrayDumper)
    for oid in _ARRAY_OIDS:
        context.adapters.register_loader(oid, _ColumnLoader)
    context.adapters.register_loader(_TIMESTAMPTZ, _TimeLoader)


def column(rows: Rows, name: str) -> PgArray:
    """Return a column of a structured array as a statement parameter."""
    return PgArray(rows[name], times=is_time(name))


def params(rows: Rows, names: Iterable[str]) -> dict[str, PgArray]:
    """Return columns of a structured array as statement parameters, by name."""
    return {name: column(rows, name) for name in names}


def to_rows(record: Sequence[Any], names: Sequence[str], dtype: np.dtype[np.void]) -> Rows:
    """Return a row of aggregated arrays, one per name, as a structured array.

    Args:
        record: One array per name, all of one length; None throughout where there is nothing.
        names: Columns of `dtype`, in the record's order; other columns become 0.
        dtype: Row type of the result.
    """
    rows = np.zeros(0 if record[0] is None else len(record[0]), dtype)
    for name, column in zip(names, record, strict=True):
        if column is not None:
            rows[name] = column
    return rows


def readings_of(record: Sequence[Any] | None) -> tuple[Int64, Int64, Int64, Float64]:
    """Return device, time, value and fields of aggregated readings."""
    if record is None or record[0] is None:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty, np.zeros((0, len(record or ()) - 3))
    return record[0], record[1], record[2], np.column_stack(record[3:])


def copy_rows(columns: Sequence[NDArray[Any]]) -> memoryview:
    """Pack columns as a binary COPY, rows of a fixed stride; NaN in a float column is null.

    Args:
        columns: int32, int64 or float64, all of one length; times already PostgreSQL's.
    """
    codes = [column.dtype.str[1:] for column in columns]
    fields: list[tuple[str, DTypeLike]] = [("fields", ">i2")]
    for i, code in enumerate(codes):
        fields += [(f"length{i}", ">i4"), (f"value{i}", f">{code}")]
    layout, n = np.dtype(fields), len(columns[0])
    data = bytearray(len(_COPY_BEGINS) + n * layout.itemsize + len(_COPY_ENDS))
    data[: len(_COPY_BEGINS)], data[-len(_COPY_ENDS) :] = _COPY_BEGINS, _COPY_ENDS
    rows = np.frombuffer(data, layout, n, len(_COPY_BEGINS))
    rows["fields"] = len(columns)
    absent = []
    for i, column in enumerate(columns):
        rows[f"length{i}"] = column.dtype.itemsize
        rows[f"value{i}"] = column
        if column.dtype.kind == "f" and (missing := np.isnan(column)).any():
            rows[f"length{i}"][missing] = -1
            absent.append((layout.fields[f"value{i}"][1], missing))  # type: ignore[index]
    if not absent:
        return memoryview(data)
    body = rows.view(np.uint8).reshape(n, layout.itemsize)
    kept = np.ones(body.shape, np.bool_)
    for offset, missing in absent:
        kept[missing, offset : offset + 8] = False
    return memoryview(_COPY_BEGINS + body[kept].tobytes() + _COPY_ENDS)
