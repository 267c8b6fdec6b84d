"""Vehicles that lose too much over the fleet's default window."""

from dataclasses import dataclass

import numpy as np

from wattstream.domain.links import AcSource
from wattstream.domain.readings import Stream
from wattstream.query.fleet import default_start
from wattstream.query.ranges import range_energy, values_of
from wattstream.store.port import Store


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
        feeds = await snapshot.fleet_feeds(same_id=same_id)
        inside = (feeds.start_us < end_us) & (feeds.end_us > start_us)
        is_whole = inside & (feeds.start_us <= start_us) & (feeds.end_us >= end_us)
        ac_ukwh = np.where(is_whole, values_of(ac_of, feeds.meter, ac_of.energy_ukwh), 0)
        part = inside & ~is_whole
        ac_ukwh[part] = await range_energy(
            snapshot,
            Stream.METER,
            feeds.meter[part],
            np.maximum(feeds.start_us[part], start_us),
            np.minimum(feeds.end_us[part], end_us),
        )
        vehicles, of = np.unique(feeds.vehicle[inside], return_inverse=True)
        ac = np.zeros(len(vehicles), np.int64)
        np.add.at(ac, of, ac_ukwh[inside])
        dc = values_of(dc_of, vehicles, dc_of.energy_ukwh)
        is_known = (ac > 0) & (values_of(dc_of, vehicles, dc_of.readings) > 0)
        value = np.where(is_known, dc / np.where(is_known, ac, 1), np.inf)
        low = np.flatnonzero(value < threshold)
        rows = np.flatnonzero(inside)
        linked = {int(place): rows[of == place] for place in low}
        names = await snapshot.named(
            [
                *vehicles[low].tolist(),
                *(k for r in linked.values() for k in feeds.meter[r].tolist()),
            ]
        )
    found = [
        LowEfficiency(
            names[int(vehicles[place])],
            float(value[place]),
            int(ac[place]),
            int(dc[place]),
            sorted({names[key] for key in feeds.meter[of_vehicle].tolist()}),
            AcSource.SAME_ID if feeds.is_twin[of_vehicle[0]] else AcSource.LINK,
        )
        for place, of_vehicle in linked.items()
    ]
    found.sort(key=lambda alert: (alert.efficiency, alert.vehicle_id))
    return Alerts(start_us, end_us, found)
