"""Columns of an answer as JSON, CSV or an Arrow stream."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import nanoarrow as na  # type: ignore[import-untyped]  # it has no types
import numpy as np
from nanoarrow.ipc import StreamWriter  # type: ignore[import-untyped]
from numpy.typing import NDArray

from wattstream.domain.units import rfc3339_column

CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True, slots=True)
class Text:
    """A column that has the same text in all n rows."""

    key: str
    value: str
    n: int


@dataclass(frozen=True, slots=True)
class Times:
    """A column of times, int64[n], microseconds."""

    key: str
    at_us: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column of float64[n], NaN where absent, or int64[n].

    Attributes:
        unit: As shown to people; "1" for a count.
    """

    key: str
    unit: str
    values: NDArray[np.float64] | NDArray[np.int64]


Column = Text | Times | Numbers


def rows_of(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Return columns as rows of JSON: times RFC 3339, null where a value is absent."""
    keys = [column.key for column in columns]
    return [dict(zip(keys, row, strict=True)) for row in _rows(columns)]


class Encoder(Protocol):
    """What makes bytes of blocks of the same columns, one after the other."""

    def block(self, columns: Sequence[Column]) -> bytes:
        """Return the next rows; the first time, after what stands before all rows."""

    def end(self) -> bytes:
        """Return what stands after all rows."""


class CsvEncoder:
    """CSV with a header line; an absent value is empty. Source: RFC 4180."""

    def __init__(self) -> None:
        self._has_header = False

    def block(self, columns: Sequence[Column]) -> bytes:
        """Return the next rows, the first time after the header."""
        text = io.StringIO()
        writer = csv.writer(text)
        if not self._has_header:
            writer.writerow([column.key for column in columns])
            self._has_header = True
        writer.writerows(_rows(columns))
        return text.getvalue().encode()

    def end(self) -> bytes:
        """Return nothing: CSV has no end mark."""
        return b""


class ArrowEncoder:
    """An Arrow IPC stream, a record batch a block; units are in the metadata of the fields.

    Source: Arrow columnar format, "IPC Streaming Format".
    """

    def __init__(self, metadata: dict[str, str]) -> None:
        """Take what the schema's own metadata shall say."""
        self._metadata = metadata
        self._sink = io.BytesIO()
        self._writer = StreamWriter.from_writable(self._sink)

    def block(self, columns: Sequence[Column]) -> bytes:
        """Return a record batch, the first time after the schema."""
        fields = {column.key: _arrow_field(column) for column in columns}
        schema = na.Schema(na.struct(fields, nullable=False), metadata=self._metadata)
        children = [
            na.c_array_from_buffers(field, _length(column), _buffers(column))
            for field, column in zip(schema.fields, columns, strict=True)
        ]
        n = _length(columns[0])
        self._writer.write_array(na.c_array_from_buffers(schema, n, [None], children=children))
        return self._taken()

    def end(self) -> bytes:
        """Return the end mark."""
        self._writer.close()
        return self._taken()

    def _taken(self) -> bytes:
        written = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return written


def _length(column: Column) -> int:
    match column:
        case Text():
            return column.n
        case Times():
            return len(column.at_us)
        case Numbers():
            return len(column.values)


def _rows(columns: Sequence[Column]) -> "zip[tuple[Any, ...]]":
    return zip(*map(_values, columns), strict=True)


def _values(column: Column) -> list[Any]:
    match column:
        case Text():
            return [column.value] * column.n
        case Times():
            return rfc3339_column(column.at_us)
        case Numbers():
            values: list[Any] = column.values.tolist()
            for row in np.flatnonzero(np.isnan(column.values)).tolist():
                values[row] = None
            return values


def _arrow_field(column: Column) -> na.Schema:
    match column:
        case Text():
            return na.string(nullable=False)
        case Times():
            return na.timestamp("us", "UTC", nullable=False)
        case Numbers():
            is_count = column.values.dtype.kind == "i"
            kind = na.int64(nullable=False) if is_count else na.float64()
            return na.Schema(kind, metadata={"unit": column.unit})


def _buffers(column: Column) -> list[Any]:
    """Return the buffers of an Arrow array: validity first, None where nothing is absent."""
    match column:
        case Text():
            text = column.value.encode()
            offsets = np.arange(column.n + 1, dtype=np.int32) * np.int32(len(text))
            return [None, offsets, text * column.n]
        case Times():
            return [None, np.ascontiguousarray(column.at_us)]
        case Numbers():
            present = ~np.isnan(column.values)
            validity = None if present.all() else np.packbits(present, bitorder="little")
            return [validity, np.ascontiguousarray(column.values)]
