"""Why rows of a flush were refused, in words for who sent them."""

from collections.abc import Callable

import numpy as np

from wattstream.decode.json import Part
from wattstream.domain.readings import (
    KINDS,
    Conflict,
    Readings,
    Rejection,
    Row,
    Stream,
    from_rows,
)
from wattstream.domain.units import exact, kwh, rfc3339
from wattstream.store.port import Values, Written


def rejections_of(part: Part, written: Written, record: Callable[[int], bytes]) -> list[Rejection]:
    """Return why rows of a request were refused; `record` returns one as it came, by index."""
    rejections = []
    for row in written.standing.keys() | written.refused.keys():
        index = int(part.index[row])
        why = _why(written, row)
        rejections.append(_rejection(part.readings, row, why, index, record(index)))
    return rejections


def rejection_of(row: Row, record: bytes, written: Written, offset: int) -> Rejection:
    """Return why a reading that came alone, as row `offset` of a flush, was refused."""
    return _rejection(from_rows([row]), 0, _why(written, offset), 0, record)


def _why(written: Written, row: int) -> Values | tuple[str, str]:
    """Return the code and message of a row that is not allowed, or the values it contradicts."""
    return written.refused[row] if row in written.refused else written.standing[row]


def _rejection(
    readings: Readings, row: int, why: Values | tuple[str, str], index: int, record: bytes
) -> Rejection:
    code, message, field, conflict = (
        _conflict(readings, row, why) if isinstance(why, Values) else (*why, None, None)
    )
    return Rejection(
        index, code, message, field, record, readings.stream, readings.ids[row], conflict
    )


def _conflict(
    readings: Readings, row: int, standing: Values
) -> tuple[str, str, str | None, Conflict | None]:
    sent = Values(int(readings.energy_ukwh[row]), tuple(readings.values[row].tolist()))
    both = Conflict(_by_key(readings.stream, standing), _by_key(readings.stream, sent))
    return (
        "conflict",
        f"{readings.stream} {readings.ids[row]} already has other values at "
        f"{rfc3339(int(readings.at_us[row]))}: kept {_described(both.kept)}, "
        f"got {_described(both.got)}",
        "timestamp",
        both,
    )


def _by_key(stream: Stream, values: Values) -> dict[str, float | None]:
    kind = KINDS[stream]
    fields = zip(kind.fields, values.fields, strict=True)
    return {kind.energy_key: kwh(values.energy_ukwh)} | {
        field.key: None if np.isnan(value) else value for field, value in fields
    }


def _described(values: dict[str, float | None]) -> str:
    return ", ".join(
        f"{key} {'absent' if value is None else exact(value)}" for key, value in values.items()
    )
