"""Decoders of bodies, attacked: their fast ways must agree with their slow ones."""

import gzip
import json
import math
import re
import unicodedata
import zlib
from datetime import UTC, datetime

import msgspec
import zstandard

from wattstream.decode.encoding import decompress
from wattstream.decode.json import Decoded, decode_array, decode_lines, decode_one, decode_row
from wattstream.decode.records import Limits, Record, columns
from wattstream.decode.timestamps import parse, parse_one
from wattstream.domain.errors import MalformedError, RequestError
from wattstream.domain.readings import KINDS, METER, Rejection, Row, is_valid_id, to_rows
from wattstream.domain.units import DAY_US, NEVER_US, to_us

NOW_US = to_us(datetime(2026, 2, 9, 10, tzinfo=UTC))
LIMITS = Limits(NOW_US - 400 * DAY_US, NOW_US + 600_000_000)
MAX_DECODED_BYTES = 1 << 18
_LONGEST_MESSAGE = 1000
_COMPARED = 200
_BOM = b"\xef\xbb\xbf"


def named(error: RequestError | Rejection) -> None:
    """See that a refusal can be shown: a code in snake case, a message of a bounded length."""
    assert re.fullmatch("[a-z][a-z_]*", error.code), error.code
    assert 0 < len(error.message) <= _LONGEST_MESSAGE, error.message
    assert error.message.isprintable(), error.message
    msgspec.json.encode(error.message)


# ── Content encodings ────────────────────────────────────────────────────────────────────────


def encoding(data: bytes) -> None:
    """Decompress what is sent, or what a changed byte made of a right body."""
    kind, body = data[:1], data[1:]
    name = ("gzip", "zstd", "identity", "br")[kind[0] % 4] if kind else ""
    if kind and kind[0] & 4 and name in ("gzip", "zstd"):
        _round_trip(name, body)
        at, body = body[:2], _packed(name, body[2:])
        if len(at) == 2 and at != b"\0\0":
            place = int.from_bytes(at) % len(body)
            body = body[:place] + bytes([body[place] ^ (1 + place % 255)]) + body[place + 1 :]
    try:
        decoded = decompress(body, name, MAX_DECODED_BYTES)
    except RequestError as error:
        named(error)
        return
    assert len(decoded) <= MAX_DECODED_BYTES or name in ("", "identity")
    if name == "gzip" and body:
        try:
            assert gzip.decompress(body) == decoded
        except (OSError, EOFError, zlib.error) as error:
            raise AssertionError(f"gzip itself refuses: {error}") from error


def _packed(name: str, body: bytes) -> bytes:
    if name == "gzip":
        return gzip.compress(body, 1, mtime=0)
    return zstandard.ZstdCompressor(1).compress(body)


def _round_trip(name: str, body: bytes) -> None:
    twice = _packed(name, body[: len(body) // 2]) + _packed(name, body[len(body) // 2 :])
    assert decompress(twice, name, MAX_DECODED_BYTES) == body


# ── Bodies of readings ───────────────────────────────────────────────────────────────────────


def array(data: bytes) -> None:
    """Decode a batch, and each of its records alone."""
    try:
        decoded = decode_array(data, LIMITS)
    except MalformedError as error:
        named(error)
        return
    _agrees_with_single_records(decoded)


def lines(data: bytes) -> None:
    """Decode NDJSON, and each of its lines alone."""
    _agrees_with_single_records(decode_lines(data, LIMITS))


def one(data: bytes) -> None:
    """Decode one reading the fast way and the slow one, and once more as it was understood."""
    fast = decode_row(data, LIMITS)
    verdict = _alone(data)
    if fast is not None:
        assert _plain(fast) == verdict
    if isinstance(verdict, tuple):
        stream, device, at_us, energy_ukwh, values = verdict
        kind = next(kind for kind in KINDS.values() if kind.stream == stream)
        moment = datetime.fromtimestamp(at_us // 10**6, UTC).replace(microsecond=at_us % 10**6)
        fields = {field.key: value for field, value in zip(kind.fields, values, strict=True)}
        again = {
            kind.id_key: device,
            "timestamp": moment.isoformat(),
            kind.energy_key: energy_ukwh / 10**6,
            **{key: value for key, value in fields.items() if value is not None},
        }
        assert _alone(json.dumps(again).encode()) == verdict


Verdict = tuple[str, str, int, int, tuple[float | None, ...]] | str


def _alone(body: bytes) -> Verdict:
    """Return the reading of a body, or the code and words of why it has none."""
    try:
        decoded = decode_one(body, LIMITS)
    except MalformedError as error:
        named(error)
        return error.code
    (verdict,) = _verdicts(decoded)
    return verdict


def _verdicts(decoded: Decoded) -> list[Verdict]:
    """Return what became of each record, having seen that each has one verdict."""
    found: dict[int, Verdict] = {}
    for part in decoded.parts:
        assert len(part.index) > 0
        for index, row in zip(part.index.tolist(), to_rows(part.readings), strict=True):
            assert index not in found
            assert is_valid_id(row.device)
            assert LIMITS.oldest_us <= row.at_us <= LIMITS.newest_us
            assert 0 <= row.energy_ukwh <= 10**15
            found[index] = _plain(row)
    for rejection in decoded.rejections:
        assert rejection.index not in found
        named(rejection)
        found[rejection.index] = f"{rejection.code}: {rejection.message}"
    assert sorted(found) == list(range(decoded.received))
    return [found[index] for index in range(decoded.received)]


def _plain(row: Row) -> Verdict:
    values = tuple(None if math.isnan(value) else value for value in row.values)
    return row.stream.value, row.device, row.at_us, row.energy_ukwh, values


def _agrees_with_single_records(decoded: Decoded) -> None:
    for index, verdict in enumerate(_verdicts(decoded)[:_COMPARED]):
        record = decoded.record(index)
        if record.startswith(_BOM):  # a mark of the whole body's beginning, of no record's
            continue
        alone = _alone(record)
        if isinstance(verdict, str) and isinstance(alone, str) and ":" not in alone:
            # Malformed: the words speak of a body there, of a record here.
            assert verdict.partition(":")[0] == alone, record
        else:
            assert verdict == alone, record


# ── Parts of readings ────────────────────────────────────────────────────────────────────────


def timestamps(data: bytes) -> None:
    """Parse times as a column and one by one, and as Python does."""
    texts = data.decode(errors="replace").split("\n")
    for text, at_us in zip(texts, parse(texts).tolist(), strict=True):
        try:
            alone_us = parse_one(text)
        except ValueError as error:
            _refused(at_us, error)
            continue
        assert at_us == alone_us, text
        python = re.sub(r"(\.\d{1,6})\d*", lambda found: found[1].ljust(7, "0"), text.upper())
        assert at_us == to_us(datetime.fromisoformat(python)), text


def _refused(at_us: int, error: ValueError) -> None:
    assert at_us == NEVER_US
    assert str(error).isprintable()


def ids(data: bytes) -> None:
    """Judge ids as a column, one by one, by their Unicode categories, and as JSON."""
    names = [name.decode(errors="replace") for name in data.split(b"\xff")]
    records = [
        Record(meterId=name, timestamp="2026-02-09T10:00:00Z", kwhConsumedAc=1) for name in names
    ]
    _, good = columns(records, METER, LIMITS)
    for name, record, is_good in zip(names, records, good.tolist(), strict=True):
        # Source: docs.python.org, str.isprintable.
        hidden = any(unicodedata.category(character)[0] in "CZ" for character in name)
        assert is_good == is_valid_id(name) == (1 <= len(name) <= 128 and not hidden), name
        verdict = _alone(msgspec.json.encode(record))
        assert is_good == isinstance(verdict, tuple)
        if isinstance(verdict, tuple):
            assert verdict[1] == name
