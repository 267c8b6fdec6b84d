"""Answers over all devices at once: the fleet's energy, and vehicles that lose too much."""

from dataclasses import dataclass

import numpy as np

from wattstream.domain.efficiency import Status, efficiency, status
from wattstream.domain.links import AcSource
from wattstream.domain.readings import Stream
from wattstream.domain.units import DAY_US, MICRO, bucket_ceil
from wattstream.query.linked import linked_energy
from wattstream.query.performance import BATTERY_TEMP
from wattstream.query.window import stream_totals
from wattstream.store.port import Store, Totals


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
