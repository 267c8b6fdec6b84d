"""Late readings brought into the buckets that they touch, under the lock of their live rows."""

from typing import Any

import numpy as np

from wattstream.domain.readings import Kind
from wattstream.domain.register import EnergyMode, needs_predecessors
from wattstream.domain.rollup import (
    Runs,
    add_to_day,
    bucket_columns,
    empty_live,
    open_buckets,
    rollup_dtype,
    set_newest,
    sum_columns,
    summarize,
)
from wattstream.domain.rows import assign, begins
from wattstream.domain.units import BUCKET_US, NEVER_US, Bool, Int64, Rows, bucket_of
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.recompute import (
    differs,
    names_of,
    put_falls_of_runs,
)
from wattstream.store.postgres.steps import Connection


def write_late(connection: Connection, late: Runs) -> None:
    """Bring rollups up to late readings that history holds by now.

    Args:
        connection: Inside the flush's transaction, live rows locked.
        late: The late readings, one run a device; its live rows are updated in place.
    """
    looks_back = needs_predecessors(late.device)
    for part, write in ((looks_back, _recompute_touched), (~looks_back, _add)):
        chosen = _choose(late, part)
        if len(chosen.run):
            write(connection, chosen)
            assign(late.device, part, chosen.device)


def _choose(runs: Runs, part: Bool) -> Runs:
    """Return the runs whose devices are chosen, with copies of their live rows."""
    rows = part[runs.run]
    number = np.cumsum(part) - 1
    return Runs(
        runs.kind,
        number[runs.run[rows]],
        runs.at_us[rows],
        runs.ukwh[rows],
        runs.values[rows],
        runs.device.compress(part),
        runs.carry.compress(part),
    )


def _add(connection: Connection, late: Runs) -> None:
    """Add late readings of devices whose readings commute to the buckets that hold them."""
    live, stream = late.device, late.kind.stream
    no_carry = empty_live(stream, len(live))
    summary = summarize(
        Runs(late.kind, late.run, late.at_us, late.ukwh, late.values, live, no_carry)
    )
    buckets = summary.buckets
    is_open = buckets["bucket_at"] == live["bucket_at"][summary.run]
    for name in sum_columns(stream):
        live[name][summary.run[is_open]] += buckets[name][is_open]
    closed = buckets[~is_open]
    add_to_day(live, closed, summary.run[~is_open])
    if len(closed):
        statement = statements.load("flush", stream)["add_buckets"]
        connection.execute(statement, arrays.params(closed, names_of(closed)))


def _recompute_touched(connection: Connection, late: Runs) -> None:
    """Recompute the buckets that late readings touch where contributions look back.

    A late reading changes its own contribution and the next two readings', so its own bucket
    and the next that hold two readings. What the first of them looks back at is the carry of its
    bucket, or where that is new, the carry that the next bucket had until now.
    """
    kind, live = late.kind, late.device
    touched = np.unique(np.stack([late.run, bucket_of(late.at_us)]), axis=1)
    known = np.concatenate(
        [_neighbours(connection, kind, live, touched), open_buckets(live, kind.stream)]
    )
    known = known[np.lexsort((known["bucket_at"], known["device_id"]))]
    known_seg = np.searchsorted(live["device_id"], known["device_id"])
    wanted = _changed(known, known_seg, touched)
    seg, at_us, ukwh, values = _raw_buckets(connection, kind, live, wanted)

    starts = _starts(seg, bucket_of(at_us))
    bucket_seg, bucket_at = seg[starts], bucket_of(at_us[starts])
    index = np.searchsorted(_order(known_seg, known["bucket_at"]), _order(bucket_seg, bucket_at))
    is_known = known["bucket_at"][index] == bucket_at
    is_first = begins(bucket_seg)
    # A carry newer than the row before tells of buckets in between that are not here.
    before = np.where(is_first, NEVER_US, at_us[starts - 1])
    restarts = is_first | (known["before1_at"][index] > before)
    run = np.repeat(np.cumsum(restarts) - 1, np.diff(starts, append=len(seg)))
    carry = known[index][restarts]
    runs = Runs(kind, run, at_us, ukwh, values, live[bucket_seg[restarts]], carry)
    summary = summarize(runs)

    is_newest = at_us == live["last_at"][seg]
    if (live["energy_mode"] == EnergyMode.REGISTER).any():
        put_falls_of_runs(connection, runs, summary, is_newest)

    is_open = summary.buckets["bucket_at"] == live["bucket_at"][bucket_seg]
    opened = bucket_seg[is_open]
    rows = live.take(opened)
    for name, _ in bucket_columns(kind.stream):
        rows[name] = summary.buckets[name][is_open]
    set_newest(rows, runs, summary, np.flatnonzero(is_newest))
    assign(live, opened, rows)
    is_same = is_known & ~differs(known[index], summary.buckets)
    for buckets, chosen, sign in ((known[index], is_known, -1), (summary.buckets, True, 1)):
        differing = ~is_open & ~is_same & chosen
        add_to_day(live, buckets[differing], bucket_seg[differing], sign)
    closed = summary.buckets[~is_open & ~is_same]
    if len(closed):
        statement = statements.load("flush", kind.stream)["put_buckets"]
        connection.execute(statement, arrays.params(closed, names_of(closed)))


def _changed(known: Rows, known_seg: Int64, touched: Int64) -> Int64:
    """Return the buckets that late readings change, as (device, start), int64[2, n].

    Args:
        known: Buckets up to each device's open one, sorted by device and start: the next two
            after each touched one are among them, as far as they exist.
        known_seg: Their devices.
        touched: Buckets that hold late readings, as (device, start).
    """
    after = np.searchsorted(_order(known_seg, known["bucket_at"]), _order(*touched), side="right")
    parts = [touched]
    # The second one only where the first holds a single reading.
    is_single = known["readings"].take(after, mode="clip") < 2
    for place, is_wanted in ((after, True), (after + 1, is_single)):
        inside = np.minimum(place, len(known) - 1)
        is_there = is_wanted & (place < len(known)) & (known_seg[inside] == touched[0])
        parts.append(np.stack([known_seg[inside], known["bucket_at"][inside]])[:, is_there])
    return np.unique(np.concatenate(parts, axis=1), axis=1)


def _order(seg: Int64, bucket_at: Int64) -> Int64:
    """Return numbers in the order of device and bucket."""
    return (seg << 32) + bucket_at // BUCKET_US


def _neighbours(connection: Connection, kind: Kind, live: Rows, touched: Int64) -> Rows:
    dtype = rollup_dtype(kind.stream)
    record = connection.execute(
        statements.load("recompute", kind.stream)["neighbours"],
        {
            "device_id": arrays.PgArray(live["device_id"][touched[0]]),
            "bucket_at": arrays.PgArray(touched[1], times=True),
        },
        binary=True,
    ).fetchone()
    return arrays.to_rows(record or (), dtype.names or (), dtype)


def _raw_buckets(
    connection: Connection, kind: Kind, live: Rows, wanted: Int64
) -> tuple[Int64, Int64, Int64, Any]:
    """Return the readings of some buckets up to each device's last, as columns."""
    record = connection.execute(
        statements.load("recompute", kind.stream)["raw_buckets"],
        {
            "device_id": arrays.PgArray(live["device_id"][wanted[0]]),
            "bucket_at": arrays.PgArray(wanted[1], times=True),
            "first_at": arrays.time_param(int(wanted[1].min())),
            "last_at": arrays.time_param(int(wanted[1].max()) + BUCKET_US),
        },
        binary=True,
    ).fetchone()
    device, at_us, ukwh, values = arrays.readings_of(record)
    seg = np.searchsorted(live["device_id"], device)
    rows = at_us <= live["last_at"][seg]
    return seg[rows], at_us[rows], ukwh[rows], values[rows]


def _starts(seg: Int64, bucket_at: Int64) -> Int64:
    """Return where a new device or bucket begins."""
    return np.flatnonzero(begins(seg) | begins(bucket_at))
