"""What people look at, behind one object: live changes, overviews, the last day, lists."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from wattstream.caller import caller
from wattstream.domain.access import Reach
from wattstream.domain.readings import Stream
from wattstream.domain.units import MICRO
from wattstream.query.changes import Changes
from wattstream.query.fleet_day import FleetDay, Quarter
from wattstream.query.latest import LiveState, state_of
from wattstream.query.low_efficiency import Alerts
from wattstream.query.overview import Overview, Overviews
from wattstream.query.queries import Queries
from wattstream.query.reach import within
from wattstream.store.view_port import DeviceSearch, Shown, SortKey, ViewStore

_LOSING_EVERY_US = 60 * MICRO
_REACHES = 256


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


class _Kept:
    """What is read once for all who have the same reach."""

    def __init__(self, store: ViewStore, queries: Queries, silent: float, reach: Reach) -> None:
        self._queries = queries
        self._losing: tuple[int, Alerts] | None = None
        self._lock = asyncio.Lock()
        self.day = FleetDay(store, queries.clock_us, reach)
        self.overviews = Overviews(
            store, lambda: queries.fleet(None, None, None), queries.clock_us, silent, reach
        )

    async def losing(self) -> Alerts:
        async with self._lock:
            now_us = self._queries.clock_us()
            if self._losing is None or now_us >= self._losing[0] + _LOSING_EVERY_US:
                found = await self._queries.low_efficiency(self._queries.threshold)
                self._losing = (now_us, found)
            return self._losing[1]


class Views:
    """What pages and streams show; every method raises StoreUnavailableError.

    Attributes:
        clock_us: The engine's clock, microseconds since 1970.
        silent: Heartbeats without a reading that make a device silent.
        changes: Live states of all devices; who listens names its reach.
    """

    def __init__(self, store: ViewStore, queries: Queries, silent: float) -> None:
        self._store = store
        self._queries = queries
        self._kept: OrderedDict[Reach, _Kept] = OrderedDict()
        self.clock_us: Callable[[], int] = queries.clock_us
        self.silent = silent
        self.changes = Changes(store)

    def _of_caller(self) -> _Kept:
        """Return what is kept for the reach of whoever asks."""
        reach = caller().reach
        kept = self._kept.get(reach)
        if kept is None:
            kept = self._kept[reach] = _Kept(self._store, self._queries, self.silent, reach)
            if len(self._kept) > _REACHES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(reach)
        return kept

    async def losing(self) -> Alerts:
        """Return vehicles below the engine's threshold, as they were a minute ago at most."""
        return await self._of_caller().losing()

    async def overview(self) -> Overview:
        """Return the fleet in a few numbers, as it was a few seconds ago at most."""
        return await self._of_caller().overviews.now()

    async def day(self) -> list[Quarter]:
        """Return the closed quarter-hours of the last 24 hours that have readings."""
        return await self._of_caller().day.quarters()

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
            keys = await within(snapshot, stream, caller().reach)
            rows, total = await snapshot.search(wanted, self.clock_us(), self.silent, keys)
        return [
            Listed(state_of(row.device, row.latest), row.is_silent, row.day_ukwh) for row in rows
        ], total
