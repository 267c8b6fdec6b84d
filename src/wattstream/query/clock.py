"""How far apart the clocks of a vehicle and its meters are, shown and never applied."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wattstream.domain.clock import (
    MARGIN_US,
    SEARCH_US,
    ClockEstimate,
    ClockState,
    Curve,
    clock_offset,
)
from wattstream.domain.devices import Device
from wattstream.domain.errors import MalformedError
from wattstream.domain.links import AcSource, Link, feeds_within
from wattstream.domain.register import EnergyMode
from wattstream.domain.units import MICRO, NEVER_US, Int64
from wattstream.query.latest import find_vehicle
from wattstream.query.window import contributed
from wattstream.store.port import RawBucket, Records, Snapshot

MAX_READINGS = 200_000
"""Most readings of a device that are compared: a month of minutes four times over."""
MAX_LINKS = 50
"""Most links that are compared for one answer."""


@dataclass(frozen=True, slots=True)
class PairCurves:
    """The energy of a meter and its vehicle, as `read_pairs` found it.

    Attributes:
        link: The pair's link, cut to the range that is compared.
        ac: Of the meter; None where there are too many readings.
        dc: Of the vehicle; None likewise.
    """

    link: Link
    ac: Curve | None
    dc: Curve | None

    def offset(self) -> ClockEstimate:
        """Estimate the offset of the clocks; pure, tens of milliseconds for two days."""
        if self.ac is None or self.dc is None:
            return ClockEstimate(
                ClockState.UNKNOWN,
                reason=f"there are more than {MAX_READINGS:,} readings: ask for a shorter range",
            )
        return clock_offset(self.ac, self.dc, self.link.start_us, self.link.end_us)


@dataclass(frozen=True, slots=True)
class VehicleClocks:
    """The estimates for a vehicle over [start_us, end_us).

    Attributes:
        ac_source: Where its meters come from.
        pairs: Each link in the range, cut to it, with its estimate, in the order they begin.
    """

    vehicle_id: str
    start_us: int
    end_us: int
    ac_source: AcSource
    pairs: list[tuple[Link, ClockEstimate]]


async def vehicle_clocks(
    store: Records, vehicle_id: str, start_us: int, end_us: int, *, same_id: bool
) -> VehicleClocks:
    """Estimate the clock offset of a vehicle's meters over [start_us, end_us) of their clocks.

    Raises:
        NotFoundError: The vehicle was never seen.
        MalformedError: More than MAX_LINKS of its links lie in the range.
    """
    async with store.snapshot() as snapshot:
        vehicle, feeds = await find_vehicle(snapshot, vehicle_id, same_id=same_id)
        links, source = feeds_within(feeds, start_us, end_us)
        if len(links) > MAX_LINKS:
            raise MalformedError(
                f"the range holds {len(links)} links of the vehicle, at most {MAX_LINKS} are "
                "compared: ask for a shorter one",
                code="range_too_long",
                field="start",
            )
        curves = await read_pairs(snapshot, vehicle, links)
    pairs = [(pair.link, await asyncio.to_thread(pair.offset)) for pair in curves]
    return VehicleClocks(vehicle_id, start_us, end_us, source, pairs)


async def read_pairs(
    snapshot: Snapshot, vehicle: Device, links: Sequence[Link]
) -> list[PairCurves]:
    """Return the energy of a vehicle and of its meters around the links' ranges.

    A statement for the vehicle and one for each link. They read the readings of the ranges, of
    2 hours more of a meter and 28 hours more of the vehicle on both sides.

    Args:
        snapshot: Where the readings are.
        vehicle: The vehicle.
        links: Links that have a start and an end, such as those cut by `feeds_within`.
    """
    if not links:
        return []
    around_us = SEARCH_US + MARGIN_US
    first_us, last_us = min(one.start_us for one in links), max(one.end_us for one in links)
    dc = await _curve(snapshot, vehicle, first_us - around_us, last_us + around_us)
    return [
        PairCurves(
            link,
            await _curve(snapshot, link.meter, link.start_us - MARGIN_US, link.end_us + MARGIN_US),
            dc,
        )
        for link in links
    ]


async def _curve(snapshot: Snapshot, device: Device, start_us: int, end_us: int) -> Curve | None:
    """Return the energy of a device over time, None where it has too many readings."""
    raw = await snapshot.raw_readings(device, start_us, end_us, MAX_READINGS)
    if len(raw.at_us) == MAX_READINGS:
        return None
    since_us = _since(device, raw)
    is_known = since_us != NEVER_US
    energy_ukwh = contributed(device, raw).energy
    return Curve(since_us[is_known], raw.at_us[is_known], energy_ukwh[is_known])


def _since(device: Device, raw: RawBucket) -> Int64:
    """Return since when each reading's energy came, NEVER_US where that is not known.

    For a register, since the reading before. An interval is as long as readings are usually
    apart, at least a heartbeat, but does not reach over the reading before.
    """
    before_us = np.concatenate([np.array([raw.carry[0][0]]), raw.at_us])[:-1]
    if device.rules.energy_mode is EnergyMode.REGISTER:
        return before_us
    apart_us = np.diff(raw.at_us)
    usual_us = int(np.median(apart_us)) if len(apart_us) else 0
    length_us = max(usual_us, device.rules.heartbeat_s * MICRO)
    return np.asarray(np.maximum(before_us, raw.at_us - length_us))
