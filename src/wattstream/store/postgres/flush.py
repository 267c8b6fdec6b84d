"""One flush: readings of one stream into history, live state and rollups, in one transaction.

The order of steps is what makes it right with several writers: devices first, partitions
next, then the lock on every live row, and only then any other read or write.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg

from wattstream.domain.readings import KINDS, Kind, Readings, Stream
from wattstream.domain.rollup import Runs, advance
from wattstream.domain.rows import assign, copied
from wattstream.domain.units import DAY_US, Bool, Float64, Int64, Rows
from wattstream.store.port import Values, Verdict, Written
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.keys import DeviceKeys
from wattstream.store.postgres.live import LiveCache
from wattstream.store.postgres.partitions import Partitions
from wattstream.store.postgres.recompute import (
    ChangedRowError,
    lock,
    names_of,
    update_live,
    write_late,
)

# Below this many rows one INSERT in a pipeline beats a COPY, which needs round trips of its own.
_COPY_FROM_ROWS = 400
# Where several engines write the same devices, one flush in so many tries its live rows in memory.
_LONGEST_PAUSE = 64


class _StaleCacheError(Exception):
    """The registry no longer knows a cached device."""


class _Trust:
    """Whether live rows in memory are worth a try: less and less often where others write too."""

    def __init__(self) -> None:
        self._skip = 0
        self._pause = 1

    def is_due(self) -> bool:
        """Return whether to try now."""
        self._skip = max(0, self._skip - 1)
        return self._skip == 0

    def confirmed(self) -> None:
        """Note that the rows stood."""
        self._pause = 1

    def disappointed(self) -> None:
        """Note that another writer had changed one."""
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._skip = self._pause


class FlushWriter:
    """Writes the flushes of one stream through one connection."""

    def __init__(self, stream: Stream) -> None:
        self._kind: Kind = KINDS[stream]
        self._sql = statements.load("flush", stream)
        self._live = LiveCache(stream)
        self._trust = _Trust()
        self.keys = DeviceKeys(stream)
        self.partitions = Partitions(stream)

    def write(
        self, connection: psycopg.Connection[Any], readings: Readings, received_at_us: int
    ) -> Written:
        """Write readings, n rows; return after the commit.

        Raises:
            psycopg.Error: The transaction failed; nothing of it was stored.
        """
        try:
            return self._write(connection, readings, received_at_us)
        except (_StaleCacheError, psycopg.errors.CheckViolation):
            # A restore or an operator removed devices or a partition under us.
            self.keys.forget()
            self.partitions.forget()
            self._live.forget()
            return self._write(connection, readings, received_at_us)

    def _write(
        self, connection: psycopg.Connection[Any], readings: Readings, received_at_us: int
    ) -> Written:
        key = self.keys.resolve(connection, readings.ids)
        batch = _Batch(self._kind, readings, key)
        self.partitions.ensure(connection, batch.at_us)
        live = self._live.get(batch.devices) if self._trust.is_due() else None
        if live is not None and batch.is_new(live).all() and batch.is_first.all():
            try:
                return self._write_trusting(connection, batch, live, received_at_us)
            except (ChangedRowError, psycopg.errors.DivisionByZero):
                self._trust.disappointed()
        with connection.transaction():
            connection.execute(self._sql["plan_anew"])
            live = self._lock(connection, batch.devices)
            outcome = self._write_locked(connection, batch, live, received_at_us)
        self._live.put(live)
        return outcome

    def _write_trusting(
        self,
        connection: psycopg.Connection[Any],
        batch: "_Batch",
        live: Rows,
        received_at_us: int,
    ) -> Written:
        """Write a batch of readings newer than all of their devices', without reading anything.

        Raises:
            ChangedRowError, DivisionByZero: A live row is not the one in memory; nothing was written.
        """
        before = copied(live)
        closed = advance(live, batch.all_runs(live), received_at_us)
        is_small = len(batch.key) < _COPY_FROM_ROWS
        with connection.pipeline() if is_small else nullcontext(), connection.transaction():
            # The update comes first: it is the lock.
            self._update(connection, before, live, batch.at_us)
            self._write_history(connection, batch, is_small=is_small)
            self._put_buckets(connection, closed)
        self._trust.confirmed()
        self._live.put(live)
        return batch.outcome()

    def _write_locked(
        self,
        connection: psycopg.Connection[Any],
        batch: "_Batch",
        live: Rows,
        received_at_us: int,
    ) -> Written:
        """Write a batch of any readings, live rows locked; those are updated in place."""
        before = copied(live)
        is_new = batch.is_new(live)
        batch.settle(self._held(connection, batch, ~is_new))
        self._write_history(connection, batch, is_small=len(batch.key) < _COPY_FROM_ROWS)
        late, new = (np.flatnonzero(batch.is_stored & part) for part in (~is_new, is_new))
        if len(late):
            devices, runs = batch.runs(late, live)
            write_late(connection, runs)
            assign(live, devices, runs.device)
        if len(new):
            devices, runs = batch.runs(new, live)
            self._put_buckets(connection, advance(runs.device, runs, received_at_us))
            assign(live, devices, runs.device)
        if len(late) or len(new):
            is_touched = np.zeros(len(live), np.bool_)
            is_touched[batch.seg[batch.is_stored]] = True
            changed = live.compress(is_touched)
            self._update(
                connection, before.compress(is_touched), changed, batch.at_us[batch.is_stored]
            )
            assign(live, is_touched, changed)
        return batch.outcome()

    def _lock(self, connection: psycopg.Connection[Any], devices: Int64) -> Rows:
        """Lock live rows and return them, from memory those whose version tells that they stand."""
        stream = self._kind.stream
        live = self._live.get(devices)
        if live is None:
            live = lock(connection, stream, devices)
        else:
            key = arrays.PgArray(devices.astype(np.int32))
            found = connection.execute(
                self._sql["lock_versions"], {"device_id": key}, binary=True
            ).fetchone()
            versions = found[0] if found and found[0] is not None else np.zeros(0, np.int64)
            is_stale = versions != live["version"] if len(versions) == len(live) else None
            if is_stale is None:
                raise _StaleCacheError
            if is_stale.any():
                assign(live, is_stale, lock(connection, stream, devices[is_stale]))
        if len(live) != len(devices):
            raise _StaleCacheError
        return live

    def _held(
        self, connection: psycopg.Connection[Any], batch: "_Batch", candidate: Bool
    ) -> "_Held":
        """Return which candidates history already holds."""
        rows = np.flatnonzero(candidate & batch.is_first)
        found: tuple[Any, ...] = (None,)
        if len(rows):
            at_us = batch.at_us[rows]
            found = connection.execute(
                self._sql["existing"],
                {
                    "device_id": arrays.PgArray(batch.key[rows].astype(np.int32)),
                    "measured_at": arrays.PgArray(at_us, times=True),
                    **_bounds(at_us),
                },
                binary=True,
            ).fetchone() or (None,)
        if found[0] is None:
            return _Held(rows[:0], batch.ukwh[:0], batch.values[:0])
        return _Held(rows[found[0] - 1], found[1], np.column_stack(found[2:]))

    def _write_history(
        self, connection: psycopg.Connection[Any], batch: "_Batch", *, is_small: bool
    ) -> None:
        rows = np.flatnonzero(batch.is_stored)
        if len(rows) == 0:
            return
        key, at_us = batch.key[rows].astype(np.int32), batch.at_us[rows]
        energy, fields = batch.ukwh[rows], batch.values[rows]
        if is_small:
            columns = {
                field.column: arrays.PgArray(np.ascontiguousarray(fields[:, i]))
                for i, field in enumerate(self._kind.fields)
            }
            connection.execute(
                self._sql["insert_history"],
                {
                    "device_id": arrays.PgArray(key),
                    "measured_at": arrays.PgArray(at_us, times=True),
                    "energy_ukwh": arrays.PgArray(energy),
                    **columns,
                },
            )
            return
        with connection.cursor().copy(self._sql["copy_history"]) as copy:
            copy.write(arrays.copy_rows([key, arrays.to_pg_time(at_us), energy, *fields.T]))

    def _put_buckets(self, connection: psycopg.Connection[Any], closed: Rows) -> None:
        if len(closed):
            connection.execute(self._sql["put_buckets"], arrays.params(closed, names_of(closed)))

    def _update(
        self, connection: psycopg.Connection[Any], before: Rows, live: Rows, at_us: Int64
    ) -> None:
        """Write changed live rows, in place a new version, and count the stored readings by day."""
        update_live(connection, self._kind.stream, before, live)
        connection.execute(self._sql["count_days"], _day_counts(at_us))


class _Batch:
    """The rows of a flush, sorted by device and time, and what becomes of each.

    Attributes:
        devices: Keys of its devices, ascending, int64[m].
        seg: Position of each row's device among them, int64[n].
    """

    def __init__(self, kind: Kind, readings: Readings, key: Int64) -> None:
        order = np.lexsort((readings.at_us, key))
        self._kind = kind
        self._order = order
        self.key = key[order]
        self.at_us = readings.at_us[order]
        self.ukwh = readings.energy_ukwh[order]
        self.values = readings.values[order]
        starts = np.diff(self.key, prepend=-1) != 0
        self.devices = self.key[starts]
        self.seg = np.cumsum(starts) - 1
        same = (np.diff(self.key) == 0) & (np.diff(self.at_us) == 0)
        # The sort is stable: of one reading sent twice, the first to arrive comes first.
        self.is_first: Bool = np.concatenate([[True], ~same])
        self.is_stored = self.is_first.copy()
        self._verdicts = np.zeros(len(order), np.int8)
        self._standing: dict[int, Values] = {}

    def is_new(self, live: Rows) -> Bool:
        """Return which rows are newer than their devices' newest."""
        return np.asarray(self.at_us > live["last_at"][self.seg])

    def settle(self, held: "_Held") -> None:
        """Give every row its verdict, given the first rows that history already holds."""
        if len(held.rows) == 0 and self.is_first.all():
            return  # what is usual: all new
        first_of = np.flatnonzero(self.is_first)[np.cumsum(self.is_first) - 1]
        ukwh, values = self.ukwh.copy(), self.values.copy()
        ukwh[held.rows], values[held.rows] = held.ukwh, held.values
        ukwh, values = ukwh[first_of], values[first_of]
        alike = (self.values == values) | (np.isnan(self.values) & np.isnan(values))
        is_same = (self.ukwh == ukwh) & alike.all(axis=1)
        self.is_stored[held.rows] = False
        self._verdicts = np.where(is_same, Verdict.DUPLICATE, Verdict.CONFLICT).astype(np.int8)
        self._verdicts[self.is_stored] = Verdict.STORED
        self._standing = {
            row: Values(int(ukwh[row]), tuple(values[row].tolist()))
            for row in np.flatnonzero(self._verdicts == Verdict.CONFLICT).tolist()
        }

    def runs(self, rows: Int64, live: Rows) -> tuple[Int64, Runs]:
        """Return some rows as one run a device, with copies of the devices' live rows.

        Returns:
            Positions of the devices in `live`, and the runs; their carry is not set.
        """
        seg = self.seg[rows]
        starts = np.diff(seg, prepend=-1) != 0
        devices, device = seg[starts], live.take(seg[starts])
        run = np.cumsum(starts) - 1
        return devices, Runs(
            self._kind,
            run,
            self.at_us[rows],
            self.ukwh[rows],
            self.values[rows],
            device,
            carry=device,
        )

    def all_runs(self, live: Rows) -> Runs:
        """Return all rows as one run a device."""
        return Runs(
            self._kind, self.seg, self.at_us, self.ukwh, self.values, device=live, carry=live
        )

    def outcome(self) -> Written:
        """Return the verdicts in the order of arrival."""
        verdicts = np.empty_like(self._verdicts)
        verdicts[self._order] = self._verdicts
        return Written(
            verdicts, {int(self._order[row]): held for row, held in self._standing.items()}
        )


@dataclass(frozen=True, slots=True)
class _Held:
    """Readings that history already holds: rows of the batch, and the values that stand."""

    rows: Int64
    ukwh: Int64
    values: Float64


def _bounds(at_us: Int64) -> dict[str, Any]:
    """Return the first and last time as parameters, so that partitions are pruned early."""
    return {
        "first_at": arrays.time_param(int(at_us.min())),
        "last_at": arrays.time_param(int(at_us.max())),
    }


def _day_counts(at_us: Int64) -> dict[str, arrays.PgArray]:
    at_us = np.sort(at_us)
    starts = np.flatnonzero(np.diff(at_us // DAY_US, prepend=-(2**62)) != 0)
    stops = np.append(starts[1:], len(at_us))
    return {
        "readings": arrays.PgArray((stops - starts).astype(np.int64)),
        "first_at": arrays.PgArray(at_us[starts], times=True),
        "last_at": arrays.PgArray(at_us[stops - 1], times=True),
    }
