"""Bodies whose records are all of one kind, as most are.

A type with the fields of that kind only is decoded sooner than `Record`, and that it was decoded
says of what stream all records are. It refuses whatever might make a record one of the other kind.
Where a number is no JSON number, a second type takes decimal strings as well.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from operator import attrgetter
from typing import Any, Literal

import msgspec
import numpy as np

from wattstream.decode.patient import DECIMAL, MALFORMED
from wattstream.decode.pieces import PIECE_BYTES, pieces
from wattstream.decode.records import Unchecked
from wattstream.domain.readings import KINDS, METER, VEHICLE, Kind, Stream

_KIND_OF_KEY = {kind.id_key.encode(): kind for kind in KINDS.values()}
_ID = re.compile(rb'"(%b)"\s*:\s*"' % b"|".join(_KIND_OF_KEY))
_USUAL_RECORD_BYTES = 256


class _Decoders:
    """How to decode the records of one kind, and fetch their fields."""

    def __init__(self, kind: Kind, other: Kind, number: Any) -> None:
        record: Any = msgspec.defstruct(
            "_Record",
            [
                (kind.id_key, str),
                (kind.energy_key, number),
                *((field.key, number | None, None) for field in kind.fields),
                ("timestamp", str),
                ("type", Literal[kind.stream.value] | None, None),
                (other.id_key, None, None),
            ],
            kw_only=True,
            gc=False,
        )
        envelope: Any = msgspec.defstruct("_Envelope", [("records", list[record])], gc=False)
        self.takes_text = number is not float
        self.array: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[record])
        self.envelope: msgspec.json.Decoder[Any] = msgspec.json.Decoder(envelope)
        self.line: msgspec.json.Decoder[Any] = msgspec.json.Decoder(record)
        keys = (kind.id_key, "timestamp", kind.energy_key, *(field.key for field in kind.fields))
        # One call in C a record, where a name looked up in Python would cost two.
        self.getters = [attrgetter(key) for key in keys]


_DECODERS = {
    stream: [_Decoders(kind, other, number) for number in (float, float | str)]
    for stream, kind, other in ((Stream.METER, METER, VEHICLE), (Stream.VEHICLE, VEHICLE, METER))
}


def uniform_array(body: bytes, *, is_object: bool) -> tuple[Kind, Unchecked] | None:
    """Return the records of an array, or of an object with `records`, where all are of one kind.

    Returns:
        None where any may be of the other kind, or has a field of another type, or none is there.
    """
    kind = _likely_kind(body)
    if kind is None:
        return None
    for decoders in _DECODERS[kind.stream]:
        parts = pieces(body)
        with suppress(*MALFORMED):
            if parts is None and is_object:
                unchecked = _fetched([decoders.envelope.decode(body).records], decoders)
            else:
                unchecked = _fetched(map(decoders.array.decode, parts or [body]), decoders)
            return (kind, unchecked) if unchecked.ids else None
    return None


def uniform_lines(body: bytes) -> tuple[Kind, Unchecked] | None:
    """Return the records of NDJSON where all are of one kind, one a line, no line empty.

    Returns:
        None where that is not certain, or a record has a field of another type.
    """
    body = body.strip(b"\n")
    kind = _likely_kind(body)
    if kind is None:
        return None
    # The decoder does not ask where a line ends. But no text of JSON holds a line's end, and in
    # no record a { follows a }: so between those, a line's end is the end of a record.
    text = np.frombuffer(body, np.uint8)
    breaks = np.flatnonzero(text == ord("\n"))
    if not ((text[breaks - 1] == ord("}")) & (text[breaks + 1] == ord("{"))).all():
        return None
    for decoders in _DECODERS[kind.stream]:
        with suppress(*MALFORMED):
            unchecked = _fetched(map(decoders.line.decode_lines, _cut(body)), decoders)
            return (kind, unchecked) if len(unchecked.ids) == len(breaks) + 1 else None
    return None


def _likely_kind(body: bytes) -> Kind | None:
    """Return the kind of the first record, where the last one seems to be of the same."""
    ends = body[:_USUAL_RECORD_BYTES] + body[-_USUAL_RECORD_BYTES:]
    keys = set(_ID.findall(ends))
    return _KIND_OF_KEY[keys.pop()] if len(keys) == 1 else None


def _cut(body: bytes) -> Iterator[bytes]:
    """Cut NDJSON at ends of lines, so that other threads run between the pieces."""
    start = 0
    while start < len(body):
        end = body.find(b"\n", start + PIECE_BYTES)
        stop = len(body) if end < 0 else end
        yield body[start:stop]
        start = stop + 1


def _fetched(parts: Iterable[list[Any]], decoders: _Decoders) -> Unchecked:
    """Return the fields of records; those of a part are freed before the next is decoded.

    Raises:
        msgspec.ValidationError: A text that stands for a number is none.
    """
    columns: list[list[Any]] = [[] for _ in decoders.getters]
    for records in parts:
        for column, getter in zip(columns, decoders.getters, strict=True):
            column.extend(map(getter, records))
    ids, times, energy_kwh, *fields = columns
    if decoders.takes_text:
        energy_kwh, *fields = map(_numbers, (energy_kwh, *fields))
    return Unchecked(ids, times, energy_kwh, fields)


def _numbers(column: list[Any]) -> list[float | None]:
    """Return numbers, decimal strings and None as numbers and None.

    Raises:
        msgspec.ValidationError: A string is no number.
    """
    texts = [value for value in column if isinstance(value, str)]
    if not all(map(DECIMAL.fullmatch, texts)):
        raise msgspec.ValidationError
    return [None if value is None else float(value) for value in column]
