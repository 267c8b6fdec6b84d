"""Sums over any range of a device: whole buckets from rollups, edges from raw readings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wattstream.domain.devices import Device
from wattstream.domain.register import Contributions, Steps, contributions, rule_rows
from wattstream.domain.units import (
    Bool,
    Float64,
    Int64,
    bucket_ceil,
    bucket_floor,
    to_micro,
)
from wattstream.store.port import RawBucket, Snapshot, Totals, Window

Range = tuple[Device, int, int]
"""A device over [start, end), microseconds."""


@dataclass(frozen=True, slots=True)
class WindowSums:
    """What a device's readings in a range sum.

    Attributes:
        totals: The sums.
        span: Times of the first and the last of them, where each is in a quarter-hour that an end
            of the range cuts; else None.
    """

    totals: Totals
    span: tuple[int, int] | None


async def window_totals(snapshot: Snapshot, ranges: Sequence[Range]) -> list[Totals]:
    """Return, per (device, start, end), the sums over its readings measured in [start, end)."""
    return [sums.totals for sums in await window_sums(snapshot, ranges)]


async def window_sums(snapshot: Snapshot, ranges: Sequence[Range]) -> list[WindowSums]:
    """Return the sums of each range, and where its readings begin and end, if that is seen.

    Cost does not grow with history: a row for each quarter-hour, and the raw readings of at
    most two.
    """
    rows = await snapshot.windows([_window(*of) for of in ranges])
    sums = []
    for (device, start_us, end_us), (total, edges) in zip(ranges, rows, strict=True):
        parts = [_sum_inside(device, raw, start_us, end_us) for raw in edges]
        at_us = np.concatenate([np.zeros(0, np.int64), *(raw.at_us for raw in edges)])
        at_us = at_us[(at_us >= start_us) & (at_us < end_us)]
        has_ends = len(at_us) > 0 and (
            at_us[0] < bucket_ceil(start_us) and at_us[-1] >= bucket_floor(end_us)
        )
        span = (int(at_us[0]), int(at_us[-1])) if has_ends else None
        sums.append(WindowSums(sum(parts, start=total), span))
    return sums


def _window(device: Device, start_us: int, end_us: int) -> Window:
    if start_us >= end_us:
        return Window(device, 0, 0)
    first, last = bucket_ceil(start_us), bucket_floor(end_us)
    left = {bucket_floor(start_us)} if start_us != first else set()
    right = {last} if end_us != last else set()
    return Window(device, first, max(first, last), tuple(sorted(left | right)))


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
