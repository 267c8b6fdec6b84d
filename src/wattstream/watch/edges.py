"""Where a window cuts a charge: what one side has counted there, and the other not yet."""

import numpy as np

from wattstream.domain.readings import Stream
from wattstream.domain.units import BUCKET_US, Float64, Int64, bucket_floor
from wattstream.query.linked import LinkedEnergy
from wattstream.store.alert_port import AlertSnapshot, QuarterHours


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
    """Return the largest mean of a reading in a quarter-hour of each device; 0 without any."""
    mean = np.append(quarters.energy_ukwh / np.maximum(quarters.readings, 1), 0)
    order = np.lexsort((mean[:-1], quarters.device))
    at = np.searchsorted(quarters.device[order], device, side="right") - 1
    row = np.append(order, len(order))[at]  # of each device the largest; -1 takes the 0
    known = np.append(quarters.device, -1)
    return np.where(known[row] == device, mean[row], 0)
