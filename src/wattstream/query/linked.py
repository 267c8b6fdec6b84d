"""Energy of all vehicles and of the meters that fed them, with links cut at a window's ends."""

from dataclasses import dataclass

import numpy as np

from wattstream.domain.links import covered
from wattstream.domain.readings import Stream
from wattstream.domain.units import Bool, Int64
from wattstream.query.ranges import range_sums, values_of
from wattstream.store.port import FleetFeeds, Snapshot


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
        link_of: Which vehicle it feeds, as a row of the n, ascending, int64[m].
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
        return np.arange(*np.searchsorted(self.link_of, (row, row + 1)))


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
    inside = np.flatnonzero((feeds.start_us < end_us) & (feeds.end_us > start_us))
    inside = inside[np.argsort(feeds.vehicle[inside], kind="stable")]
    meter = feeds.meter[inside]
    link_start = np.maximum(feeds.start_us[inside], start_us)
    link_end = np.minimum(feeds.end_us[inside], end_us)
    is_cut = (link_start > start_us) | (link_end < end_us)
    ac = values_of(ac_of, meter, ac_of.energy_ukwh)
    ac_readings = values_of(ac_of, meter, ac_of.readings)
    ac[is_cut], ac_readings[is_cut] = await range_sums(
        snapshot, Stream.METER, meter[is_cut], link_start[is_cut], link_end[is_cut]
    )

    vehicle, of = np.unique(feeds.vehicle[inside], return_inverse=True)
    ac_sum = np.zeros(len(vehicle), np.int64)
    np.add.at(ac_sum, of, ac)
    dc = values_of(dc_of, vehicle, dc_of.energy_ukwh)
    dc_readings = values_of(dc_of, vehicle, dc_of.readings)
    if only_linked:
        has_whole = np.zeros(len(vehicle), np.bool_)
        has_whole[of[~is_cut]] = True
        is_part = ~has_whole[of]
        part, start, end = covered(of[is_part], link_start[is_part], link_end[is_part])
        sums = await range_sums(snapshot, Stream.VEHICLE, vehicle[part], start, end)
        for column, added in zip((dc, dc_readings), sums, strict=True):
            column[~has_whole] = 0
            np.add.at(column, part, added)
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
