"""Readings to buckets, and live state moved forward by newer readings.

Rollups are a pure function of a device's history and its current rules. The newest bucket
of a device stays open in its live row; the others are rollup rows.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from wattstream.domain.falls import falls
from wattstream.domain.readings import KINDS, Kind, Stream
from wattstream.domain.register import (
    RULE_COLUMNS,
    Contributions,
    Steps,
    contributions,
    needs_predecessors,
)
from wattstream.domain.rows import begins, ends
from wattstream.domain.units import (
    BUCKET_US,
    NEVER_US,
    Bool,
    Float64,
    Int64,
    Rows,
    bucket_of,
    to_micro,
)

DAY_BUCKETS = 95
"""Closed quarter-hours that a live row sums: with the open one, they make a day."""

CARRY = ("before1_at", "before1_ukwh", "before2_at", "before2_ukwh")
"""The two readings before the first of a bucket: an edge inside a bucket needs no search
through older partitions. Kept only for devices whose rules look back."""


@cache
def bucket_columns(stream: Stream) -> list[tuple[str, type]]:
    """Return the columns of a bucket, open or closed, without the device."""
    measured = [
        column
        for field in KINDS[stream].fields
        for column in ((f"{field.name}_sum_micro", np.int64), (f"{field.name}_count", np.int32))
    ]
    return [
        ("bucket_at", np.int64),
        ("energy_ukwh", np.int64),
        ("suspect_ukwh", np.int64),
        ("readings", np.int32),
        *measured,
        *((name, np.int64) for name in CARRY),
    ]


@cache
def sum_columns(stream: Stream) -> list[str]:
    """Return the columns of a bucket that add up."""
    return [name for name, _ in bucket_columns(stream) if name != "bucket_at" and name not in CARRY]


_CARRY_DTYPE = np.dtype([(name, np.int64) for name in CARRY])


@cache
def rollup_dtype(stream: Stream) -> np.dtype[np.void]:
    """Return the row type of closed buckets."""
    return np.dtype([("device_id", np.int32), *bucket_columns(stream)])


@cache
def state_columns(stream: Stream) -> list[tuple[str, type]]:
    """Return the columns of a live row that a flush may change."""
    return [
        ("last_at", np.int64),
        ("last_ukwh", np.int64),
        *((field.column, np.float64) for field in KINDS[stream].fields),
        ("received_at", np.int64),
        ("delta_ukwh", np.int64),
        ("prev_at", np.int64),
        ("prev_ukwh", np.int64),
        *bucket_columns(stream),
    ]


@cache
def day_columns(stream: Stream) -> list[tuple[str, type]]:
    """Return the columns of a live row that sum the DAY_BUCKETS before its open bucket.

    In memory they hold what a flush adds to those sums.
    """
    types = dict(bucket_columns(stream))
    return [(f"day_{name}", types[name]) for name in sum_columns(stream)]


HOT_TIMES = ("last_at", "received_at", "prev_at")
"""Times of a live row that each reading changes."""


@cache
def hot_numbers(stream: Stream) -> list[str]:
    """Return the integers of a live row that a reading in the open bucket changes."""
    return ["last_ukwh", "delta_ukwh", "prev_ukwh", *sum_columns(stream)]


WARM = ("bucket_at", *CARRY)
"""What else a flush changes of a live row: where a bucket opens, or late readings come."""


@cache
def live_dtype(stream: Stream) -> np.dtype[np.void]:
    """Return the row type of live state: device, rules, newest reading, open bucket."""
    columns = (*RULE_COLUMNS, *state_columns(stream), *day_columns(stream))
    return np.dtype([("device_id", np.int32), *columns])


def empty_live(stream: Stream, n: int) -> Rows:
    """Return n live rows of devices without readings."""
    live = np.zeros(n, live_dtype(stream))
    for name in ("last_at", "received_at", "prev_at", "bucket_at", "before1_at", "before2_at"):
        live[name] = NEVER_US
    for field in KINDS[stream].fields:
        live[field.column] = np.nan
    live["heartbeat_s"] = 60
    return live


@dataclass(frozen=True, slots=True)
class Runs:
    """Consecutive readings of devices, sorted by (run, time), n rows in m runs.

    A run is a stretch of one device's history without a gap, so each reading's predecessors
    are the rows before it, and those of its first two the run's carry.

    Attributes:
        kind: The stream's shape.
        run: Run of each row, int64[n], ascending, every run with at least one row.
        at_us: Measured at, int64[n].
        ukwh: Value as sent, int64[n].
        values: Optional fields, float64[n, k].
        device: Live rows of the runs, m rows: device_id and rules are read.
        carry: The two readings before each run, m rows with CARRY; NEVER_US for none.
    """

    kind: Kind
    run: Int64
    at_us: Int64
    ukwh: Int64
    values: Float64
    device: Rows
    carry: Rows

    @property
    def first(self) -> Bool:
        """True at the first row of each run."""
        return begins(self.run)


@dataclass(frozen=True, slots=True)
class Summary:
    """What runs amount to.

    Attributes:
        buckets: One row per run and bucket, rollup_dtype, in the order of the runs.
        run: Run of each bucket, int64.
        steps: The readings with their predecessors, n rows.
        parts: What each reading contributed, n rows.
    """

    buckets: Rows
    run: Int64
    steps: Steps
    parts: Contributions


def with_predecessors(runs: Runs) -> Steps:
    """Return the readings of runs with the two before each, NEVER_US where no rule needs them."""
    at, ukwh = runs.at_us, runs.ukwh
    if not needs_predecessors(runs.device).any():
        never, zero = np.broadcast_to(NEVER_US, len(at)), np.broadcast_to(0, len(at))
        return Steps(at, ukwh, never, zero, never, zero)
    first = runs.first
    second = np.roll(first, 1) & ~first
    carry = runs.carry.take(runs.run)

    def before1(column: Int64, name: str) -> Int64:
        return np.where(first, carry[f"before1_{name}"], np.roll(column, 1))

    def before2(column: Int64, name: str) -> Int64:
        shifted = np.where(second, carry[f"before1_{name}"], np.roll(column, 2))
        return np.where(first, carry[f"before2_{name}"], shifted)

    return Steps(
        at, ukwh, before1(at, "at"), before1(ukwh, "ukwh"), before2(at, "at"), before2(ukwh, "ukwh")
    )


def summarize(runs: Runs) -> Summary:
    """Return the buckets of runs; at least one row.

    A bucket cut by the start of its run is summed from the rows at hand only.
    """
    steps = with_predecessors(runs)
    parts = contributions(steps, _device_of_each(runs))
    bucket_at = bucket_of(runs.at_us)
    starts = np.flatnonzero(runs.first | begins(bucket_at))
    run = runs.run[starts]
    buckets = np.zeros(len(starts), rollup_dtype(runs.kind.stream))
    buckets["device_id"] = runs.device["device_id"][run]
    buckets["bucket_at"] = bucket_at[starts]
    buckets["energy_ukwh"] = np.add.reduceat(parts.energy, starts)
    buckets["suspect_ukwh"] = np.add.reduceat(parts.suspect, starts)
    buckets["readings"] = np.diff(starts, append=len(runs.run))
    for i, field in enumerate(runs.kind.fields):
        values = runs.values[:, i]
        buckets[f"{field.name}_sum_micro"] = np.add.reduceat(to_micro(values), starts)
        buckets[f"{field.name}_count"] = np.add.reduceat(~np.isnan(values), starts, dtype=np.int32)
    looks_back = np.flatnonzero(needs_predecessors(runs.device)[run])
    for name, column in zip(
        CARRY, (steps.at1_us, steps.ukwh1, steps.at2_us, steps.ukwh2), strict=True
    ):
        buckets[name] = NEVER_US if name.endswith("_at") else 0
        buckets[name][looks_back] = column[starts[looks_back]]
    return Summary(buckets, run, steps, parts)


def set_newest(live: Rows, runs: Runs, summary: Summary, newest: Int64) -> None:
    """Write devices' newest readings into their live rows, in place.

    Args:
        live: The live rows, m devices.
        runs: Readings that hold those newest ones.
        summary: What they amount to.
        newest: Row in `runs` of each device's newest reading, int64[m].
    """
    looks_back = needs_predecessors(live)
    live["last_at"] = runs.at_us[newest]
    live["last_ukwh"] = runs.ukwh[newest]
    for i, field in enumerate(runs.kind.fields):
        live[field.column] = runs.values[newest, i]
    live["delta_ukwh"] = summary.parts.difference[newest]
    live["prev_at"] = np.where(looks_back, summary.steps.at1_us[newest], NEVER_US)
    live["prev_ukwh"] = np.where(looks_back, summary.steps.ukwh1[newest], 0)


def open_buckets(live: Rows, stream: Stream) -> Rows:
    """Return the open bucket of each live row, rollup_dtype."""
    buckets = np.zeros(len(live), rollup_dtype(stream))
    for name in buckets.dtype.names or ():
        buckets[name] = live[name]
    return buckets


def fallen(runs: Runs, steps: Steps, is_newest: Bool) -> Rows:
    """Return the falls that the readings of runs tell of; see `falls`."""
    return falls(steps, _device_of_each(runs), is_newest)


def _device_of_each(runs: Runs) -> Rows:
    """Return the live row of each reading's device; none where no rule needs it."""
    if needs_predecessors(runs.device).any():
        return runs.device.take(runs.run)
    return runs.device[:0]


def advance(live: Rows, runs: Runs, received_at_us: int) -> tuple[Rows, Rows]:
    """Move live rows forward, in place, by readings newer than their last.

    Args:
        live: One row per run.
        runs: The readings; `carry` is ignored and taken from the live rows.
        received_at_us: When the readings came.

    Returns:
        The buckets that closed, rollup_dtype, sorted by device and bucket; and the falls that
        these readings tell of.
    """
    carry = np.zeros(len(live), _CARRY_DTYPE)
    for name, source in zip(CARRY, ("last_at", "last_ukwh", "prev_at", "prev_ukwh"), strict=True):
        carry[name] = live[source]
    runs = Runs(runs.kind, runs.run, runs.at_us, runs.ukwh, runs.values, live, carry)
    summary = summarize(runs)
    buckets, run = summary.buckets, summary.run
    is_first = begins(run)
    is_last = ends(run)

    # What is usual: every device's readings lie in the quarter-hour that is open.
    of_bucket = run if len(run) > len(live) else slice(None)
    goes_on = is_first & (buckets["bucket_at"] == live["bucket_at"][of_bucket])
    for name in sum_columns(runs.kind.stream):
        buckets[name] += live[name][of_bucket] * goes_on
    for name in CARRY:
        np.copyto(buckets[name], live[name][of_bucket], where=goes_on)

    is_left = (live["bucket_at"] != NEVER_US) & ~goes_on[is_first]
    closed = buckets[:0]
    if is_left.any() or not is_last.all():
        left = open_buckets(live.compress(is_left), runs.kind.stream)
        closed = np.concatenate([left, buckets.compress(~is_last)])
        closed = closed.take(np.lexsort((closed["bucket_at"], closed["device_id"])))

    latest = buckets.compress(is_last)
    for name, _ in bucket_columns(runs.kind.stream):
        live[name] = latest[name]
    is_newest = ends(runs.run)
    set_newest(live, runs, summary, np.flatnonzero(is_newest))
    live["received_at"] = received_at_us
    add_to_day(live, closed, np.searchsorted(live["device_id"], closed["device_id"]))
    return closed, fallen(runs, summary.steps, is_newest)


def day_start(live: Rows) -> Int64:
    """Return where the day that each live row sums begins; NEVER_US where nothing is open."""
    opened = live["bucket_at"]
    is_never = opened == NEVER_US
    return np.where(is_never, NEVER_US, opened - np.where(is_never, 0, DAY_BUCKETS * BUCKET_US))


def add_to_day(live: Rows, closed: Rows, seg: Int64, sign: int = 1) -> None:
    """Add closed buckets to the day of the live rows `seg`, where they lie in it; in place."""
    if len(closed) == 0:
        return
    is_in = closed["bucket_at"] >= day_start(live)[seg]
    for name in live.dtype.names or ():
        if name.startswith("day_"):
            np.add.at(live[name], seg[is_in], sign * closed[name.removeprefix("day_")][is_in])
