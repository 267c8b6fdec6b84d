"""Files of readings: JSON lines and CSV in the contract's field names, plain or gzipped."""

import csv
import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from wattstream.decode.timestamps import parse_one
from wattstream.domain.errors import OperatorError
from wattstream.domain.readings import KINDS, Stream
from wattstream.domain.units import rfc3339

_DECODE = msgspec.json.Decoder(dict[str, Any])
_SUFFIXES = (".jsonl", ".ndjson", ".csv")


@dataclass(frozen=True, slots=True)
class Row:
    """A record of a file.

    Attributes:
        record: Its keys and values as they stand there; None where the line is no JSON object.
        raw: The line itself.
        origin: File and line, for messages.
    """

    record: dict[str, Any] | None
    raw: bytes
    origin: str


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the records of a file, empty lines left out.

    Raises:
        OperatorError: It is no file, cannot be read, or its name does not tell its format.
    """
    name = path.name.removesuffix(".gz")
    if not name.endswith(_SUFFIXES):
        raise OperatorError(
            f"{path}: the name must end in .jsonl, .ndjson or .csv, each also with .gz"
        )
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield from _csv_rows(stream, path) if name.endswith(".csv") else _lines(stream, path)
    except (OSError, EOFError) as error:
        raise OperatorError(f"{path} cannot be read: {error}") from error


def _lines(stream: Any, path: Path) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        if line.isspace():
            continue
        try:
            record = _DECODE.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            record = None
        yield Row(record, line.strip(), f"{path}:{number}: ")


def _csv_rows(stream: Any, path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline=""))
    for cells in reader:
        record = {key: value for key, value in cells.items() if key and value not in ("", None)}
        yield Row(record, msgspec.json.encode(record), f"{path}:{reader.line_num}: ")


def device_of(record: dict[str, Any]) -> tuple[Stream, str] | None:
    """Return the stream and id of a record, or None where they are not clear."""
    kinds = [kind for kind in KINDS.values() if isinstance(record.get(kind.id_key), str)]
    if isinstance(record.get("type"), str):
        kinds = [kind for kind in kinds if kind.stream == record["type"].lower()]
    return (kinds[0].stream, record[kinds[0].id_key]) if len(kinds) == 1 else None


def time_of(record: dict[str, Any]) -> int | None:
    """Return the time of a record in microseconds, or None where it has none."""
    try:
        return parse_one(record["timestamp"])
    except (KeyError, TypeError, ValueError):
        return None


def shifted(record: dict[str, Any], by_us: int) -> dict[str, Any]:
    """Return a record moved in time; as it is where it has no readable time."""
    at_us = time_of(record)
    if by_us == 0 or at_us is None:
        return record
    return record | {"timestamp": rfc3339(at_us + by_us)}
