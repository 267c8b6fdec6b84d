"""Sums over any range of a device: whole buckets from rollups, edges from raw readings."""

from collections.abc import Sequence

import numpy as np

from wattstream.domain.devices import Device
from wattstream.domain.readings import KINDS, Stream
from wattstream.domain.register import Contributions, Steps, contributions, rule_rows
from wattstream.domain.rollup import Runs, with_predecessors
from wattstream.domain.units import (
    NEVER_US,
    Bool,
    Float64,
    Int64,
    bucket_ceil,
    bucket_floor,
    to_micro,
)
from wattstream.store.port import RawBucket, Snapshot, Totals, Window


async def window_totals(
    snapshot: Snapshot, ranges: Sequence[tuple[Device, int, int]]
) -> list[Totals]:
    """Return, per (device, start, end), the sums over its readings measured in [start, end).

    Cost does not grow with history: a row for each quarter-hour, and the raw readings of at
    most two.
    """
    rows = await snapshot.windows([_window(*of) for of in ranges])
    sums = []
    for (device, start_us, end_us), (total, edges) in zip(ranges, rows, strict=True):
        parts = [_sum_inside(device, raw, start_us, end_us) for raw in edges]
        sums.append(sum(parts, start=total))
    return sums


def _window(device: Device, start_us: int, end_us: int) -> Window:
    if start_us >= end_us:
        return Window(device, 0, 0)
    first, last = bucket_ceil(start_us), bucket_floor(end_us)
    left = {bucket_floor(start_us)} if start_us != first else set()
    right = {last} if end_us != last else set()
    return Window(device, first, max(first, last), tuple(sorted(left | right)))


async def stream_totals(
    snapshot: Snapshot, stream: Stream, start_us: int, end_us: int, newest_us: int
) -> Totals:
    """Return the sums over the readings of all devices measured in [start_us, end_us).

    Cost: a row a device where the range is the last day, a row a quarter-hour and device
    before that, and the raw readings of the quarter-hours that an edge cuts.

    Args:
        snapshot: Where the readings are.
        stream: Of which devices.
        start_us: Inclusive, microseconds.
        end_us: Exclusive, microseconds.
        newest_us: Time of the stream's newest reading: nothing is cut after it.
    """
    zeros = (0,) * len(KINDS[stream].fields)
    total = Totals(0, 0, 0, zeros, zeros)
    if newest_us == NEVER_US or start_us >= end_us:
        return total
    first, last = bucket_ceil(start_us), bucket_floor(end_us)
    is_open = end_us > newest_us
    if first < last or is_open:
        total += await snapshot.stream_totals(stream, first)
        if not is_open:
            total += -await snapshot.stream_totals(stream, last)
    left = {bucket_floor(start_us)} if start_us != first else set()
    right = {last} if end_us != last and not is_open else set()
    for bucket_us in left | right:
        total += _sum_runs(await snapshot.stream_bucket(stream, bucket_us), start_us, end_us)
    return total


def _sum_runs(runs: Runs, start_us: int, end_us: int) -> Totals:
    """Return the sums over the readings in [start_us, end_us)."""
    inside = (runs.at_us >= start_us) & (runs.at_us < end_us)
    parts = contributions(with_predecessors(runs), runs.device.take(runs.run))
    return _sums(parts, runs.values, inside)


def _sum_inside(device: Device, raw: RawBucket, start_us: int, end_us: int) -> Totals:
    """Return the sums over a bucket's readings in [start_us, end_us)."""
    inside = (raw.at_us >= start_us) & (raw.at_us < end_us)
    return _sums(contributed(device, raw), raw.values, inside)


def contributed(device: Device, raw: RawBucket) -> Contributions:
    """Return what each of some consecutive readings of a device adds to its energy."""
    (at1, ukwh1), (at2, ukwh2) = raw.carry
    at_us = _after([at2, at1], raw.at_us)
    ukwh = _after([ukwh2, ukwh1], raw.energy_ukwh)
    steps = Steps(at_us[2:], ukwh[2:], at_us[1:-1], ukwh[1:-1], at_us[:-2], ukwh[:-2])
    return contributions(steps, rule_rows(device.rules, len(raw.at_us)))


def _sums(parts: Contributions, values: Float64, inside: Bool) -> Totals:
    columns = values[inside].T
    return Totals(
        int(parts.energy[inside].sum()),
        int(parts.suspect[inside].sum()),
        int(inside.sum()),
        tuple(int(to_micro(column).sum()) for column in columns),
        tuple(int((~np.isnan(column)).sum()) for column in columns),
    )


def _after(carry: list[int], column: Int64) -> Int64:
    return np.concatenate([np.array(carry, np.int64), column])
