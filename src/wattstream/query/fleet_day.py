"""Energy of all devices together by quarter-hour, over the last 24 hours.

A day of a large fleet is millions of rows of the rollup, and none of its indexes begins with the
time. So the sums are kept in memory: the last hours are read again once a minute, the whole day
every quarter of an hour, and only while somebody asks.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from wattstream.domain.access import Reach
from wattstream.domain.efficiency import efficiency
from wattstream.domain.readings import Stream
from wattstream.domain.units import BUCKET_US, DAY_US, MICRO, NEVER_US, bucket_floor
from wattstream.query.reach import within
from wattstream.store.view_port import ViewStore

_RECENT_US = 4 * BUCKET_US
_RECENT_EVERY_US = 60 * MICRO
_DAY_EVERY_US = 15 * 60 * MICRO


@dataclass(frozen=True, slots=True)
class Quarter:
    """A closed quarter-hour of the fleet.

    Attributes:
        start_us: Its start, microseconds.
        ac_ukwh: Of all meters, micro-kWh.
        dc_ukwh: Of all vehicles, micro-kWh.
        efficiency: dc / ac as a fraction; None where ac is 0.
    """

    start_us: int
    ac_ukwh: int
    dc_ukwh: int
    efficiency: float | None


class FleetDay:
    """The last 24 hours of one engine's database, within a reach."""

    def __init__(self, store: ViewStore, clock_us: Callable[[], int], reach: Reach) -> None:
        self._store = store
        self._reach = reach
        self._clock_us = clock_us
        self._sums: dict[Stream, dict[int, int]] = {stream: {} for stream in Stream}
        self._day_read_us = self._recent_read_us = NEVER_US
        self._lock = asyncio.Lock()

    async def quarters(self) -> list[Quarter]:
        """Return the closed quarter-hours of the last 24 hours that have readings, oldest first."""
        now_us = self._clock_us()
        end_us = bucket_floor(now_us)
        async with self._lock:
            if now_us >= self._day_read_us + _DAY_EVERY_US:
                await self._read(end_us - DAY_US, end_us)
                self._day_read_us = self._recent_read_us = now_us
            elif now_us >= self._recent_read_us + _RECENT_EVERY_US:
                await self._read(end_us - _RECENT_US, end_us)
                self._recent_read_us = now_us
        ac, dc = self._sums[Stream.METER], self._sums[Stream.VEHICLE]
        starts = sorted(at for at in ac.keys() | dc.keys() if end_us - DAY_US <= at < end_us)
        return [
            Quarter(at, ac.get(at, 0), dc.get(at, 0), efficiency(dc.get(at, 0), ac.get(at, 0)))
            for at in starts
        ]

    async def _read(self, start_us: int, end_us: int) -> None:
        """Read a part again, up to the last closed quarter-hour; what is older is forgotten."""
        async with self._store.snapshot() as snapshot:
            found = {
                stream: dict(
                    await snapshot.quarter_sums(
                        stream, start_us, end_us, await within(snapshot, stream, self._reach)
                    )
                )
                for stream in Stream
            }
        for stream, sums in found.items():
            kept = self._sums[stream].items()
            self._sums[stream] = {
                at: ukwh for at, ukwh in kept if end_us - DAY_US <= at < start_us
            } | sums
