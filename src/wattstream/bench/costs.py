"""Where the time of one reading goes: the steps of a batch one after the other, in one lane."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from wattstream.bench.payloads import Request
from wattstream.bench.rows import Row
from wattstream.decode.json import decode_array
from wattstream.decode.records import Limits
from wattstream.domain.readings import Readings, Stream, concat
from wattstream.domain.units import MICRO
from wattstream.store.postgres import arrays
from wattstream.store.postgres.connections import session_sql
from wattstream.store.postgres.flush import FlushWriter
from wattstream.store.postgres.steps import Copy, send

_PART = "costs"
_LIMITS = Limits(-(2**62), 2**62)
_STEPS = {
    "_hot AS h": "live rows",
    "_warm AS l": "live rows of closed quarter-hours",
    "_rollup": "closed quarter-hours",
    "history_days": "day counts",
}


def measure_costs(
    conninfo: str, requests: Sequence[Request], flush_readings: int, on_row: Callable[[Row], None]
) -> None:
    """Decode requests and write their meters, step by step, each timed alone.

    The machine does nothing else meanwhile, so a step of PostgreSQL's is what its process takes
    for it, and the waiting for the disk.

    Args:
        conninfo: A migrated database that no engine uses.
        requests: JSON arrays in the order of time; the first tenth is not counted.
        flush_readings: Readings of a flush.
        on_row: Called with each result.
    """
    seconds: dict[str, float] = defaultdict(float)
    decoded, received = _decoded(requests, seconds)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(session_sql(writes=True, plans_once=True))
        arrays.register(connection)
        connection.prepare_threshold = 2
        written = _write(connection, _flushes(decoded, flush_readings), seconds, on_row)
    on_row(_row("decode", seconds.pop("decode"), received))
    for step, took in seconds.items():
        on_row(_row(step, took, written))


def _decoded(requests: Sequence[Request], seconds: dict[str, float]) -> tuple[list[Readings], int]:
    readings, received = [], 0
    for request in requests:
        body = request.data.split(b"\r\n\r\n", 1)[1]
        started = time.perf_counter()
        decoded = decode_array(body, _LIMITS)
        seconds["decode"] += time.perf_counter() - started
        received += decoded.received
        readings += [
            part.readings for part in decoded.parts if part.readings.stream is Stream.METER
        ]
    return readings, received


def _flushes(parts: Sequence[Readings], size: int) -> list[Readings]:
    flushes, held = [], 0
    waiting: list[Readings] = []
    for part in parts:
        waiting.append(part)
        held += len(part)
        if held >= size:
            flushes.append(concat(waiting))
            waiting, held = [], 0
    return flushes


def _write(
    connection: psycopg.Connection[Any],
    flushes: Sequence[Readings],
    seconds: dict[str, float],
    on_row: Callable[[Row], None],
) -> int:
    """Write flushes, the first tenth untimed; return the readings of the others."""
    writer = FlushWriter(Stream.METER)
    untimed = max(1, len(flushes) // 10)
    for readings in flushes[:untimed]:
        writer.write(connection, writer.prepare(readings, time.time_ns() // 1000))
    log_start = _log_position(connection)
    written = 0

    def timed(step: str, started: float) -> float:
        now = time.perf_counter()
        seconds[step] += now - started
        return now

    for readings in flushes[untimed:]:
        at = time.perf_counter()
        flush = writer.prepare(readings, time.time_ns() // 1000)
        at = timed("pack", at)
        assert flush.batch is not None  # noqa: S101 - all devices are known by now
        writer.partitions.ensure(connection, flush.batch.at_us)
        connection.execute("BEGIN")
        at = time.perf_counter()
        for step in flush.steps:
            send(connection, [step])
            at = timed(_name(step), at)
        connection.execute("COMMIT")
        timed("commit", at)
        written += len(readings)
    log_bytes = _log_position(connection) - log_start
    on_row(Row(_PART, "write-ahead log, bytes a reading", log_bytes / written, None))
    for name, size in _sizes(connection):
        on_row(Row(_PART, f"{name}, bytes a reading", size, None))
    return written


def _name(step: Any) -> str:
    if isinstance(step, Copy):
        return "history"
    return next(name for words, name in _STEPS.items() if words.encode() in step.sql)


def _row(step: str, seconds: float, readings: int) -> Row:
    return Row(
        _PART,
        f"{step}, a reading",
        readings / seconds,
        None,
        note=f"{seconds / readings * MICRO:.2f} µs",
    )


def _log_position(connection: psycopg.Connection[Any]) -> int:
    found = connection.execute(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8"
    ).fetchone()
    assert found is not None  # noqa: S101 - it always has a row
    return int(found[0])


def _sizes(connection: psycopg.Connection[Any]) -> list[tuple[str, float]]:
    found = connection.execute(
        """
        SELECT sum(pg_table_size(inhrelid))::float8, sum(pg_indexes_size(inhrelid))::float8,
            (SELECT count(*) FROM meter_history)
        FROM pg_inherits WHERE inhparent = 'meter_history'::regclass
        """
    ).fetchone()
    assert found is not None  # noqa: S101 - it always has a row
    table, index, rows = found
    return [("history on disk, table", table / rows), ("history on disk, index", index / rows)]
