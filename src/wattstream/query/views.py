"""What people look at, behind one object: live changes, overviews, the last day, lists."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from wattstream.domain.readings import Stream
from wattstream.domain.units import MICRO
from wattstream.query.changes import Changes
from wattstream.query.fleet_day import FleetDay
from wattstream.query.latest import LiveState, state_of
from wattstream.query.low_efficiency import Alerts
from wattstream.query.overview import Overviews
from wattstream.query.queries import Queries
from wattstream.store.view_port import DeviceSearch, Shown, SortKey, ViewStore

_LOSING_EVERY_US = 60 * MICRO


class Listed(NamedTuple):
    """A device of a list.

    Attributes:
        state: `latest.at_us` is NEVER_US where the device has no reading.
        is_silent: Whether nothing was heard for as many heartbeats as its alert needs.
        day_ukwh: Energy of the 24 hours up to the end of its newest quarter-hour, micro-kWh.
    """

    state: LiveState
    is_silent: bool
    day_ukwh: int


class Views:
    """What pages and streams show; every method raises StoreUnavailableError.

    Attributes:
        clock_us: The engine's clock, microseconds since 1970.
        silent: Heartbeats without a reading that make a device silent.
    """

    def __init__(self, store: ViewStore, queries: Queries, silent: float) -> None:
        self._store = store
        self._queries = queries
        self._losing: tuple[int, Alerts] | None = None
        self._lock = asyncio.Lock()
        self.clock_us: Callable[[], int] = queries.clock_us
        self.silent = silent
        self.changes = Changes(store)
        self.day = FleetDay(store, self.clock_us)
        self.overviews = Overviews(
            store, lambda: queries.fleet(None, None, None), self.clock_us, silent
        )

    async def losing(self) -> Alerts:
        """Return vehicles below the engine's threshold, as they were a minute ago at most."""
        async with self._lock:
            now_us = self.clock_us()
            if self._losing is None or now_us >= self._losing[0] + _LOSING_EVERY_US:
                found = await self._queries.low_efficiency(self._queries.threshold)
                self._losing = (now_us, found)
            return self._losing[1]

    async def search(
        self,
        stream: Stream,
        text: str,
        shown: Shown,
        sort: SortKey,
        *,
        is_descending: bool,
        offset: int,
        limit: int,
    ) -> tuple[list[Listed], int]:
        """Return a page of a list of devices, and how many devices the whole list has."""
        wanted = DeviceSearch(stream, text, shown, sort, is_descending, offset, limit)
        async with self._store.snapshot() as snapshot:
            rows, total = await snapshot.search(wanted, self.clock_us(), self.silent)
        return [
            Listed(state_of(row.device, row.latest), row.is_silent, row.day_ukwh) for row in rows
        ], total
