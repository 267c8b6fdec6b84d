"""Where a window cuts a charge: what one side has counted there, and the other not yet."""

import numpy as np

from wattstream.domain.readings import Stream
from wattstream.domain.units import BUCKET_US, Float64, Int64, bucket_floor
from wattstream.query.linked import LinkedEnergy
from wattstream.store.alert_port import AlertSnapshot, QuarterHours

_QUARTER_UKWH = 5_500_000.0  # 22 kW


async def edge_energy(
    snapshot: AlertSnapshot, energy: LinkedEnergy, start_us: int, end_us: int
) -> Float64:
    """Return by how much meters and vehicle may be apart at the ends of a window, micro-kWh.

    Each side reports when it likes, so at an edge one may be ahead of the other by a reading.
    That is nothing where no charge is under way.

    Args:
        snapshot: Where the readings are.
        energy: The vehicles, and their links.
        start_us: Start of the window, a bucket start.
        end_us: Its end.
    """
    apart = np.zeros(len(energy.vehicle))
    for edge_us in (start_us, bucket_floor(end_us - 1)):
        limits = (edge_us - BUCKET_US, edge_us + BUCKET_US)
        vehicles = await snapshot.quarter_hours(Stream.VEHICLE, *limits)
        meters = await snapshot.quarter_hours(Stream.METER, *limits)
        largest = _largest(vehicles, energy.vehicle)
        np.maximum.at(largest, energy.link_of, _largest(meters, energy.link_meter))
        apart += largest
    return apart


def _largest(quarters: QuarterHours, device: Int64) -> Float64:
    """Return the most that a reading of each device may hold in two quarter-hours, micro-kWh.

    That is the mean, where both are alike. Where they are not, a charge may have begun or ended
    inside, and few readings hold it all: as much as a charge at 22 kW may put into one.
    """
    if len(quarters.device) == 0:
        return np.zeros(len(device))
    mean = quarters.energy_ukwh / np.maximum(quarters.readings, 1)
    last = np.searchsorted(quarters.device, device, side="right") - 1
    first = np.minimum(np.searchsorted(quarters.device, device), np.maximum(last, 0))
    readings = np.maximum(quarters.readings[first], quarters.readings[last])
    largest = np.maximum(mean[first], mean[last])
    inside = largest + np.abs(mean[last] - mean[first]) * readings
    bound = np.maximum(largest, np.minimum(inside, _QUARTER_UKWH / np.maximum(readings, 1)))
    return np.where(quarters.device[last] == device, bound, 0)
