"""Vehicles whose efficiency is too low, over all devices at once."""

from dataclasses import dataclass

import numpy as np

from wattstream.domain.efficiency import efficiency
from wattstream.domain.links import AcSource, Feeds, feeds_within
from wattstream.domain.readings import Stream
from wattstream.domain.units import DAY_US, bucket_ceil
from wattstream.query.latest import find
from wattstream.query.window import window_totals
from wattstream.store.port import DeviceTotals, Snapshot, Store


@dataclass(frozen=True, slots=True)
class LowEfficiency:
    """A vehicle below the threshold over the fleet's default window."""

    vehicle_id: str
    efficiency: float
    ac_ukwh: int
    dc_ukwh: int
    meters: list[str]
    ac_source: AcSource


@dataclass(frozen=True, slots=True)
class Alerts:
    """Vehicles below a threshold over [start_us, end_us), worst first."""

    start_us: int
    end_us: int
    alerts: list[LowEfficiency]


def default_start(now_us: int) -> int:
    """Return the first whole quarter-hour after now − 24 h: no bucket is cut there."""
    return bucket_ceil(now_us - DAY_US)


async def low_efficiency(store: Store, now_us: int, *, same_id: bool, threshold: float) -> Alerts:
    """Return vehicles whose efficiency over the fleet's default window is below a threshold.

    The window runs from the first whole quarter-hour after now − 24 h through the newest
    reading, so it is made of whole buckets.

    Args:
        store: Where the readings are.
        now_us: The engine's clock, microseconds.
        same_id: Whether a meter of the same id counts where no link names either.
        threshold: Fraction.
    """
    start_us = default_start(now_us)
    async with store.snapshot() as snapshot:
        newest = [(await snapshot.stats(stream)).last_at_us for stream in Stream]
        end_us = max(start_us, max(newest) + 1)
        ac_of = await snapshot.fleet_totals(Stream.METER, start_us)
        dc_of = await snapshot.fleet_totals(Stream.VEHICLE, start_us)
        found = []
        feeds_of = await snapshot.fleet_feeds(same_id=same_id)
        for vehicle_id, (key, feeds) in feeds_of.items():
            dc_ukwh, readings = _of(dc_of, key)
            if readings == 0:
                continue
            links, source = feeds_within(feeds, start_us, end_us)
            ac_ukwh = await _ac(snapshot, feeds, ac_of, start_us, end_us)
            value = efficiency(dc_ukwh, ac_ukwh)
            if value is not None and value < threshold:
                meters = sorted({link.meter_id for link in links})
                found.append(LowEfficiency(vehicle_id, value, ac_ukwh, dc_ukwh, meters, source))
    found.sort(key=lambda alert: (alert.efficiency, alert.vehicle_id))
    return Alerts(start_us, end_us, found)


async def _ac(
    snapshot: Snapshot, feeds: Feeds, ac_of: DeviceTotals, start_us: int, end_us: int
) -> int:
    """Return the AC energy of a vehicle's meters, micro-kWh."""
    total = 0
    for link in feeds_within(feeds, start_us, end_us)[0]:
        if (link.start_us, link.end_us) == (start_us, end_us):
            total += _of(ac_of, link.meter_key)[0]
        else:
            meter = await find(snapshot, Stream.METER, link.meter_id)
            total += (await window_totals(snapshot, meter, link.start_us, link.end_us)).energy_ukwh
    return total


def _of(totals: DeviceTotals, key: int) -> tuple[int, int]:
    """Return energy in micro-kWh and readings of one device."""
    row = int(np.searchsorted(totals.key, key))
    if row == len(totals.key) or int(totals.key[row]) != key:
        return 0, 0
    return int(totals.energy_ukwh[row]), int(totals.readings[row])
