"""The live state of a device."""

import math
from dataclasses import dataclass

from wattstream.domain.devices import Device
from wattstream.domain.errors import NotFoundError
from wattstream.domain.links import Feeds
from wattstream.domain.readings import Stream, is_valid_id
from wattstream.domain.units import NEVER_US
from wattstream.store.port import Latest, Records, Snapshot


@dataclass(frozen=True, slots=True)
class LiveState:
    """A device with its newest reading.

    Attributes:
        fields: Optional fields in the order of the kind, None where absent.
        is_charging: Whether its latest energy difference is above 0.
    """

    device: Device
    latest: Latest
    fields: tuple[float | None, ...]
    is_charging: bool


async def find(snapshot: Snapshot, stream: Stream, external_id: str) -> Device:
    """Return a device.

    Raises:
        NotFoundError: It was never seen.
    """
    device = await snapshot.device(stream, external_id) if is_valid_id(external_id) else None
    if device is None:
        raise _unknown(stream, external_id)
    return device


async def find_vehicle(
    snapshot: Snapshot, external_id: str, *, same_id: bool
) -> tuple[Device, Feeds]:
    """Return a vehicle and its meters.

    Raises:
        NotFoundError: It was never seen.
    """
    # What no device can report is not asked for: PostgreSQL refuses a zero byte, for one.
    if not is_valid_id(external_id):
        raise _unknown(Stream.VEHICLE, external_id)
    vehicle, feeds = await snapshot.vehicle(external_id, same_id=same_id)
    if vehicle is None:
        raise _unknown(Stream.VEHICLE, external_id)
    return vehicle, feeds


def _unknown(stream: Stream, external_id: str) -> NotFoundError:
    return NotFoundError(f"no {stream} {external_id!r} was ever seen", code=f"{stream}_unknown")


async def live_state(store: Records, stream: Stream, external_id: str) -> LiveState:
    """Return the newest reading of a device.

    Raises:
        NotFoundError: The device was never seen, or has no reading yet.
    """
    async with store.snapshot() as snapshot:
        device = await find(snapshot, stream, external_id)
        latest = await snapshot.latest(device)
    if latest.at_us == NEVER_US:
        raise NotFoundError(
            f"{stream} {external_id!r} has no reading yet", code=f"{stream}_without_readings"
        )
    return state_of(device, latest)


def state_of(device: Device, latest: Latest) -> LiveState:
    """Return a device with its newest reading as it is shown."""
    fields = tuple(None if math.isnan(value) else value for value in latest.values.fields)
    return LiveState(device, latest, fields, latest.delta_ukwh > 0)
