"""Vehicles that lose too much over the fleet's default window."""

from dataclasses import dataclass

import numpy as np

from wattstream.domain.links import AcSource
from wattstream.domain.readings import Stream
from wattstream.query.fleet import default_start
from wattstream.query.linked import linked_energy
from wattstream.store.port import Records


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


async def low_efficiency(store: Records, now_us: int, *, same_id: bool, threshold: float) -> Alerts:
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
        newest = [await snapshot.newest(stream) for stream in Stream]
        end_us = max(start_us, max(newest) + 1)
        feeds = await snapshot.fleet_feeds(same_id=same_id)
        energy = await linked_energy(snapshot, feeds, start_us, end_us)
        ac, dc = energy.ac_ukwh, energy.dc_ukwh
        is_known = (ac > 0) & (energy.dc_readings > 0)
        value = np.where(is_known, dc / np.where(is_known, ac, 1), np.inf)
        low = np.flatnonzero(value < threshold).tolist()
        linked = {place: energy.links_of(place) for place in low}
        names = await snapshot.named(
            [
                *energy.vehicle[low].tolist(),
                *(key for links in linked.values() for key in energy.link_meter[links].tolist()),
            ]
        )
    found = [
        LowEfficiency(
            names[int(energy.vehicle[place])],
            float(value[place]),
            int(ac[place]),
            int(dc[place]),
            sorted({names[key] for key in energy.link_meter[links].tolist()}),
            AcSource.SAME_ID if energy.link_is_twin[links[0]] else AcSource.LINK,
        )
        for place, links in linked.items()
    ]
    found.sort(key=lambda alert: (alert.efficiency, alert.vehicle_id))
    return Alerts(start_us, end_us, found)
