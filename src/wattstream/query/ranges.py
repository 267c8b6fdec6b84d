"""Sums of many devices at once, as columns: all over one range, or each over its own."""

import numpy as np

from wattstream.domain.readings import Stream
from wattstream.domain.register import contributions
from wattstream.domain.rollup import Runs, sum_columns, with_predecessors
from wattstream.domain.units import (
    BUCKET_US,
    NEVER_US,
    Int64,
    bucket_ceil,
    bucket_floor,
    bucket_of,
    to_micro,
)
from wattstream.store.port import DeviceTotals, Snapshot


async def device_totals(
    snapshot: Snapshot, stream: Stream, start_us: int, end_us: int, newest_us: int
) -> DeviceTotals:
    """Return what each device sums over its readings measured in [start_us, end_us).

    Cost: what changed where the range is the last day, a row a quarter-hour and device
    before that, and the raw readings of the quarter-hours that an edge cuts.

    Args:
        snapshot: Where the readings are.
        stream: Of which devices.
        start_us: Inclusive, microseconds.
        end_us: Exclusive, microseconds.
        newest_us: Time of the stream's newest reading: nothing is cut after it.

    Returns:
        Every device with a reading in the range, and perhaps others with zeros.
    """
    none = DeviceTotals(np.zeros(0, np.int64), np.zeros((len(sum_columns(stream)), 0), np.int64))
    if newest_us == NEVER_US or start_us >= end_us:
        return none
    first, last = bucket_ceil(start_us), bucket_floor(end_us)
    is_open = end_us > newest_us
    parts = [none]
    if first < last or is_open:
        parts.append(await snapshot.fleet_totals(stream, first))
        if not is_open:
            after = await snapshot.fleet_totals(stream, last)
            parts.append(DeviceTotals(after.key, -after.sums))
    left = {bucket_floor(start_us)} if start_us != first else set()
    right = {last} if end_us != last and not is_open else set()
    if left | right:
        keys = np.concatenate([none.key, *(await snapshot.labelled(stream)).values()])
    # One by one: each is in one partition of history.
    for bucket_us in left | right:
        runs, _ = await snapshot.buckets(stream, keys, np.full(len(keys), bucket_us))
        inside = (runs.at_us >= start_us) & (runs.at_us < end_us)
        key = runs.device["device_id"][runs.run].astype(np.int64)
        parts.append(DeviceTotals(key[inside], _columns(runs)[:, inside]))
    return _joined(parts[1:]) if len(parts) > 2 else parts[-1]


async def range_sums(
    snapshot: Snapshot, stream: Stream, key: Int64, start_us: Int64, end_us: Int64
) -> Int64:
    """Return what devices counted, each over a range of its own, in at most three statements.

    Args:
        snapshot: Where the readings are.
        stream: Of which devices.
        key: Device keys, int64[n]; one may be there several times.
        start_us: Inclusive, int64[n].
        end_us: Exclusive, int64[n], each after its start.

    Returns:
        Energy, micro-kWh, and readings, int64[2, n].
    """
    if len(key) == 0:
        return np.zeros((2, 0), np.int64)
    first, last = bucket_of(start_us + BUCKET_US - 1), bucket_of(end_us)
    sums = await snapshot.sums_within(stream, key, first, np.maximum(first, last))
    left = start_us != first
    right = (end_us != last) & ~(left & (bucket_of(start_us) == last))
    cut = np.concatenate([np.flatnonzero(left), np.flatnonzero(right)])
    if len(cut) == 0:
        return sums
    bucket_us = np.concatenate([bucket_of(start_us)[left], last[right]])
    runs, place = await snapshot.buckets(stream, key[cut], bucket_us)
    of = cut[place][runs.run]
    inside = (runs.at_us >= start_us[of]) & (runs.at_us < end_us[of])
    np.add.at(sums[0], of[inside], _columns(runs)[0, inside])
    np.add.at(sums[1], of[inside], 1)
    return sums


def values_of(totals: DeviceTotals, keys: Int64, column: Int64) -> Int64:
    """Return the values of a column of totals for some devices, 0 for those without any."""
    if len(totals.key) == 0:
        return np.zeros(len(keys), np.int64)
    place = np.minimum(np.searchsorted(totals.key, keys), len(totals.key) - 1)
    return np.where(totals.key[place] == keys, column[place], 0)


def grouped(columns: Int64, group: Int64, n: int) -> list[list[int]]:
    """Return the sums of columns by group, as large as they are.

    Args:
        columns: int64[c, rows].
        group: Group of each row, from 0; rows below 0 are left out.
        n: How many groups.

    Returns:
        For each group, its c sums.
    """
    columns, group = columns[:, group >= 0], group[group >= 0]
    halves = np.zeros((2, n, len(columns)), np.int64)
    # Each half of 32 bits has room for the sum of 2³¹ rows.
    for i, column in enumerate(columns):
        np.add.at(halves[0, :, i], group, column >> 32)
        np.add.at(halves[1, :, i], group, column & 0xFFFFFFFF)
    high, low = halves.tolist()
    return [
        [(h << 32) + value for h, value in zip(*row, strict=True)]
        for row in zip(high, low, strict=True)
    ]


def _columns(runs: Runs) -> Int64:
    """Return what each reading of runs adds to each of the stream's sums, int64[c, n]."""
    parts = contributions(with_predecessors(runs), runs.device.take(runs.run))
    measured = [
        column for values in runs.values.T for column in (to_micro(values), ~np.isnan(values))
    ]
    ones = np.ones(len(runs.run), np.int64)
    return np.stack([parts.energy, parts.suspect, ones, *measured], dtype=np.int64)


def _joined(parts: list[DeviceTotals]) -> DeviceTotals:
    """Return the sums of parts by device."""
    key, of = np.unique(np.concatenate([part.key for part in parts]), return_inverse=True)
    added = np.concatenate([part.sums for part in parts], axis=1)
    sums = np.zeros((len(added), len(key)), np.int64)
    for total, column in zip(sums, added, strict=True):
        np.add.at(total, of, column)
    return DeviceTotals(key, sums)
