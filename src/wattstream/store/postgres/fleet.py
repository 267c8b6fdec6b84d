"""What answers over all devices need, in memory: what each sums over its day, and its twin.

Whatever changes a device gives its block a new version. So a snapshot reads all versions, and
anew only the devices of blocks that have another one. Each answer is what its own snapshot holds,
and only the first reads the whole fleet.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from wattstream.domain.readings import Stream
from wattstream.domain.rollup import day_start, sum_columns
from wattstream.domain.rows import assign
from wattstream.domain.units import Int64, Rows
from wattstream.store.port import DeviceTotals
from wattstream.store.postgres import arrays
from wattstream.store.postgres.blocks import BLOCK_DEVICES, devices_of

Ask = Callable[..., Awaitable[Any]]
"""Ask a snapshot a statement of `fleet.sql`, by its name, a stream and parameters, for its row."""

_AT_ONCE = 4096 * BLOCK_DEVICES
"""Devices read by one statement."""
_NO_BLOCK = np.iinfo(np.int64).max


class FleetCache:
    """The devices of a database as one engine last read them, for any number of snapshots."""

    def __init__(self) -> None:
        self._devices = {stream: _Devices(stream) for stream in Stream}
        self._twins = np.zeros((2, 0), np.int64)
        self._twins_of: list[int] = []

    async def totals(self, ask: Ask, stream: Stream, start_us: int) -> DeviceTotals:
        """Sum, per device, every bucket that starts at or after `start_us`, a bucket start.

        Cost: the devices that changed, and a bucket for each by which a day begins elsewhere.
        """
        return await self._devices[stream].totals(ask, start_us)

    async def twins(self, ask: Ask) -> Int64:
        """Return the keys of vehicles and meters that have the same outside id, int64[2, n]."""
        sets = [await devices.which(ask) for devices in self._devices.values()]
        if sets != self._twins_of:
            columns = await ask("twins", None)
            none = np.zeros(0, np.int64)
            self._twins = np.stack([none if c is None else c for c in columns], dtype=np.int64)
            self._twins_of = sets
        return self._twins


class _Devices:
    """The devices of one stream; one snapshot at a time brings them up to what it sees.

    What differs between a device's day and a wanted start is read by each for itself, as it may
    be much, and remembered where the device has not changed meanwhile.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lock = asyncio.Lock()
        # Blocks ascending; one that there is never ends them, so that each has a place.
        self._block = np.array([_NO_BLOCK])
        self._version = np.zeros(1, np.int64)
        sums = (len(sum_columns(stream)),)
        # `sums` of the day and the open bucket; `moved`, the same from `moved_at` on.
        self._dtype = np.dtype(
            [
                ("device_id", np.int64),
                ("version", np.int64),
                ("bucket_at", np.int64),
                ("sums", np.int64, sums),
                ("moved_at", np.int64),
                ("moved", np.int64, sums),
            ]
        )
        self._rows: Rows = np.zeros(0, self._dtype)
        self._block_of = np.zeros(0, np.int64)
        self._set = 0

    async def which(self, ask: Ask) -> int:
        """Return a number that another set of devices does not have."""
        async with self._lock:
            await self._refresh(ask)
            return self._set

    async def totals(self, ask: Ask, start_us: int) -> DeviceTotals:
        """See `FleetCache.totals`."""
        async with self._lock:
            await self._refresh(ask)
            rows = self._rows.compress(self._rows["bucket_at"] >= start_us)
        day_us = day_start(rows)
        elsewhere = np.flatnonzero((day_us != start_us) & (rows["moved_at"] != start_us))
        for part in _cut(elsewhere):
            moved = rows.take(part)
            await self._move(ask, moved, day_us[part], start_us)
            assign(rows, part, moved)
            self._remember(moved)
        sums = np.where((day_us == start_us)[:, None], rows["sums"], rows["moved"])
        return DeviceTotals(rows["device_id"].copy(), np.ascontiguousarray(sums.T))

    async def _refresh(self, ask: Ask) -> None:
        """Read the devices of every block that this snapshot has with another version."""
        columns = await ask("versions", self._stream)
        none = np.zeros(0, np.int64)
        block, version = (none if c is None else c.astype(np.int64) for c in columns)
        order = np.argsort(block)
        block, version = block[order], version[order]
        place = np.searchsorted(self._block, block)
        is_held = (self._block[place] == block) & (self._version[place] == version)
        if is_held.all() and len(block) == len(self._block) - 1:
            return
        parts = [await self._read(ask, part) for part in _cut(devices_of(block[~is_held]))]
        rows = np.concatenate([self._rows[:0], *parts])
        rows["version"] = version[np.searchsorted(block, rows["device_id"] // BLOCK_DEVICES)]
        is_kept_block = np.zeros(len(self._block), np.bool_)
        is_kept_block[place[is_held]] = True
        is_kept = is_kept_block[self._block_of]
        is_same = np.array_equal(self._rows["device_id"][~is_kept], rows["device_id"])
        if is_same and np.array_equal(block, self._block[:-1]):
            assign(self._rows, ~is_kept, rows)
            self._version[:-1] = version
            return
        rows = np.concatenate([self._rows.compress(is_kept), rows])
        self._rows = rows.take(np.argsort(rows["device_id"]))
        self._block, self._version = np.append(block, _NO_BLOCK), np.append(version, 0)
        self._block_of = np.searchsorted(block, self._rows["device_id"] // BLOCK_DEVICES)
        self._set += 1

    async def _read(self, ask: Ask, key: Int64) -> Rows:
        """Return the rows of those of some devices that exist, keys ascending."""
        device, bucket_us, *sums = await ask(
            "days", self._stream, device_id=arrays.PgArray(key.astype(np.int32))
        )
        rows: Rows = np.zeros(0 if device is None else len(device), self._dtype)
        if device is not None:
            rows["device_id"], rows["bucket_at"] = device, bucket_us
            rows["sums"] = np.column_stack(sums)
            rows["moved_at"] = day_start(rows)
            rows["moved"] = rows["sums"]
        return rows.take(np.argsort(rows["device_id"]))

    def _remember(self, rows: Rows) -> None:
        """Keep rows as they are, of devices that are as they were."""
        held = self._rows
        if len(held) == 0:
            return
        at = np.searchsorted(held["device_id"], rows["device_id"])
        at = np.minimum(at, len(held) - 1)
        is_same = held["device_id"][at] == rows["device_id"]
        is_same &= held["version"][at] == rows["version"]
        assign(held, at[is_same], rows.compress(is_same))

    async def _move(self, ask: Ask, rows: Rows, day_us: Int64, start_us: int) -> None:
        """Fill in what rows sum from a start on: what closed between it and their day differs."""
        start = np.full(len(rows), start_us)
        between = await ask(
            "closed",
            self._stream,
            device_id=arrays.PgArray(rows["device_id"].astype(np.int32)),
            start_at=arrays.PgArray(np.minimum(day_us, start), times=True),
            end_at=arrays.PgArray(np.maximum(day_us, start), times=True),
        )
        sign = np.where(day_us < start_us, -1, 1)
        rows["moved"] = rows["sums"] + sign[:, None] * np.column_stack(between)
        rows["moved_at"] = start_us


def _cut(column: Int64) -> list[Int64]:
    """Return a column in parts that one statement asks for; none of them is empty."""
    return [column[at : at + _AT_ONCE] for at in range(0, len(column), _AT_ONCE)]
