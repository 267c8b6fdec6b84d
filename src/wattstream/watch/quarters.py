"""Quarter-hours of vehicles beside those of the meters that fed them."""

from dataclasses import dataclass

import numpy as np

from wattstream.domain.units import BUCKET_US, MICRO, Bool, Float64, Int64
from wattstream.query.performance import BATTERY_TEMP
from wattstream.store.alert_port import LiveStates, QuarterHours
from wattstream.store.port import FleetFeeds
from wattstream.watch.day import heartbeats

_WELL_COVERED = 0.9  # of a quarter-hour: a reading a minute may slip into the next one


@dataclass(frozen=True, slots=True)
class Quarters:
    """Quarter-hours of vehicles that a meter fed, n rows sorted by vehicle and start.

    Attributes:
        vehicle: Device keys, int64[n].
        start_us: int64[n].
        ac_ukwh: Drawn by all meters that fed it meanwhile, int64[n].
        dc_ukwh: int64[n].
        temp_c: Mean of the battery, NaN where not known.
        is_covered: Every device sent nearly all its readings, none of them with suspect
            energy, and no link begins or ends inside.
    """

    vehicle: Int64
    start_us: Int64
    ac_ukwh: Int64
    dc_ukwh: Int64
    temp_c: Float64
    is_covered: Bool


def paired(
    feeds: FleetFeeds,
    vehicles: QuarterHours,
    meters: QuarterHours,
    vehicle_states: LiveStates,
    meter_states: LiveStates,
) -> Quarters:
    """Return the quarter-hours of vehicles with what their meters drew in each."""
    order = np.argsort(feeds.vehicle, kind="stable")
    first = np.searchsorted(feeds.vehicle[order], vehicles.device, "left")
    count = np.searchsorted(feeds.vehicle[order], vehicles.device, "right") - first
    # A row for each quarter-hour of a vehicle and link of it, of any time.
    row = np.repeat(np.arange(len(vehicles.device)), count)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    link = order[np.repeat(first, count) + place]
    start_us = vehicles.start_us[row]
    touches = (feeds.start_us[link] < start_us + BUCKET_US) & (feeds.end_us[link] > start_us)
    row, link, start_us = row[touches], link[touches], start_us[touches]

    at = _find(meters, feeds.meter[link], start_us)
    is_whole = (feeds.start_us[link] <= start_us) & (feeds.end_us[link] >= start_us + BUCKET_US)
    is_good = (at >= 0) & is_whole
    is_good[is_good] = _covered(meters, meter_states)[at[is_good]]
    ac = np.zeros(len(vehicles.device), np.int64)
    np.add.at(ac, row[is_good], meters.energy_ukwh[at[is_good]])
    is_covered = _covered(vehicles, vehicle_states)
    is_covered[row[~is_good]] = False
    is_fed = np.zeros(len(ac), np.bool_)
    is_fed[row] = True
    return Quarters(
        vehicles.device[is_fed],
        vehicles.start_us[is_fed],
        ac[is_fed],
        vehicles.energy_ukwh[is_fed],
        vehicles.means[is_fed, BATTERY_TEMP],
        is_covered[is_fed],
    )


def frozen_gain(quarters: Quarters, vehicle: Int64) -> Float64:
    """Return what each vehicle gained in a quarter-hour while its meters gained nothing, kWh.

    The meters' quarter-hours before and after must be empty as well: at the edges of a charge
    one side may count a minute or two later than the other.

    Args:
        quarters: The latest quarter-hours.
        vehicle: Device keys, int64[n], ascending.

    Returns:
        The most that was gained so since a meter gained anything; 0 where one did and nothing
        came after, NaN where neither happened.
    """
    follows = (quarters.vehicle[1:] == quarters.vehicle[:-1]) & (
        quarters.start_us[1:] == quarters.start_us[:-1] + BUCKET_US
    )
    is_empty = quarters.is_covered & (quarters.ac_ukwh == 0)
    is_frozen = is_empty & (quarters.dc_ukwh > 0)
    is_frozen &= np.append(False, follows & is_empty[:-1])
    is_frozen &= np.append(follows & is_empty[1:], False)
    is_alive = quarters.ac_ukwh > 0
    row = np.searchsorted(vehicle, quarters.vehicle)
    alive_us = np.full(len(vehicle), np.iinfo(np.int64).min)
    np.maximum.at(alive_us, row[is_alive], quarters.start_us[is_alive])
    gain = np.full(len(vehicle), np.nan)
    gain[row[is_alive]] = 0.0
    is_frozen &= quarters.start_us > alive_us[row]
    np.fmax.at(gain, row[is_frozen], quarters.dc_ukwh[is_frozen] / MICRO)
    return gain


def _covered(quarters: QuarterHours, live: LiveStates) -> Bool:
    heartbeat_us = heartbeats(live, quarters.device) * MICRO
    is_full = quarters.readings * heartbeat_us >= _WELL_COVERED * BUCKET_US
    return np.asarray(is_full & (heartbeat_us <= BUCKET_US) & (quarters.suspect_ukwh == 0))


def _find(quarters: QuarterHours, device: Int64, start_us: Int64) -> Int64:
    """Return the row of each device's quarter-hour, -1 for none."""
    if len(quarters.device) == 0:
        return np.full(len(device), -1)
    known = (quarters.device << 32) + quarters.start_us // BUCKET_US
    wanted = (device << 32) + start_us // BUCKET_US
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, at, -1)
