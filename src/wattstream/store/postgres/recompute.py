"""Buckets computed again from history, under the lock of their devices' live rows."""

from typing import Any

import numpy as np

from wattstream.domain.falls import FALL_DTYPE
from wattstream.domain.holdings import Repair
from wattstream.domain.readings import KINDS, Stream
from wattstream.domain.rollup import (
    CARRY,
    Runs,
    Summary,
    bucket_columns,
    empty_live,
    fallen,
    open_buckets,
    rollup_dtype,
    set_newest,
    state_columns,
    summarize,
)
from wattstream.domain.rows import begins, copied, ends, opaque
from wattstream.domain.units import NEVER_US, Bool, Int64, Rows
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.blocks import new_version
from wattstream.store.postgres.steps import Connection


def names_of(rows: Rows) -> tuple[str, ...]:
    """Return the columns of a structured array."""
    return rows.dtype.names or ()


def empty_rollup(stream: Stream, n: int) -> Rows:
    """Return n rollup rows that hold nothing and follow nothing."""
    return open_buckets(empty_live(stream, n), stream)


def rebuild(
    connection: Connection, stream: Stream, live: Rows, start_us: int, end_us: int
) -> Repair:
    """Recompute every bucket of some devices in a range, and repair what differs.

    Args:
        connection: Inside a transaction that has locked the live rows in an earlier statement.
        stream: The stream of the devices.
        live: Their live rows, sorted by device; updated in place and written where changed.
        start_us: A bucket start, or NEVER_US.
        end_us: A bucket start, or the end of int64.
    """
    statement = statements.load("recompute", stream)
    limits = {
        "device_id": arrays.PgArray(live["device_id"]),
        "start_at": arrays.time_param(start_us),
        "end_at": arrays.time_param(end_us),
    }
    dtype = rollup_dtype(stream)
    record = connection.execute(statement["closed_range"], limits, binary=True).fetchone()
    closed = arrays.to_rows(record or (), dtype.names or (), dtype)
    device, at_us, ukwh, values = arrays.readings_of(
        connection.execute(statement["raw_range"], limits, binary=True).fetchone()
    )
    before = copied(live)
    rebuilt = empty_rollup(stream, 0)
    if len(device):
        present, run = np.unique(np.searchsorted(live["device_id"], device), return_inverse=True)
        carry = carry_before(connection, stream, live[present], limits)
        runs = Runs(KINDS[stream], run, at_us, ukwh, values, live[present], carry)
        summary = summarize(runs)
        is_newest = ends(run)
        is_newest &= at_us >= live["last_at"][present][run]
        put_falls_of_runs(connection, runs, summary, is_newest)
        rebuilt = _reopen(live, present, runs, summary)
    replaced = replace_closed(connection, stream, closed, rebuilt)
    changed = differs(live, before)
    # A bucket that differs makes a new version too: engines keep sums of closed ones in memory.
    is_written = changed | np.isin(live["device_id"], replaced["device_id"])
    if is_written.any():
        rows = live.compress(is_written)
        names = ["device_id", *(name for name, _ in state_columns(stream))]
        params = {"version": new_version(), **arrays.params(rows, names)}
        connection.execute(statements.load("flush", stream)["update_live"], params)
    changed |= np.isin(live["device_id"], _mend_days(connection, stream, live))
    repaired = len(replaced) + int(changed.sum())
    is_open = (live["bucket_at"] >= start_us) & (live["bucket_at"] < end_us)
    is_open &= live["bucket_at"] != NEVER_US
    return Repair(len(_union(closed, rebuilt)) + int(is_open.sum()), repaired)


def _mend_days(connection: Connection, stream: Stream, live: Rows) -> Int64:
    """Make the day's sums of live rows what their rollups add up to; return whose differed."""
    row = connection.execute(
        statements.load("flush", stream)["mend_days"],
        {"device_id": arrays.PgArray(live["device_id"]), "version": new_version()},
        binary=True,
    ).fetchone()
    return np.zeros(0, np.int64) if row is None or row[0] is None else row[0]


def _reopen(live: Rows, present: Int64, runs: Runs, summary: Summary) -> Rows:
    """Put buckets at or after each device's open one back into its live row.

    Returns:
        The other buckets, which belong into the rollup.
    """
    is_last = ends(summary.run)
    holds_open = is_last & (summary.buckets["bucket_at"] >= live["bucket_at"][present[summary.run]])
    chosen = present[summary.run[holds_open]]
    newest = np.flatnonzero(ends(runs.run))
    rows = live[chosen]
    for name, _ in bucket_columns(runs.kind.stream):
        rows[name] = summary.buckets[name][holds_open]
    set_newest(rows, runs, summary, newest[summary.run[holds_open]])
    live[chosen] = rows
    closed: Rows = summary.buckets[~holds_open]
    return closed


def carry_before(
    connection: Connection, stream: Stream, live: Rows, limits: dict[str, Any]
) -> Rows:
    """Return, per device, the two readings before the range as a carry."""
    carry = empty_rollup(stream, len(live))
    record = connection.execute(
        statements.load("recompute", stream)["before_range"],
        {**limits, "device_id": arrays.PgArray(live["device_id"])},
        binary=True,
    ).fetchone()
    if record is None or record[0] is None:
        return carry
    device, at_us, ukwh = record
    order = np.lexsort((-at_us, device))
    seg = np.searchsorted(live["device_id"], device[order])
    is_newest = begins(seg)
    for newest, at_name, ukwh_name in ((True, *CARRY[:2]), (False, *CARRY[2:])):
        rows = is_newest == newest
        carry[at_name][seg[rows]] = at_us[order][rows]
        carry[ukwh_name][seg[rows]] = ukwh[order][rows]
    return carry


def replace_closed(connection: Connection, stream: Stream, old: Rows, new: Rows) -> Rows:
    """Make the rollup say `new` where it said `old`; return the names of buckets that differed."""
    statement = statements.load("flush", stream)
    wrong = new[~np.isin(opaque(new), opaque(old))]
    gone = np.setdiff1d(_names(old), _names(new))
    if len(wrong):
        connection.execute(statement["put_buckets"], arrays.params(wrong, names_of(wrong)))
    if len(gone):
        connection.execute(statement["delete_buckets"], arrays.params(gone, names_of(gone)))
    return np.concatenate([_names(wrong), gone])


def put_falls_of_runs(
    connection: Connection, runs: Runs, summary: Summary, is_newest: Bool
) -> None:
    """Make the register events of runs what their readings tell."""
    steps, device = summary.steps, runs.device["device_id"][runs.run]
    first = np.flatnonzero(begins(runs.run))
    last = np.flatnonzero(ends(runs.run))
    # A reading tells of its predecessor; the newest of itself as well.
    is_first = steps.at1_us[first] == NEVER_US
    replace_falls(
        connection,
        device[first],
        np.where(is_first, steps.at_us[first], steps.at1_us[first]),
        np.where(is_newest[last], steps.at_us[last], steps.at1_us[last]),
        fallen(runs, steps, is_newest),
    )


def replace_falls(
    connection: Connection, device: Int64, first_us: Int64, last_us: Int64, new: Rows
) -> None:
    """Make the register events of some devices, each in [first, last], be `new`, FALL_DTYPE."""
    sql = statements.load("falls")
    ranges = {
        "device_id": arrays.PgArray(device.astype(np.int32)),
        "first_at": arrays.PgArray(first_us, times=True),
        "last_at": arrays.PgArray(last_us, times=True),
    }
    record = connection.execute(sql["held"], ranges, binary=True).fetchone()
    old = arrays.to_rows(record or (), FALL_DTYPE.names or (), FALL_DTYPE)
    wrong = new[~np.isin(opaque(new), opaque(old))]
    gone = np.setdiff1d(_names(old, "fell_at"), _names(new, "fell_at"))
    if len(wrong):
        connection.execute(sql["put"], arrays.params(wrong, names_of(wrong)))
    if len(gone):
        connection.execute(sql["delete"], arrays.params(gone, names_of(gone)))


def _names(rows: Rows, time: str = "bucket_at") -> Rows:
    """Return the device and time that name each row."""
    names: Rows = np.zeros(len(rows), [("device_id", np.int32), (time, np.int64)])
    for name in names_of(names):
        names[name] = rows[name]
    return names


def differs(a: Rows, b: Rows) -> Bool:
    """Return where rows of one type differ in any byte."""
    shape = (len(a), a.dtype.itemsize)
    a_bytes, b_bytes = (np.ascontiguousarray(x).view(np.uint8).reshape(shape) for x in (a, b))
    return np.asarray((a_bytes != b_bytes).any(axis=1))


def _union(a: Rows, b: Rows) -> Rows:
    both: Rows = np.union1d(_names(a), _names(b))
    return both
