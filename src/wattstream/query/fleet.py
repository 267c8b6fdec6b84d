"""Answers over all devices at once: the fleet's energy, and vehicles that lose too much."""

from dataclasses import dataclass

import numpy as np

from wattstream.domain.efficiency import Status, efficiency, status
from wattstream.domain.links import AcSource, Feeds, feeds_within
from wattstream.domain.readings import Stream
from wattstream.domain.units import DAY_US, MICRO, bucket_ceil
from wattstream.query.latest import find
from wattstream.query.performance import BATTERY_TEMP
from wattstream.query.window import stream_totals, window_totals
from wattstream.store.port import DeviceTotals, Snapshot, Store, Totals


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


@dataclass(frozen=True, slots=True)
class FleetPerformance:
    """The answer for all devices together over [start_us, end_us).

    Attributes:
        ac: Sums of all meters.
        dc: Sums of all vehicles.
        efficiency: DC / AC as a fraction, None where AC is 0 or no vehicle reported.
        battery_temp_c: Mean over the vehicles' readings, °C; None where there are none.
    """

    start_us: int
    end_us: int
    ac: Totals
    dc: Totals
    efficiency: float | None
    battery_temp_c: float | None
    status: Status


async def fleet_performance(
    store: Store, now_us: int, start_us: int | None, end_us: int | None, *, threshold: float
) -> FleetPerformance:
    """Return energy and efficiency of all devices together.

    Args:
        store: Where the readings are.
        now_us: The engine's clock, microseconds.
        start_us: Inclusive; None: the first whole quarter-hour after now − 24 h.
        end_us: Exclusive; None: just after the newest reading, so no quarter-hour is cut.
        threshold: Efficiency below this is low, fraction.
    """
    async with store.snapshot() as snapshot:
        newest = {stream: (await snapshot.stats(stream)).last_at_us for stream in Stream}
        start_us = default_start(now_us) if start_us is None else start_us
        end_us = max(start_us, *newest.values()) + 1 if end_us is None else end_us
        dc, ac = [
            await stream_totals(snapshot, stream, start_us, end_us, newest[stream])
            for stream in (Stream.VEHICLE, Stream.METER)
        ]
    value = efficiency(dc.energy_ukwh, ac.energy_ukwh) if dc.readings else None
    temps = dc.counts[BATTERY_TEMP]
    return FleetPerformance(
        start_us,
        end_us,
        ac,
        dc,
        value,
        dc.sums_micro[BATTERY_TEMP] / (temps * MICRO) if temps else None,
        status(
            vehicle_readings=dc.readings,
            has_meter=ac.readings > 0,
            value=value,
            threshold=threshold,
        ),
    )


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
