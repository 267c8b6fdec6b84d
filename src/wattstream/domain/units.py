"""Units inside the engine, and the few conversions at its edges.

Energy is an integer of micro-kWh, time an int64 of microseconds since 1970-01-01T00:00Z,
so sums are exact in any order.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Rows = NDArray[np.void]
"""A structured array, one row per thing, its dtype named where it is made."""

MICRO = 1_000_000
MINUTE_US = 60 * MICRO
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
BUCKET_US = 15 * 60 * MICRO
"""Length of a rollup bucket. A quarter-hour is the settlement interval of the field and
divides every time zone's offset, so local days are sums of whole buckets."""

NEVER_US = -(2**63)
"""Time of a reading that does not exist; PostgreSQL stores it as -infinity."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def bucket_of(at_us: Int64) -> Int64:
    """Return the start of the bucket that holds each time, microseconds."""
    return at_us - at_us % BUCKET_US


def bucket_floor(at_us: int) -> int:
    """Return the start of the bucket that holds a time, microseconds."""
    return at_us - at_us % BUCKET_US


def bucket_ceil(at_us: int) -> int:
    """Return the first bucket start at or after a time, microseconds."""
    return at_us + -at_us % BUCKET_US


def to_us(moment: datetime) -> int:
    """Return microseconds since 1970 of an aware time."""
    return (moment - _EPOCH) // _MICROSECOND


def to_datetime(at_us: int) -> datetime:
    """Return the aware UTC time of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=at_us)


def rfc3339(at_us: int) -> str:
    """Write a time as RFC 3339 in UTC, ``Z``, with microseconds only where there are any."""
    second, micro = divmod(at_us, MICRO)
    return f"{_second(second)}.{micro:06d}Z" if micro else f"{_second(second)}Z"


@lru_cache(4096)  # heartbeats of a minute share their seconds
def _second(second: int) -> str:
    return to_datetime(second * MICRO).isoformat()[:19]


def rfc3339_column(at_us: Int64) -> list[str]:
    """Write times as `rfc3339` does, a column at once."""
    times = at_us.view("M8[us]")
    texts = np.datetime_as_string(times, "s", "UTC", casting="unsafe").astype(object)
    is_fraction = at_us % MICRO != 0
    texts[is_fraction] = np.datetime_as_string(times[is_fraction], "us", "UTC")
    written: list[str] = texts.tolist()
    return written


def kwh(energy_ukwh: int) -> float:
    """Return micro-kWh as kWh, correctly rounded."""
    return energy_ukwh / MICRO


def exact(value: float) -> str:
    """Write a number with every digit it has, whole numbers without a point."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)


def to_micro(values: Float64) -> Int64:
    """Return values in millionths, rounded to the nearest; NaN becomes 0."""
    scaled = values * MICRO
    return np.rint(np.where(np.isnan(scaled), 0.0, scaled)).astype(np.int64)
