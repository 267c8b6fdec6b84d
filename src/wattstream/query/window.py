"""Sums over any range of a device: whole buckets from rollups, edges from raw readings."""

import numpy as np

from wattstream.domain.devices import Device
from wattstream.domain.readings import KINDS
from wattstream.domain.register import Steps, contributions, rule_rows
from wattstream.domain.units import Int64, bucket_ceil, bucket_floor, to_micro
from wattstream.store.port import RawBucket, Snapshot, Totals


def nothing(device: Device) -> Totals:
    """Return the sums over no readings."""
    zeros = (0,) * len(KINDS[device.stream].fields)
    return Totals(0, 0, 0, zeros, zeros)


async def window_totals(snapshot: Snapshot, device: Device, start_us: int, end_us: int) -> Totals:
    """Return the sums over the readings measured in [start_us, end_us).

    Cost does not grow with history: a row for each quarter-hour, and the raw readings of at
    most two.
    """
    total = nothing(device)
    if start_us >= end_us:
        return total
    first, last = bucket_ceil(start_us), bucket_floor(end_us)
    if first < last:
        total += await snapshot.totals(device, first, last)
    left = {bucket_floor(start_us)} if start_us != first else set()
    right = {last} if end_us != last else set()
    for bucket_us in left | right:
        raw = await snapshot.raw_bucket(device, bucket_us)
        total += _sum_inside(device, raw, start_us, end_us)
    return total


def _sum_inside(device: Device, raw: RawBucket, start_us: int, end_us: int) -> Totals:
    """Return the sums over a bucket's readings in [start_us, end_us)."""
    inside = (raw.at_us >= start_us) & (raw.at_us < end_us)
    (at1, ukwh1), (at2, ukwh2) = raw.carry
    at_us = _after([at2, at1], raw.at_us)
    ukwh = _after([ukwh2, ukwh1], raw.energy_ukwh)
    steps = Steps(at_us[2:], ukwh[2:], at_us[1:-1], ukwh[1:-1], at_us[:-2], ukwh[:-2])
    parts = contributions(steps, rule_rows(device.rules, len(raw.at_us)))
    fields = range(len(KINDS[device.stream].fields))
    values = raw.values[inside]
    return Totals(
        int(parts.energy[inside].sum()),
        int(parts.suspect[inside].sum()),
        int(inside.sum()),
        tuple(int(to_micro(values[:, i]).sum()) for i in fields),
        tuple(int((~np.isnan(values[:, i])).sum()) for i in fields),
    )


def _after(carry: list[int], column: Int64) -> Int64:
    return np.concatenate([np.array(carry, np.int64), column])
