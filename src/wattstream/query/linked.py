"""Energy of all vehicles and of the meters that fed them, with links cut at a window's ends."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wattstream.domain.readings import Stream
from wattstream.domain.units import Bool, Int64
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
        link_is_twin: By the same-id rule, bool[m].
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
    link_is_twin: Bool

    def links_of(self, row: int) -> Int64:
        """Return the rows of a vehicle's links."""
        return np.flatnonzero(self.link_of == row)


async def linked_energy(
    snapshot: Snapshot,
    feeds: FleetFeeds,
    start_us: int,
    end_us: int,
    *,
    only_linked: bool = False,
) -> LinkedEnergy:
    """Return what every vehicle with a meter gained and drew over a window.

    Args:
        snapshot: Where the readings are.
        feeds: All links.
        start_us: A bucket start.
        end_us: After the newest reading.
        only_linked: Whether a vehicle's energy counts only while a meter is linked to it, so
            that its quotient with the meters' is an efficiency.
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
    cut = np.flatnonzero(is_cut)
    parts = [(int(meter[row]), int(link_start[row]), int(link_end[row])) for row in cut.tolist()]
    totals = await _ranges(snapshot, Stream.METER, parts)
    ac[cut] = [total.energy_ukwh for total in totals]
    ac_readings[cut] = [total.readings for total in totals]

    vehicle, of = np.unique(feeds.vehicle[inside], return_inverse=True)
    ac_sum = np.zeros(len(vehicle), np.int64)
    np.add.at(ac_sum, of, ac)
    dc, dc_readings = (
        values_of(dc_of, vehicle, dc_of.energy_ukwh),
        values_of(dc_of, vehicle, dc_of.readings),
    )
    if only_linked:
        has_whole = np.zeros(len(vehicle), np.bool_)
        has_whole[of[~is_cut]] = True
        pieces = [
            (row, int(vehicle[row]), start, end)
            for row in np.flatnonzero(~has_whole).tolist()
            for start, end in _union(link_start[of == row], link_end[of == row])
        ]
        totals = await _ranges(snapshot, Stream.VEHICLE, [piece[1:] for piece in pieces])
        dc[~has_whole] = dc_readings[~has_whole] = 0
        for (row, *_), total in zip(pieces, totals, strict=True):
            dc[row] += total.energy_ukwh
            dc_readings[row] += total.readings
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
        feeds.is_twin[inside],
    )


async def _ranges(
    snapshot: Snapshot, stream: Stream, wanted: Sequence[tuple[int, int, int]]
) -> list[Totals]:
    """Return the sums of (device key, start, end), each, in a few round trips."""
    devices = await snapshot.keyed(stream, [key for key, _, _ in wanted]) if wanted else {}
    found: list[Totals] = []
    for first in range(0, len(wanted), _RANGES_AT_ONCE):
        part = wanted[first : first + _RANGES_AT_ONCE]
        found += await window_totals(snapshot, [(devices[key], a, b) for key, a, b in part])
    return found


def _union(start_us: Int64, end_us: Int64) -> list[tuple[int, int]]:
    """Return ranges merged where they touch or overlap, in order."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(zip(start_us.tolist(), end_us.tolist(), strict=True)):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
