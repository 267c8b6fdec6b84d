"""The history of devices in time order: readings, or sums of quarter-hours, hours and days."""

import enum
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from wattstream.domain.days import day_starts, hour_starts
from wattstream.domain.devices import Device
from wattstream.domain.readings import Stream
from wattstream.domain.register import Contributions
from wattstream.domain.units import BUCKET_US, MICRO, Float64, Int64, bucket_ceil, bucket_floor
from wattstream.query.latest import find
from wattstream.query.window import contributed, window_totals
from wattstream.store.port import Quarters, Records, Snapshot

BLOCK_ROWS = 10_000
"""Most readings or quarter-hours read at once: what a stream holds in memory."""


class Resolution(enum.StrEnum):
    """Into what a history is cut."""

    RAW = "raw"
    QUARTER = "15m"
    HOUR = "1h"
    DAY = "1d"


# Most quarter-hours of a bucket: a day is 48 hours long where a zone moves over the date line.
_QUARTERS = {Resolution.QUARTER: 1, Resolution.HOUR: 4, Resolution.DAY: 192}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a history goes on: in the history of a device, at a time, microseconds."""

    external_id: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose history is wanted, of what time, and how it is cut.

    Attributes:
        ids: Outside ids, in the order of the answer, none twice.
        start_us: Inclusive, microseconds.
        end_us: Exclusive, microseconds.
        after: Where to go on; None: from the first device's start.
    """

    stream: Stream
    ids: Sequence[str]
    resolution: Resolution
    start_us: int
    end_us: int
    after: Place | None = None


@dataclass(frozen=True, slots=True)
class RawBlock:
    """Readings of one device, n rows in time order.

    Attributes:
        at_us: Measured at, int64[n].
        energy_ukwh: Values as sent, int64[n].
        values: Optional fields, float64[n, k]; NaN where absent.
        parts: What each adds to the energy of its device, n rows.
    """

    device: Device
    at_us: Int64
    energy_ukwh: Int64
    values: Float64
    parts: Contributions

    def __len__(self) -> int:
        return len(self.at_us)


@dataclass(frozen=True, slots=True)
class BucketBlock:
    """Sums of one device by bucket, n rows in time order; none is without readings.

    Attributes:
        start_us: Not before the range, int64[n].
        end_us: Not after the range, int64[n].
        energy_ukwh: Counted energy of the readings in [start_us, end_us), n integers.
        suspect_ukwh: Energy left out as not plausible, n integers.
        readings: How many, int64[n].
        means: Optional fields, float64[n, k]; NaN where no reading had one.
    """

    device: Device
    start_us: Int64
    end_us: Int64
    energy_ukwh: list[int]
    suspect_ukwh: list[int]
    readings: Int64
    means: Float64

    def __len__(self) -> int:
        return len(self.energy_ukwh)


Block = RawBlock | BucketBlock


async def page(store: Records, wanted: Wanted, limit: int) -> tuple[list[Block], Place | None]:
    """Return up to `limit` rows from one snapshot, and where the next page begins, if there is one.

    At least one block is returned, maybe without rows.

    Raises:
        NotFoundError: One of the devices was never seen.
    """
    blocks: list[Block] = []
    rows = 0
    async with store.snapshot() as snapshot:
        for external_id in wanted.ids:
            await find(snapshot, wanted.stream, external_id)
        place: Place | None = _first(wanted)
        while place is not None and rows < limit:
            block, place = await _read(snapshot, wanted, place, limit - rows)
            blocks.append(block)
            rows += len(block)
        # Another device may have no rows; then this page is the last.
        while place is not None and place.external_id != blocks[-1].device.external_id:
            block, following = await _read(snapshot, wanted, place, 1)
            if len(block):
                break
            place = following
    return blocks, place


async def stream(store: Records, wanted: Wanted, limit: int | None) -> AsyncGenerator[Block]:
    """Yield up to `limit` rows in blocks of at most BLOCK_ROWS.

    Each block is of a snapshot of its own, so that nothing is held while a slow client reads.

    Raises:
        NotFoundError: One of the devices was never seen; before the first block.
    """
    async with store.snapshot() as snapshot:
        for external_id in wanted.ids:
            await find(snapshot, wanted.stream, external_id)
    place: Place | None = _first(wanted)
    rows = 0
    while place is not None and (limit is None or rows < limit):
        async with store.snapshot() as snapshot:
            left = BLOCK_ROWS if limit is None else limit - rows
            block, place = await _read(snapshot, wanted, place, left)
        rows += len(block)
        yield block


def _first(wanted: Wanted) -> Place:
    return wanted.after or Place(wanted.ids[0], wanted.start_us)


async def _read(
    snapshot: Snapshot, wanted: Wanted, place: Place, limit: int
) -> tuple[Block, Place | None]:
    """Return up to `limit` rows of one device, and the place after them, None after the last."""
    device = await find(snapshot, wanted.stream, place.external_id)
    limit = min(limit, BLOCK_ROWS)
    read = _readings if wanted.resolution is Resolution.RAW else _buckets
    block, next_us = await read(snapshot, device, wanted, place.at_us, limit)
    if next_us is not None:
        return block, Place(device.external_id, next_us)
    following = wanted.ids[wanted.ids.index(device.external_id) + 1 :]
    return block, Place(following[0], wanted.start_us) if following else None


async def _readings(
    snapshot: Snapshot, device: Device, wanted: Wanted, start_us: int, limit: int
) -> tuple[Block, int | None]:
    """Return readings of a device, and where to go on, None where there are no more."""
    raw = await snapshot.raw_readings(device, start_us, wanted.end_us, limit + 1)
    parts = contributed(device, raw)
    rows = slice(limit)
    block = RawBlock(
        device,
        raw.at_us[rows],
        raw.energy_ukwh[rows],
        raw.values[rows],
        Contributions(parts.energy[rows], parts.suspect[rows]),
    )
    return block, int(raw.at_us[limit - 1]) + 1 if len(raw.at_us) > limit else None


async def _buckets(
    snapshot: Snapshot, device: Device, wanted: Wanted, start_us: int, limit: int
) -> tuple[Block, int | None]:
    """Return buckets of a device, and where to go on, None where there are no more."""
    resolution, end_us = wanted.resolution, wanted.end_us
    first_us, last_us = bucket_ceil(start_us), bucket_floor(end_us)
    most = min(BLOCK_ROWS, (limit + 1) * _QUARTERS[resolution])
    found = await snapshot.quarters(device, first_us, last_us, most)
    is_all = len(found.at_us) < most
    if start_us < first_us:
        edge = await _edge(snapshot, device, start_us, min(first_us, end_us))
        found = _concat([edge, found])
    if is_all and first_us <= last_us < end_us:
        found = _concat([found, await _edge(snapshot, device, last_us, end_us)])
    starts_us, ends_us, rows = _cut(device, resolution, found.at_us)
    # There may be more of the last bucket where not all was read.
    complete = len(rows) if is_all else len(rows) - 1
    n = min(complete, limit)
    block = BucketBlock(
        device,
        np.maximum(starts_us[:n], start_us),
        np.minimum(ends_us[:n], end_us),
        _sums(found.energy_ukwh.astype(object), rows)[:n].tolist(),
        _sums(found.suspect_ukwh.astype(object), rows)[:n].tolist(),
        _sums(found.readings, rows)[:n],
        _means(_sums(found.sums_micro, rows)[:n], _sums(found.counts, rows)[:n]),
    )
    return block, None if is_all and n == complete else int(block.end_us[-1])


async def _edge(snapshot: Snapshot, device: Device, start_us: int, end_us: int) -> Quarters:
    """Return the part of a quarter-hour that an edge of the range leaves, if it has readings."""
    (total,) = await window_totals(snapshot, [(device, start_us, end_us)])
    n = min(total.readings, 1)

    def column(*values: int) -> Int64:
        return np.array([values], np.int64)[:n]

    return Quarters(
        column(bucket_floor(start_us))[:, 0],
        column(total.energy_ukwh)[:, 0],
        column(total.suspect_ukwh)[:, 0],
        column(total.readings)[:, 0],
        column(*total.sums_micro),
        column(*total.counts),
    )


def _concat(parts: Sequence[Quarters]) -> Quarters:
    names = Quarters.__slots__
    return Quarters(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _cut(device: Device, resolution: Resolution, at_us: Int64) -> tuple[Int64, Int64, Int64]:
    """Return starts and ends of the buckets of some quarter-hours, and the first row of each."""
    if resolution is Resolution.QUARTER or len(at_us) == 0:
        return at_us, at_us + BUCKET_US, np.arange(len(at_us))
    starts_of = day_starts if resolution is Resolution.DAY else hour_starts
    bounds = starts_of(ZoneInfo(device.time_zone), int(at_us[0]), int(at_us[-1]))
    place = np.searchsorted(bounds, at_us, "right") - 1
    present, rows = np.unique(place, return_index=True)
    return bounds[present], bounds[present + 1], rows


def _sums(column: NDArray[Any], rows: Int64) -> NDArray[Any]:
    """Return the sums of a column from each of some rows to the next.

    Energy comes as Python's integers: a quarter-hour's sum fits int64, a day's need not.
    """
    return np.add.reduceat(column, rows) if len(rows) else column


def _means(sums_micro: Int64, counts: Int64) -> Float64:
    """Return means; exact but for one rounding, as no sum of a field leaves a float's integers."""
    absent = counts == 0
    return np.where(absent, np.nan, sums_micro / np.where(absent, 1, counts * MICRO))
