"""A device's history in time order: its readings, and its quarter-hours."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from wattstream.domain.devices import Device
from wattstream.domain.readings import KINDS
from wattstream.domain.units import BUCKET_US, NEVER_US, bucket_floor
from wattstream.store.port import Quarters, RawBucket
from wattstream.store.postgres import arrays

Ask = Callable[..., Awaitable[Any]]
"""Ask a statement of `series.sql`, by name and with its parameters, for its one row."""


async def readings(ask: Ask, device: Device, start_us: int, end_us: int, limit: int) -> RawBucket:
    """Return the first `limit` readings measured in [start_us, end_us); `limit` is above 0."""
    wanted = {"device_id": device.key, "limit": limit}
    bucket_at = arrays.time_param(bucket_floor(start_us))
    reach = await ask("reach", **wanted, bucket_at=bucket_at, end_at=arrays.time_param(end_us))
    if reach is None or reach[0] >= end_us:
        return raw_bucket((None,) * 6, len(KINDS[device.stream].fields))
    first_us, *carry, last_us = reach
    if last_us is not None:
        end_us = min(end_us, last_us + BUCKET_US)
    at_us, ukwh, *raw = await ask(
        "readings",
        **wanted,
        minutes=arrays.minutes_param(first_us),
        bucket_at=arrays.time_param(first_us),
        start_at=arrays.time_param(max(start_us, first_us)),
        end_at=arrays.time_param(end_us),
    )
    if at_us is not None:
        inside = [int(x) for pair in zip(at_us, ukwh, strict=True) for x in pair]
        carry = [*inside, *carry][:4]
    return raw_bucket((*carry, *raw), len(KINDS[device.stream].fields))


async def quarters(ask: Ask, device: Device, start_us: int, end_us: int, limit: int) -> Quarters:
    """Return the sums of the first `limit` quarter-hours that start in [start_us, end_us)."""
    columns = await ask(
        "quarters",
        device_id=device.key,
        start_at=arrays.time_param(start_us),
        end_at=arrays.time_param(end_us),
        limit=limit,
    )
    none = np.zeros(0, np.int64)
    found = [none if column is None else column.astype(np.int64) for column in columns]
    at_us, energy, suspect, readings, *measured = found
    sums, counts = np.column_stack(measured[::2]), np.column_stack(measured[1::2])
    return Quarters(at_us, energy, suspect, readings, sums, counts)


def raw_bucket(row: Sequence[Any], width: int) -> RawBucket:
    """Return readings from the two before them and the aggregated columns of a row.

    Args:
        row: Time and value of the reading before, and of the one before that; then the columns
            time, value and optional fields. None stands for what is not there.
        width: How many optional fields the stream has.
    """
    at1, ukwh1, at2, ukwh2, at_us, energy, *fields = row
    if at1 is None:
        at1, ukwh1, at2, ukwh2 = NEVER_US, 0, NEVER_US, 0
    if at_us is None:
        at_us, energy, fields = (np.zeros(0, np.int64),) * 2 + ([np.zeros(0)] * width,)
    return RawBucket(((at1, ukwh1), (at2, ukwh2)), at_us, energy, np.column_stack(fields))
