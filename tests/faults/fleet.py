"""The readings of the torture: every value is a function of device and time.

So what a database holds can be judged without remembering what was sent, only that it was. A
reading is an int64, its key: the device's number, then milliseconds since the base.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

STREAMS = ("meter", "vehicle")
DEVICES = 30
REGISTERS = 6
"""The first of each stream send a register; half of those have a modulus."""
MODULUS_UKWH = 30_000_000
ABSENT = -1000.0
_MS_BITS = 40
_STREAM = 1000


@dataclass(frozen=True)
class Values:
    """Columns of n readings; ABSENT where a field was not sent, or is not of the stream."""

    energy_ukwh: Keys
    first: Floats
    second: Floats


def key_of(stream: int, device: int, ms: int) -> int:
    """Return a reading's key; the device's number is below 1,000."""
    return (stream * _STREAM + device) << _MS_BITS | ms


def device_of(keys: Keys) -> Keys:
    """Return the number of each reading's device: 1,000 × stream + number in the stream."""
    return keys >> _MS_BITS


def ms_of(keys: Keys) -> Keys:
    """Return each reading's time, milliseconds since the base."""
    return keys & ((1 << _MS_BITS) - 1)


def values(keys: Keys) -> Values:
    """Return what the devices measure at those times."""
    noise = _mixed(keys)
    number, ms = device_of(keys), ms_of(keys)
    # A register rises by 10.8 kW, starts again every few hours, and now and then reads too low.
    register = (ms * 3) % MODULUS_UKWH
    register = np.where(noise % np.uint64(97) == 0, register // 2, register)
    interval = (noise % np.uint64(5_000_000)).astype(np.int64)
    energy = np.where(number % _STREAM < REGISTERS, register, interval)
    is_vehicle = number >= _STREAM
    some = ((noise >> np.uint64(24)) % np.uint64(60_000)).astype(np.float64) / 1000
    first = np.where(is_vehicle, some, 200 + some)
    first = np.where((noise >> np.uint64(48)) % np.uint64(8) == 0, ABSENT, first)
    second = np.where(is_vehicle & (first != ABSENT), 20 + some / 2, ABSENT)
    return Values(energy, first, np.round(second, 4))


def records(keys: Keys, base_us: int, *, wrong: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return readings as clients send them; with other energy where `wrong`."""
    columns = values(keys)
    energy = columns.energy_ukwh + wrong
    rows = zip(
        device_of(keys).tolist(),
        np.datetime_as_string(
            (ms_of(keys) * 1000 + base_us).astype("datetime64[us]"), unit="us"
        ).tolist(),
        (energy / 1e6).tolist(),
        columns.first.tolist(),
        columns.second.tolist(),
        strict=True,
    )
    found = []
    for number, at, kwh, first, second in rows:
        stream, device = divmod(number, _STREAM)
        record: dict[str, Any] = {"timestamp": at + "Z"}
        if stream == 0:
            record |= {"meterId": f"T-{device}", "kwhConsumedAc": kwh}
            record |= {} if first == ABSENT else {"voltage": first}
        else:
            record |= {"vehicleId": f"T-{device}", "kwhDeliveredDc": kwh}
            record |= {} if first == ABSENT else {"soc": first}
            record |= {} if second == ABSENT else {"batteryTemp": second}
        found.append(record)
    return found


def _mixed(keys: Keys) -> npt.NDArray[np.uint64]:
    """Return 64 bits that look random. Source: splitmix64's finalizer, Steele et al. 2014."""
    x = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
