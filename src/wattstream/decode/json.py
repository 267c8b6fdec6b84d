"""JSON bodies to columns of readings, every record with its own verdict.

Four ways, each slower and more patient: the whole body into values of one kind at once; into
those of either kind; record by record; field by field. What one way refuses goes to the next, and
the last one finds the words for what is wrong.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial

import msgspec
import numpy as np

from wattstream.decode.count import check_array, check_count, check_lines
from wattstream.decode.patient import (
    MALFORMED,
    RECORD,
    loosely,
    patiently,
    surrogates_apart,
)
from wattstream.decode.pieces import PIECE_BYTES, pieces
from wattstream.decode.records import (
    Limits,
    Record,
    TakesLongError,
    Unchecked,
    checked,
    checked_columns,
    checked_id,
    chosen_rows,
    columns,
    explained,
    homeless,
    kind_of,
    rows_by_stream,
)
from wattstream.decode.uniform import uniform_array, uniform_lines
from wattstream.domain.errors import MalformedError, ReadingError
from wattstream.domain.readings import KINDS, Kind, Readings, Rejection, Row, from_rows
from wattstream.domain.units import Bool, Int64

_BOM = b"\xef\xbb\xbf"


class _Envelope(msgspec.Struct, gc=False):
    records: list[Record]


class _RawEnvelope(msgspec.Struct, gc=False):
    records: list[msgspec.Raw]


_RECORDS = msgspec.json.Decoder(list[Record])
_ENVELOPE = msgspec.json.Decoder(_Envelope)
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_RAW_ENVELOPE = msgspec.json.Decoder(_RawEnvelope)
_EMPTY = Record()
_LINES_AT_ONCE = 5000  # between them, other threads run
_RAW_PIECE_BYTES = 8 * 1024  # of what is no reading, as many as 4,000 values


@dataclass(frozen=True, slots=True)
class Part:
    """The readings of one stream in a request.

    Attributes:
        readings: n rows in the order of the request.
        index: Position of each in the request, int64[n].
    """

    readings: Readings
    index: Int64


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a request holds.

    Attributes:
        received: Records in it.
        parts: At most one for each stream.
        rejections: What was refused, by index.
        record: Returns the record at an index as it came.
    """

    received: int
    parts: list[Part]
    rejections: list[Rejection]
    record: Callable[[int], bytes]


def decode_row(body: bytes, limits: Limits) -> Row | None:
    """Return the one reading of a body, or None where `decode_one` must take a closer look."""
    try:
        record = RECORD.decode(body)
        kind = kind_of(record)
        return Row(kind.stream, *checked(record, kind, limits))
    except (*MALFORMED, ReadingError):
        return None


def decode_one(body: bytes, limits: Limits) -> Decoded:
    """Return the one reading of a body, or why it is refused.

    Raises:
        MalformedError: It is not JSON.
    """
    raw = body.removeprefix(_BOM)
    record = _EMPTY
    try:
        try:
            record = RECORD.decode(raw)
        except MALFORMED:
            record = loosely(raw)
        kind = kind_of(record)
        readings = from_rows([Row(kind.stream, *checked(record, kind, limits))])
    except ReadingError as error:
        return Decoded(1, [], [_rejection(0, error, record, lambda _: body)], lambda _: body)
    return Decoded(1, [Part(readings, np.zeros(1, np.int64))], [], lambda _: body)


def decode_array(body: bytes, limits: Limits) -> Decoded:
    """Return the readings of a JSON array, or of an object with `records`.

    Raises:
        MalformedError: It is not JSON, or neither of the two.
        TooLargeError: It may hold more records than allowed.
        TakesLongError: As `limits` say.
    """
    body = body.removeprefix(_BOM).lstrip()
    check_array(body, limits.max_records)
    is_object = body[:1] == b"{"
    raws_once = cache(lambda: _raw_records(body, limits, is_object=is_object))
    uniform = uniform_array(body, is_object=is_object)
    if uniform is not None:
        return _decode_uniform(*uniform, lambda i: raws_once()[i], limits)
    try:
        records = _records(body, is_object=is_object)
    except MALFORMED:
        if limits.max_patient is not None and len(body) > PIECE_BYTES:
            raise TakesLongError from None
        return _decode_patiently(raws_once(), limits)
    return _decode(records, {}, lambda i: raws_once()[i], limits)


def _records(body: bytes, *, is_object: bool) -> list[Record]:
    """Return the records of an array or envelope, all with the types that they should have."""
    parts = pieces(body)
    if parts is not None:
        with suppress(*MALFORMED):
            return [record for part in parts for record in _RECORDS.decode(part)]
    return _ENVELOPE.decode(body).records if is_object else _RECORDS.decode(body)


def decode_lines(body: bytes, limits: Limits) -> Decoded:
    """Return the readings of NDJSON, one record a line; empty ones are left out.

    Raises:
        TooLargeError: It has more lines than allowed, empty ones included.
    """
    body = body.removeprefix(_BOM)
    check_lines(body, limits.max_records)
    lines_once = cache(lambda: _lines(body))
    uniform = uniform_lines(body)
    if uniform is not None:
        return _decode_uniform(*uniform, lambda i: lines_once()[i], limits)
    lines = lines_once()
    try:
        records: list[Record] = []
        for first in range(0, len(lines), _LINES_AT_ONCE):
            records += map(RECORD.decode, lines[first : first + _LINES_AT_ONCE])
    except MALFORMED:
        return _decode_patiently(lines, limits)
    return _decode(records, {}, lines.__getitem__, limits)


def _lines(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line and not line.isspace()]


def _raw_records(body: bytes, limits: Limits, *, is_object: bool) -> list[bytes]:
    """Return each record of an array as it came.

    Raises:
        MalformedError: It is not JSON, or neither an array nor an object with `records`.
        TooLargeError: There are more than allowed.
    """
    raws: list[bytes] = []
    try:
        try:
            for part in pieces(body, _RAW_PIECE_BYTES) or ():
                raws += map(bytes, _RAWS.decode(part))
                check_count(len(raws), limits.max_records)
                limits.give_way()
        except MALFORMED:
            raws = []
        if not raws:
            found = _RAW_ENVELOPE.decode(body).records if is_object else _RAWS.decode(body)
            check_count(len(found), limits.max_records)
            raws += map(bytes, found)
    except msgspec.ValidationError as error:
        raise MalformedError(
            'the body must be a JSON array of readings, or {"records": […]}', code="not_an_array"
        ) from error
    except MALFORMED as error:
        return surrogates_apart(body, error, is_object=is_object)
    return raws


def _decode_patiently(raws: Sequence[bytes], limits: Limits) -> Decoded:
    """Return the readings of records that may have fields of other types.

    Raises:
        TooLargeError: There are more than allowed: an array need not hold objects only.
    """
    check_count(len(raws), limits.max_records)
    _check_patience(len(raws), limits)
    errors: dict[int, ReadingError] = {}
    records = []
    for i, raw in enumerate(raws):
        try:
            records.append(patiently(raw))
        except ReadingError as error:
            records.append(_EMPTY)
            errors[i] = error
        limits.give_way()
    return _decode(records, errors, raws.__getitem__, limits)


def _check_patience(count: int, limits: Limits) -> None:
    if limits.max_patient is not None and count > limits.max_patient:
        raise TakesLongError


def _decode_uniform(
    kind: Kind, unchecked: Unchecked, raw: Callable[[int], bytes], limits: Limits
) -> Decoded:
    """Return the readings of records of one kind."""
    errors: dict[int, ReadingError] = {}
    readings, good = checked_columns(unchecked, kind, limits)
    record = partial(unchecked.record, kind)
    parts = _parts(readings, good, np.arange(len(readings)), record, errors, limits=limits)
    return Decoded(len(readings), parts, _rejections(errors, record, raw, limits), raw)


def _decode(
    records: list[Record],
    errors: dict[int, ReadingError],
    raw: Callable[[int], bytes],
    limits: Limits,
) -> Decoded:
    """Return the readings of records; `errors`, by index, has those refused already."""
    parts: list[Part] = []
    of_stream = rows_by_stream(records)
    for stream, rows in of_stream.items():
        if len(rows) == 0:
            continue
        chosen = records if len(rows) == len(records) else [records[i] for i in rows.tolist()]
        readings, good = columns(chosen, KINDS[stream], limits)
        parts += _parts(readings, good, rows, chosen.__getitem__, errors, limits=limits)
    if sum(map(len, of_stream.values())) < len(records):
        _check_patience(len(records) - sum(map(len, of_stream.values())), limits)
        settled = errors.keys() | set(np.concatenate(list(of_stream.values())).tolist())
        errors |= {i: homeless(records[i]) for i in range(len(records)) if i not in settled}
    rejections = _rejections(errors, records.__getitem__, raw, limits)
    return Decoded(len(records), parts, rejections, raw)


def _parts(
    readings: Readings,
    good: Bool,
    index: Int64,
    record: Callable[[int], Record],
    errors: dict[int, ReadingError],
    *,
    limits: Limits,
) -> list[Part]:
    """Return the rows that are good, if any; why the others are not goes to `errors`, by index."""
    if good.all():
        return [Part(readings, index)]
    wrong = np.flatnonzero(~good).tolist()
    _check_patience(len(wrong), limits)
    for row in wrong:
        errors[int(index[row])] = explained(record(row), KINDS[readings.stream], limits)
        limits.give_way()
    return [Part(chosen_rows(readings, good), index[good])] if good.any() else []


def _rejections(
    errors: dict[int, ReadingError],
    record: Callable[[int], Record],
    raw: Callable[[int], bytes],
    limits: Limits,
) -> list[Rejection]:
    rejections = []
    for i in sorted(errors):
        rejections.append(_rejection(i, errors[i], record(i), raw))
        limits.give_way()
    return rejections


def _rejection(
    index: int, error: ReadingError, record: Record, raw: Callable[[int], bytes]
) -> Rejection:
    stream = device = None
    try:
        kind = kind_of(record)
        stream, device = kind.stream, checked_id(record, kind)
    except ReadingError:
        pass
    return Rejection(index, error.code, error.message, error.field, raw(index), stream, device)
