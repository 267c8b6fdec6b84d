"""A long history in a migrated database, filled many times faster than by sending it.

Whole quarter-hours are written in bulk, a day's table at a time. What is cut out of a
quarter-hour, and the newest one, goes through the engine's own flush, so live rows are its
work. The rows are those that an engine writes, in the same order on disk, minute by minute;
only the day tables' indexes are packed more tightly, as they are built afterwards.
"""

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg import sql as compose

from wattstream.domain.errors import OperatorError
from wattstream.domain.readings import KINDS, Readings, Stream
from wattstream.domain.rollup import rollup_dtype, sum_columns
from wattstream.domain.units import (
    BUCKET_US,
    DAY_US,
    MICRO,
    MINUTE_US,
    Float64,
    Int64,
    to_datetime,
    to_micro,
)
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.blocks import new_version
from wattstream.store.postgres.connections import APPLICATION_NAME, session_sql
from wattstream.store.postgres.flush import FlushWriter

_BUCKET_MIN = BUCKET_US // MINUTE_US
_DAY_MIN = DAY_US // MINUTE_US
# A row of history with its share of index and rollup; and as much log again, up to its limit.
_BYTES_PER_ROW = 130
_WAL_MARGIN = 1.2
_SPANS = {"voltage": (225, 235), "soc": (20, 90), "batteryTemp": (15, 40)}

_HELD = """
SELECT coalesce(sum(readings), 0)::int8, min(first_at), max(last_at)
FROM history_days WHERE stream = %(stream)s
"""


def external_id(pair: int) -> str:
    """Return the id that both devices of a pair report."""
    return f"B{pair:06d}"


def system_clock_us() -> int:
    """Return now, microseconds since 1970."""
    return time.time_ns() // 1000


def grow(
    conninfo: str,
    pairs: int,
    rows: int,
    *,
    on_progress: Callable[[int], None] = lambda rows: None,
    clock_us: Callable[[], int] = system_clock_us,
) -> int:
    """Bring history to so many rows: older days before what is held, and the minutes up to now.

    Each device sends a reading a minute, so the length of history follows from `rows`. No
    engine may run on the database meanwhile.

    Args:
        conninfo: A database with the schema; its role owns the tables and may checkpoint.
        pairs: Meters, and as many vehicles of the same ids. The same number at each call.
        rows: Readings of both streams together, >= 0; what is held already counts.
        on_progress: Called with the readings that this call has written, from two threads
            in turn.
        clock_us: The clock, microseconds since 1970.

    Returns:
        Readings written by this call.

    Raises:
        OperatorError: The server's disk has no room for that.
    """
    with _connect(conninfo) as connection:
        held = sum(_held(connection, stream)[0] for stream in Stream)
        _check_space(connection, max(0, rows - held))
    count = _Count(on_progress)

    def grow_stream(stream: Stream) -> None:
        with _connect(conninfo) as connection:
            filler = _Filler(connection, stream, pairs, count.add)
            filler.catch_up(clock_us())
            filler.prepend(-(-rows // len(Stream)))
            filler.sum_days()
            filler.settle()
            filler.catch_up(clock_us())

    with ThreadPoolExecutor(len(Stream)) as pool:
        for done in [pool.submit(grow_stream, stream) for stream in Stream]:
            done.result()
    with _connect(conninfo) as connection:
        connection.execute("VACUUM (ANALYZE) devices, history_days")
        connection.execute("CHECKPOINT")
    return count.rows


class _Count:
    """Readings written by all threads."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self.rows = 0
        self._on_progress = on_progress
        self._lock = threading.Lock()

    def add(self, rows: int) -> None:
        with self._lock:
            self.rows += rows
            self._on_progress(self.rows)


def _connect(conninfo: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(
        conninfo, autocommit=True, application_name=f"{APPLICATION_NAME} bench"
    )
    connection.execute(session_sql(writes=True))
    connection.execute("SET synchronous_commit = off")
    arrays.register(connection)
    return connection


def _held(connection: psycopg.Connection[Any], stream: Stream) -> tuple[int, int | None, int]:
    """Return rows, first and last time of a stream; None and 0 where nothing is held."""
    row = connection.execute(_HELD, {"stream": stream.value}, binary=True).fetchone()
    held, first_us, last_us = row or (0, None, None)
    return held, first_us, last_us or 0


def _check_space(connection: psycopg.Connection[Any], rows: int) -> None:
    row = connection.execute(
        "SELECT current_setting('data_directory'), pg_size_bytes(current_setting('max_wal_size'))"
    ).fetchone()
    assert row is not None  # noqa: S101 - a query without a condition
    folder, wal_bytes = Path(row[0]), int(row[1])
    if not folder.is_dir():
        return  # a server of another machine
    needed = rows * _BYTES_PER_ROW
    needed += min(needed, int(wal_bytes * _WAL_MARGIN))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OperatorError(
            f"A history of {rows:,} more rows needs {needed / 1e9:.1f} GB in {folder}, "
            f"{free / 1e9:.1f} GB are free. Free some, point TMPDIR elsewhere, or use --quick."
        )


class _Filler:
    """Writes one stream through one connection; minutes are counted from 1970."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        stream: Stream,
        pairs: int,
        on_rows: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._fields = KINDS[stream].fields
        self._on_rows = on_rows
        self._writer = FlushWriter(stream)
        self._ids = [external_id(pair) for pair in range(pairs)]
        self._key = self._writer.keys.resolve(connection, self._ids).astype(np.int32)
        self._beats = _Beats(stream, pairs)

    def catch_up(self, now_us: int) -> None:
        """Write every whole minute after the newest reading; at first, of the open bucket."""
        _, first_us, last_us = _held(self._connection, self._stream)
        stop = now_us // MINUTE_US
        start = last_us // MINUTE_US + 1 if first_us is not None else _bucket_floor(stop - 1)
        self._flush(start, stop)

    def prepend(self, rows: int) -> None:
        """Write whole minutes before the oldest reading until the stream holds so many rows."""
        held, first_us, _ = _held(self._connection, self._stream)
        assert first_us is not None  # noqa: S101 - the newest minutes came first
        stop = first_us // MINUTE_US
        start = stop - max(0, -(-(rows - held) // len(self._ids)))
        whole_start, whole_stop = _bucket_floor(start + _BUCKET_MIN - 1), _bucket_floor(stop)
        if whole_start >= whole_stop:
            self._flush(start, stop)
            return
        self._flush(whole_stop, stop)
        for day in range((whole_stop - 1) // _DAY_MIN, whole_start // _DAY_MIN - 1, -1):
            first, last = day * _DAY_MIN, (day + 1) * _DAY_MIN
            self._write_day(max(first, whole_start), min(last, whole_stop))
        self._flush(start, whole_start)

    def sum_days(self) -> None:
        """Bring the live rows' sums of a day up to the rollup."""
        self._connection.execute(
            statements.load("flush", self._stream)["mend_days"],
            {"device_id": arrays.PgArray(self._key), "version": new_version()},
        )

    def settle(self) -> None:
        """Do now what the server would do in the background while answers are measured."""
        names = ("history", "rollup", "hot", "warm")
        tables = ", ".join(f"{self._stream}_{name}" for name in names)
        self._connection.execute(f"VACUUM (ANALYZE) {tables}".encode())

    def _flush(self, start: int, stop: int) -> None:
        """Write the minutes [start, stop) as the engine does."""
        for minute in range(start, stop):
            at_us, ukwh, values = self._beats.of(minute, minute + 1)
            fields = np.column_stack([column.ravel() for column in values])
            readings = Readings(self._stream, self._ids, at_us[0], ukwh[0], fields)
            flush = self._writer.prepare(readings, int(at_us.max()))
            self._writer.write(self._connection, flush)
            self._on_rows(len(self._ids))

    def _write_day(self, start: int, stop: int) -> None:
        """Write the minutes [start, stop) of one day, whole buckets, in one transaction."""
        start_us = start * MINUTE_US
        self._writer.partitions.ensure(self._connection, np.array([start_us]))
        day_us = start_us - start_us % DAY_US
        partition = f"{self._stream}_history_{to_datetime(day_us):%Y%m%d}"
        names = {
            "parent": compose.Identifier(f"{self._stream}_history"),
            "partition": compose.Identifier(partition),
            "primary_key": compose.Identifier(f"{partition}_pkey"),
            "start": compose.Literal(to_datetime(day_us).isoformat()),
            "stop": compose.Literal(to_datetime(day_us + DAY_US).isoformat()),
        }

        def execute(statement: str) -> psycopg.Cursor[Any]:
            composed = compose.SQL(statement).format(**names)
            return self._connection.execute(composed)

        with self._connection.transaction():
            execute("ALTER TABLE {parent} DETACH PARTITION {partition}")
            execute("ALTER TABLE {partition} DROP CONSTRAINT {primary_key}")
            is_empty = execute("SELECT FROM {partition} LIMIT 1").fetchone() is None
            if is_empty:
                execute("TRUNCATE {partition}")  # lets COPY write rows that need no vacuum
            for minute in range(start, stop, _BUCKET_MIN):
                self._copy_bucket(minute, partition, freeze=is_empty)
            execute("ALTER TABLE {partition} ADD PRIMARY KEY (minute, device_id, measured_at)")
            execute(statements.load("partitions")["attach"].decode())
            self._count_day(start, stop)

    def _copy_bucket(self, minute: int, partition: str, *, freeze: bool) -> None:
        at_us, ukwh, values = self._beats.of(minute, minute + _BUCKET_MIN)
        key = np.tile(self._key, _BUCKET_MIN)
        minutes = np.arange(minute, minute + _BUCKET_MIN, dtype=np.int32).repeat(len(self._key))
        columns = [
            "device_id",
            "minute",
            "measured_at",
            "energy_ukwh",
            *(f.column for f in self._fields),
        ]
        options = "FORMAT BINARY, FREEZE" if freeze else "FORMAT BINARY"
        self._copy(
            f"COPY {partition} ({', '.join(columns)}) FROM STDIN ({options})",
            [
                key,
                minutes,
                arrays.to_pg_time(at_us.ravel()),
                ukwh.ravel(),
                *(v.ravel() for v in values),
            ],
        )
        rollup = self._rollup(minute * MINUTE_US, ukwh, values)
        self._copy(
            f"COPY {self._stream}_rollup ({', '.join(rollup)}) FROM STDIN (FORMAT BINARY)",
            list(rollup.values()),
        )
        self._on_rows(len(key))

    def _rollup(self, bucket_us: int, ukwh: Int64, values: list[Float64]) -> dict[str, Any]:
        """Return the rollup rows of one bucket; intervals without a rating have no carry."""
        dtype = rollup_dtype(self._stream)
        rows = np.zeros(len(self._ids), dtype)
        rows["energy_ukwh"] = ukwh.sum(axis=0)
        rows["readings"] = len(ukwh)
        for field, column in zip(self._fields, values, strict=True):
            rows[f"{field.name}_sum_micro"] = to_micro(column).sum(axis=0)
            rows[f"{field.name}_count"] = len(column)
        sums = {name: np.ascontiguousarray(rows[name]) for name in sum_columns(self._stream)}
        bucket_at = arrays.to_pg_time(np.full(len(rows), bucket_us))
        return {"device_id": self._key, "bucket_at": bucket_at, **sums}

    def _copy(self, statement: str, columns: list[Any]) -> None:
        with self._connection.cursor().copy(statement.encode()) as copy:
            copy.write(arrays.copy_rows(columns))

    def _count_day(self, start: int, stop: int) -> None:
        first_us, last_us = self._beats.ends(start, stop)
        self._connection.execute(
            statements.load("flush", self._stream)["count_days"],
            {
                "readings": arrays.PgArray(np.array([(stop - start) * len(self._ids)])),
                "first_at": arrays.PgArray(np.array([first_us]), times=True),
                "last_at": arrays.PgArray(np.array([last_us]), times=True),
            },
        )


class _Beats:
    """The readings of all devices of a stream: each sends one at its own second of the minute.

    A vehicle gets its meter's energy less the charger's loss, above 15 % for 3 in 100.
    """

    def __init__(self, stream: Stream, pairs: int) -> None:
        pair = np.arange(pairs)
        self._kind = KINDS[stream]
        self._offset_us = pair * MINUTE_US // pairs
        healthy = 880_000 + pair * 7919 % 60_000
        share = np.where(pair % 33 == 32, 750_000, healthy)
        self._share_millionths = share if stream is Stream.VEHICLE else np.full(pairs, MICRO)

    def ends(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first and last time of the minutes [start, stop), microseconds."""
        first_us, last_us = start * MINUTE_US, (stop - 1) * MINUTE_US
        return first_us, last_us + int(self._offset_us[-1])

    def of(self, start: int, stop: int) -> tuple[Int64, Int64, list[Float64]]:
        """Return times, micro-kWh and each field of the minutes [start, stop), [minute, pair]."""
        shape = (stop - start, len(self._offset_us))
        minutes = np.arange(start, stop)
        at_us = minutes[:, None] * MINUTE_US + self._offset_us
        ukwh = np.empty(shape, np.int64)
        values = [np.empty(shape) for _ in self._kind.fields]
        for row, minute in enumerate(minutes.tolist()):
            rng = np.random.default_rng(minute)
            ac_ukwh = rng.integers(20_000, 200_000, shape[1])
            ukwh[row] = ac_ukwh * self._share_millionths // MICRO
            for field, column in zip(self._kind.fields, values, strict=True):
                low, high = _SPANS[field.key]
                column[row] = rng.integers(10 * low, 10 * high, shape[1]) / 10
        return at_us, ukwh, values


def _bucket_floor(minute: int) -> int:
    return minute - minute % _BUCKET_MIN
