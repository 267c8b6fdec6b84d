"""JSON bodies to columns of readings, every record with its own verdict.

Three ways, each slower and more patient: the whole body into typed values at once; record
by record; field by field. A record that one way refuses goes to the next, and the last one
finds the words for what is wrong.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np

from wattstream.decode.count import check_array, check_count, check_lines
from wattstream.decode.pieces import PIECE_BYTES, pieces
from wattstream.decode.records import (
    Limits,
    Record,
    TakesLongError,
    checked,
    checked_id,
    chosen_rows,
    columns,
    explained,
    homeless,
    kind_of,
    rows_by_stream,
    shown,
)
from wattstream.domain.errors import MalformedError, ReadingError
from wattstream.domain.readings import KINDS, Readings, Rejection, Row, from_rows
from wattstream.domain.units import Int64

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_BOM = b"\xef\xbb\xbf"


_KEYS = Record.__struct_fields__
_Loose = msgspec.defstruct("_Loose", [(key, msgspec.Raw, msgspec.Raw(b"null")) for key in _KEYS])


class _Envelope(msgspec.Struct, gc=False):
    records: list[Record]


class _RawEnvelope(msgspec.Struct, gc=False):
    records: list[msgspec.Raw]


_RECORD = msgspec.json.Decoder(Record)
_RECORDS = msgspec.json.Decoder(list[Record])
_ENVELOPE = msgspec.json.Decoder(_Envelope)
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_RAW_ENVELOPE = msgspec.json.Decoder(_RawEnvelope)
_LOOSE = msgspec.json.Decoder(_Loose)
_TEXT = msgspec.json.Decoder(str)
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
        record = _RECORD.decode(body)
        kind = kind_of(record)
        return Row(kind.stream, *checked(record, kind, limits))
    except (*_MALFORMED, ReadingError):
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
            record = _RECORD.decode(raw)
        except _MALFORMED:
            record = _loosely(raw)
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
    try:
        records = _records(body, is_object=is_object)
    except _MALFORMED:
        if limits.max_patient is not None and len(body) > PIECE_BYTES:
            raise TakesLongError from None
        return _decode_patiently(_raw_records(body, limits, is_object=is_object), limits)
    raws_once = cache(lambda: _raw_records(body, limits, is_object=is_object))
    return _decode(records, {}, lambda i: raws_once()[i], limits)


def _records(body: bytes, *, is_object: bool) -> list[Record]:
    """Return the records of an array or envelope, all with the types that they should have."""
    parts = pieces(body)
    if parts is not None:
        with suppress(*_MALFORMED):
            return [record for part in parts for record in _RECORDS.decode(part)]
    return _ENVELOPE.decode(body).records if is_object else _RECORDS.decode(body)


def decode_lines(body: bytes, limits: Limits) -> Decoded:
    """Return the readings of NDJSON, one record a line; empty ones are left out.

    Raises:
        TooLargeError: It has more lines than allowed, empty ones included.
    """
    body = body.removeprefix(_BOM)
    check_lines(body, limits.max_records)
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    try:
        records: list[Record] = []
        for first in range(0, len(lines), _LINES_AT_ONCE):
            records += map(_RECORD.decode, lines[first : first + _LINES_AT_ONCE])
    except _MALFORMED:
        return _decode_patiently(lines, limits)
    return _decode(records, {}, lines.__getitem__, limits)


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
        except _MALFORMED:
            raws = []
        if not raws:
            found = _RAW_ENVELOPE.decode(body).records if is_object else _RAWS.decode(body)
            check_count(len(found), limits.max_records)
            raws += map(bytes, found)
    except msgspec.ValidationError as error:
        raise MalformedError(
            'the body must be a JSON array of readings, or {"records": […]}', code="not_an_array"
        ) from error
    except _MALFORMED as error:
        return _surrogates_apart(body, error, is_object=is_object)
    return raws


def _surrogates_apart(body: bytes, error: Exception, *, is_object: bool) -> list[bytes]:
    r"""Return the records of a body that msgspec refuses for a lone surrogate such as "\ud800".

    That is JSON by its grammar, so it costs its own record only.
    """
    if b"\\u" not in body:
        raise _malformed(error) from error
    try:
        value = json.loads(body, parse_constant=_no_constant)
        records = value["records"] if is_object else value
        return [json.dumps(record).encode() for record in records]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _malformed(error) from error


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _malformed(error: Exception) -> MalformedError:
    if isinstance(error, RecursionError):
        return MalformedError("the body is not readable JSON: it is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return MalformedError("the body is not JSON: it is not UTF-8")
    return MalformedError(f"the body is not JSON: {error}".replace("JSON is malformed: ", ""))


def _patiently(raw: bytes) -> Record:
    """Return one record.

    Raises:
        ReadingError: It is none.
    """
    try:
        return _RECORD.decode(raw)
    except _MALFORMED:
        pass
    try:
        return _loosely(raw)
    except MalformedError as error:
        message = error.message.replace("the body", "the record")
        raise ReadingError(message, code=error.code) from error


def _loosely(raw: bytes) -> Record:
    """Return a record field by field: decimal strings become numbers.

    Raises:
        MalformedError: It is not JSON.
        ReadingError: It is no object, or a field has the wrong type.
    """
    try:
        loose = _LOOSE.decode(raw)
    except msgspec.ValidationError as error:
        raise ReadingError(
            "a reading must be a JSON object; arrays go to /v1/ingest/batch", code="not_an_object"
        ) from error
    except _MALFORMED as error:
        loose = _without_other_keys(raw, error)
    raws = {name: bytes(getattr(loose, name)) for name in _KEYS}
    # Only the keys of its own kind count; what else is there is ignored, whatever it holds.
    ids = {key: None if raws[key] == b"null" else "" for key in ("meterId", "vehicleId")}
    type_ = _text("type", raws["type"])
    kind = kind_of(Record(type_, ids["meterId"], ids["vehicleId"]))
    device = _text(kind.id_key, raws[kind.id_key])
    about = f" ({kind.stream} {shown(device)})" if device else ""
    numbers = {
        name: _number(name, raws[name], about)
        for name in (kind.energy_key, *(field.key for field in kind.fields))
    }
    texts = {kind.id_key: device, "timestamp": _text("timestamp", raws["timestamp"])}
    return Record(type=kind.stream.value, **texts, **numbers)  # type: ignore[arg-type]


def _without_other_keys(raw: bytes, error: Exception) -> msgspec.Struct:
    r"""Return a record that msgspec refuses, where only keys that are ignored hold a "\ud800".

    Raises:
        MalformedError: It is not JSON, or a key that counts holds one.
    """
    if b"\\u" not in raw:
        raise _malformed(error) from error
    try:
        value = json.loads(raw.decode(), parse_constant=_no_constant)
        known = json.dumps({key: value[key] for key in _KEYS if key in value})
        return _LOOSE.decode(known)
    except (ValueError, TypeError, *_MALFORMED):
        raise _malformed(error) from error


def _text(name: str, raw: bytes) -> str | None:
    if raw == b"null":
        return None
    try:
        return _TEXT.decode(raw)
    except _MALFORMED as error:
        stem = "type" if name == "type" else "timestamp" if name == "timestamp" else "id"
        raise ReadingError(
            f"{name} must be a string, got {shown(raw)}", code=f"{stem}_invalid", field=name
        ) from error


def _number(name: str, raw: bytes, about: str) -> float | None:
    if raw == b"null":
        return None
    text = raw.decode(errors="replace")
    if raw[:1] == b'"':
        text = _text(name, raw) or ""
    if _DECIMAL.fullmatch(text) is None:
        stem = _stem(name)
        raise ReadingError(
            f"{name} must be a number or a decimal string, got {shown(raw)}{about}",
            code=f"{stem}_invalid",
            field=name,
        )
    return float(text)


def _stem(key: str) -> str:
    for kind in KINDS.values():
        for field in kind.fields:
            if field.key == key:
                return field.name
    return "energy"


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
            records.append(_patiently(raw))
        except ReadingError as error:
            records.append(_EMPTY)
            errors[i] = error
        limits.give_way()
    return _decode(records, errors, raws.__getitem__, limits)


def _check_patience(count: int, limits: Limits) -> None:
    if limits.max_patient is not None and count > limits.max_patient:
        raise TakesLongError


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
        if good.all():
            parts.append(Part(readings, rows))
            continue
        wrong = np.flatnonzero(~good).tolist()
        _check_patience(len(wrong), limits)
        for row in wrong:
            errors[int(rows[row])] = explained(chosen[row], KINDS[stream], limits)
            limits.give_way()
        if good.any():
            parts.append(Part(chosen_rows(readings, good), rows[good]))
    if sum(map(len, of_stream.values())) < len(records):
        _check_patience(len(records) - sum(map(len, of_stream.values())), limits)
        settled = errors.keys() | set(np.concatenate(list(of_stream.values())).tolist())
        errors |= {i: homeless(records[i]) for i in range(len(records)) if i not in settled}
    rejections = []
    for i in sorted(errors):
        rejections.append(_rejection(i, errors[i], records[i], raw))
        limits.give_way()
    return Decoded(len(records), parts, rejections, raw)


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
