"""One flush: readings of one stream into history, live state and rollups, in one transaction.

The order of steps is what makes it right with several writers: devices first, partitions
next, then the lock on every block of live rows, and only then any other write, and any read that
the versions of blocks do not vouch for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg

from wattstream.domain.readings import KINDS, Kind, Readings, Stream
from wattstream.domain.rollup import advance, empty_live
from wattstream.domain.rows import assign, begins, copied
from wattstream.domain.units import DAY_US, MINUTE_US, Bool, Int32, Int64, Rows
from wattstream.store.port import Progress, Written
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.batch import Batch, Held
from wattstream.store.postgres.blocks import (
    BLOCK_DEVICES,
    Blocks,
    block_updates,
    lock_blocks,
    read_blocks,
)
from wattstream.store.postgres.keys import DeviceKeys
from wattstream.store.postgres.late import write_late
from wattstream.store.postgres.live import LiveCache, Trust
from wattstream.store.postgres.partitions import Partitions
from wattstream.store.postgres.recompute import names_of
from wattstream.store.postgres.steps import (
    ChangedRowError,
    Connection,
    Copy,
    Statement,
    Step,
    commit,
    send,
)

# Below this many rows an INSERT, sent with the rest, beats a COPY and its round trips.
_COPY_FROM_ROWS = 400


class _StaleCacheError(Exception):
    """The registry no longer knows a cached device."""


class FlushWriter:
    """Writes the flushes of one stream through one connection."""

    def __init__(self, stream: Stream) -> None:
        self._kind: Kind = KINDS[stream]
        self._sql = statements.load("flush", stream)
        self._put_falls = statements.load("falls")["put"]
        self._live = LiveCache(stream)
        self._trust = Trust()
        self.keys = DeviceKeys(stream)
        self.partitions = Partitions(stream)

    def prepare(self, readings: Readings, received_at_us: int) -> "Flush":
        """Pack a flush as far as it can be without the database; by one thread at a time.

        Another thread may write the flush before it at the same time: this one takes for granted
        that it will be committed, and the versions of live rows tell at the end.
        """
        flush = Flush(readings, received_at_us, may_try=self._trust.is_due())
        key = self.keys.known(readings.ids)
        if key is None:
            return flush
        flush.batch = batch = Batch(self._kind, readings, key)
        blocks = self._live.get(batch.blocks) if flush.may_try else None
        if blocks is not None:
            flush.steps = self._pack(batch, blocks, received_at_us)
        return flush

    def _pack(self, batch: Batch, blocks: Blocks, received_at_us: int) -> list[Step]:
        """Return the whole transaction of a batch by its live rows; none where it needs history."""
        live = blocks.rows.take(batch.place)
        if not (batch.is_new(live) & batch.is_first).all():
            return []
        before = copied(live)
        closed, falls = advance(live, batch.all_runs(live), received_at_us)
        assign(blocks.rows, batch.place, live)
        # The update of blocks comes first: it is the lock.
        steps = [
            *block_updates(self._kind.stream, blocks, before, live),
            self._history(batch),
            self._day_counts(batch.at_us),
            *_put(self._sql["put_buckets"], closed),
            *_put(self._put_falls, falls),
        ]
        self._live.put(blocks)
        return steps

    def write(
        self,
        connection: Connection,
        flush: "Flush",
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Written:
        """Write a flush, n rows; return after the commit.

        Raises:
            psycopg.Error: The transaction failed; nothing of it was stored.
        """
        try:
            return self._write(connection, flush, on_progress)
        except (_StaleCacheError, ChangedRowError, psycopg.errors.CheckViolation):
            # A restore or an operator removed devices or a partition under us.
            self.keys.forget()
            self.partitions.forget()
            self._live.forget()
            return self._write(connection, Flush(flush.readings, flush.received_at_us), None)

    def _write(
        self, connection: Connection, flush: "Flush", on_progress: Callable[[Progress], None] | None
    ) -> Written:
        batch = flush.batch
        if batch is None:
            key = self.keys.resolve(connection, flush.readings.ids)
            batch = Batch(self._kind, flush.readings, key)
        self.partitions.ensure(connection, batch.at_us)
        if flush.may_try and (flush.batch is None or not self._live.has(batch.blocks)):
            blocks = self._read(connection, batch)
            flush.steps = self._pack(batch, blocks, flush.received_at_us)
        if flush.steps:
            try:
                commit(connection, flush.steps, on_progress)
            except ChangedRowError:
                self._trust.disappointed()
            else:
                self._trust.confirmed()
                return batch.outcome()
        with connection.transaction():
            connection.execute(self._sql["plan_anew"])
            blocks = self._lock(connection, batch)
            outcome = self._write_locked(connection, batch, blocks, flush.received_at_us)
        self._live.put(blocks)
        return outcome

    def _read(self, connection: Connection, batch: Batch) -> Blocks:
        """Read blocks without a lock: if they change before the commit, their versions tell."""
        blocks, exists = read_blocks(connection, self._kind.stream, batch.blocks)
        if not exists[batch.place].all():
            raise _StaleCacheError
        self._live.put(blocks)
        return blocks

    def _write_locked(
        self,
        connection: Connection,
        batch: Batch,
        blocks: Blocks,
        received_at_us: int,
    ) -> Written:
        """Write a batch of any readings, its blocks locked; they are updated in place."""
        live = blocks.rows.take(batch.place)
        before = copied(live)
        is_new = batch.is_new(live)
        batch.late = len(is_new) - int(np.count_nonzero(is_new))
        batch.settle(self._held(connection, batch, ~is_new))
        if batch.is_stored.any():
            send(connection, [self._history(batch)])
        late, new = (np.flatnonzero(batch.is_stored & part) for part in (~is_new, is_new))
        if len(late):
            devices, runs = batch.runs(late, live)
            write_late(connection, runs)
            assign(live, devices, runs.device)
        if len(new):
            devices, runs = batch.runs(new, live)
            closed, falls = advance(runs.device, runs, received_at_us)
            puts = [*_put(self._sql["put_buckets"], closed), *_put(self._put_falls, falls)]
            send(connection, puts)
            assign(live, devices, runs.device)
        if len(late) or len(new):
            is_touched = np.zeros(len(live), np.bool_)
            is_touched[batch.seg[batch.is_stored]] = True
            assign(blocks.rows, batch.place, live)
            is_block_touched = np.zeros(len(blocks.number), np.bool_)
            is_block_touched[batch.place[is_touched] // BLOCK_DEVICES] = True
            changed = blocks.chosen(is_block_touched)
            updates = block_updates(
                self._kind.stream, changed, before.compress(is_touched), live.compress(is_touched)
            )
            send(connection, [*updates, self._day_counts(batch.at_us[batch.is_stored])])
            blocks.version[is_block_touched] = changed.version
        return batch.outcome()

    def _lock(self, connection: Connection, batch: Batch) -> Blocks:
        """Lock blocks and return them, from memory where their version stands."""
        stream, number = self._kind.stream, batch.blocks
        blocks = self._live.get(number)
        version = lock_blocks(connection, stream, number)
        if len(version) != len(number):
            raise _StaleCacheError
        if blocks is None:
            blocks = Blocks(number, version, empty_live(stream, BLOCK_DEVICES * len(number)))
            is_stale = np.ones(len(number), np.bool_)
        else:
            is_stale = version != blocks.version
            blocks.version[:] = version
        if is_stale.any():
            stale, exists = read_blocks(connection, stream, number[is_stale])
            of_stale = is_stale.repeat(BLOCK_DEVICES)
            assign(blocks.rows, of_stale, stale.rows)
            is_missing = np.zeros(len(blocks.rows), np.bool_)
            is_missing[of_stale] = ~exists
            if is_missing[batch.place].any():
                raise _StaleCacheError
        return blocks

    def _held(self, connection: Connection, batch: Batch, candidate: Bool) -> Held:
        """Return which candidates history already holds."""
        rows = np.flatnonzero(candidate & batch.is_first)
        found: tuple[Any, ...] = (None,)
        if len(rows):
            at_us = batch.at_us[rows]
            found = connection.execute(
                self._sql["existing"],
                {
                    "device_id": arrays.PgArray(batch.key[rows].astype(np.int32)),
                    "minute": arrays.PgArray(_minute(at_us)),
                    "measured_at": arrays.PgArray(at_us, times=True),
                    **_bounds(at_us),
                },
                binary=True,
            ).fetchone() or (None,)
        if found[0] is None:
            return Held(rows[:0], batch.ukwh[:0], batch.values[:0])
        return Held(rows[found[0] - 1], found[1], np.column_stack(found[2:]))

    def _history(self, batch: Batch) -> Step:
        """Return the step that inserts what is stored of a batch, at least one row."""
        rows = np.flatnonzero(batch.is_stored)
        minute = _minute(batch.at_us[rows])
        # In the order of the index, so that each reading goes next to the one before it.
        order = np.argsort(minute, kind="stable")
        rows, minute = rows[order], minute[order]
        key, at_us = batch.key[rows].astype(np.int32), batch.at_us[rows]
        energy, fields = batch.ukwh[rows], batch.values[rows]
        if len(rows) >= _COPY_FROM_ROWS:
            columns = [key, minute, arrays.to_pg_time(at_us), energy, *fields.T]
            return Copy(self._sql["copy_history"], arrays.copy_rows(columns))
        named = {
            field.column: arrays.PgArray(fields[:, i]) for i, field in enumerate(self._kind.fields)
        }
        return Statement(
            self._sql["insert_history"],
            {
                "device_id": arrays.PgArray(key),
                "minute": arrays.PgArray(minute),
                "measured_at": arrays.PgArray(at_us, times=True),
                "energy_ukwh": arrays.PgArray(energy),
                **named,
            },
        )

    def _day_counts(self, at_us: Int64) -> Step:
        """Return the step that counts stored readings, at least one, by day."""
        at_us = np.sort(at_us)
        starts = np.flatnonzero(begins(at_us // DAY_US))
        stops = np.append(starts[1:], len(at_us))
        return Statement(
            self._sql["count_days"],
            {
                "readings": arrays.PgArray((stops - starts).astype(np.int64)),
                "first_at": arrays.PgArray(at_us[starts], times=True),
                "last_at": arrays.PgArray(at_us[stops - 1], times=True),
            },
        )


def _put(statement: bytes, rows: Rows) -> list[Step]:
    """Return the step that writes rows, if there are any."""
    return [Statement(statement, arrays.params(rows, names_of(rows)))] if len(rows) else []


@dataclass(slots=True)
class Flush:
    """Readings to be written together, and what is packed of them.

    Attributes:
        readings: n rows.
        received_at_us: When they came.
        may_try: Whether live rows may be taken as they were read, without a lock.
        batch: The rows sorted, where all devices are known.
        steps: The whole transaction, where live rows in memory allow it.
    """

    readings: Readings
    received_at_us: int
    may_try: bool = True
    batch: Batch | None = None
    steps: list[Step] = field(default_factory=list)


def _minute(at_us: Int64) -> Int32:
    """Return the number of the minute of each time, counted from 1970."""
    return (at_us // MINUTE_US).astype(np.int32)


def _bounds(at_us: Int64) -> dict[str, Any]:
    """Return the first and last time as parameters, so that partitions are pruned early."""
    return {
        "first_at": arrays.time_param(int(at_us.min())),
        "last_at": arrays.time_param(int(at_us.max())),
    }
