"""Energy of all vehicles and of the meters that fed them, with links cut at a window's ends."""

from dataclasses import dataclass

import numpy as np

from wattstream.domain.links import covered
from wattstream.domain.readings import Stream
from wattstream.domain.units import Int64
from wattstream.query.ranges import values_of
from wattstream.query.window import window_totals
from wattstream.store.port import FleetFeeds, Snapshot, Totals

_RANGES_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class LinkedEnergy:
    """What vehicles gained, and what their meters drew for them, over a window.

    The first columns have n rows, a vehicle that a meter fed at some time of the window, keys
    ascending; those named `link_…` m rows, a link that reaches into the window.

    Attributes:
        vehicle: Device keys, int64[n].
        ac_ukwh: Of all its links, int64[n].
        dc_ukwh: int64[n].
        dc_readings: int64[n].
        link_of: Which vehicle it feeds, as a row of the n, int64[m].
        link_meter: Device keys, int64[m].
        link_start_us: Cut to the window, int64[m].
        link_end_us: Cut to the window, int64[m].
        link_readings: Of the meter within the link, int64[m].
    """

    vehicle: Int64
    ac_ukwh: Int64
    dc_ukwh: Int64
    dc_readings: Int64
    link_of: Int64
    link_meter: Int64
    link_start_us: Int64
    link_end_us: Int64
    link_readings: Int64

    def links_of(self, row: int) -> Int64:
        """Return the rows of a vehicle's links."""
        return np.flatnonzero(self.link_of == row)


async def linked_energy(
    snapshot: Snapshot,
    feeds: FleetFeeds,
    start_us: int,
    end_us: int,
    *,
    least_us: int,
) -> LinkedEnergy:
    """Return what every vehicle with a meter gained and drew over a window while linked.

    A vehicle's energy counts only while a meter is linked to it, so that its quotient with the
    meters' is an efficiency.

    Args:
        snapshot: Where the readings are.
        feeds: All links.
        start_us: A bucket start.
        end_us: After the newest reading.
        least_us: A vehicle that was linked for less of the window has zeros only.
    """
    ac_of = await snapshot.fleet_totals(Stream.METER, start_us)
    dc_of = await snapshot.fleet_totals(Stream.VEHICLE, start_us)
    inside = (feeds.start_us < end_us) & (feeds.end_us > start_us)
    meter = feeds.meter[inside]
    link_start = np.maximum(feeds.start_us[inside], start_us)
    link_end = np.minimum(feeds.end_us[inside], end_us)
    is_cut = (link_start > start_us) | (link_end < end_us)
    ac, ac_readings = (
        values_of(ac_of, meter, ac_of.energy_ukwh),
        values_of(ac_of, meter, ac_of.readings),
    )
    vehicle, of = np.unique(feeds.vehicle[inside], return_inverse=True)
    row, first, last = covered(of, link_start, link_end)
    linked_us = np.zeros(len(vehicle), np.int64)
    np.add.at(linked_us, row, last - first)
    is_short = linked_us < least_us

    cut = np.flatnonzero(is_cut & ~is_short[of])
    ac[is_cut] = ac_readings[is_cut] = 0
    totals = await _ranges(snapshot, Stream.METER, meter[cut], link_start[cut], link_end[cut])
    ac[cut] = [total.energy_ukwh for total in totals]
    ac_readings[cut] = [total.readings for total in totals]
    ac_sum = np.zeros(len(vehicle), np.int64)
    np.add.at(ac_sum, of, ac)

    dc = values_of(dc_of, vehicle, dc_of.energy_ukwh)
    dc_readings = values_of(dc_of, vehicle, dc_of.readings)
    is_part = linked_us < end_us - start_us
    dc[is_part] = dc_readings[is_part] = 0
    pieces = np.flatnonzero((is_part & ~is_short)[row])
    of_piece = row[pieces]
    totals = await _ranges(snapshot, Stream.VEHICLE, vehicle[of_piece], first[pieces], last[pieces])
    np.add.at(dc, of_piece, np.array([total.energy_ukwh for total in totals], np.int64))
    np.add.at(dc_readings, of_piece, np.array([total.readings for total in totals], np.int64))
    return LinkedEnergy(
        vehicle,
        ac_sum,
        dc,
        dc_readings,
        of,
        meter,
        link_start,
        link_end,
        ac_readings,
    )


async def _ranges(
    snapshot: Snapshot, stream: Stream, key: Int64, start_us: Int64, end_us: Int64
) -> list[Totals]:
    """Return the sums of devices, each over a range of its own, in a few round trips."""
    devices = await snapshot.keyed(stream, np.unique(key).tolist()) if len(key) else {}
    wanted = [
        (devices[one], start, end)
        for one, start, end in zip(key.tolist(), start_us.tolist(), end_us.tolist(), strict=True)
    ]
    found: list[Totals] = []
    for first in range(0, len(wanted), _RANGES_AT_ONCE):
        found += await window_totals(snapshot, wanted[first : first + _RANGES_AT_ONCE])
    return found
