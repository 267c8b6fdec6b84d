"""What pages and streams show, read from PostgreSQL in one snapshot."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from wattstream.domain.devices import Device
from wattstream.domain.readings import Stream
from wattstream.domain.units import Int64
from wattstream.store.port import Latest, Values
from wattstream.store.postgres import arrays
from wattstream.store.postgres.answers import PostgresSnapshot, to_device
from wattstream.store.view_port import (
    DeviceSearch,
    LiveRow,
    Reported,
    Tallies,
    Versions,
    ViewSnapshot,
)


class PostgresViewSnapshot(PostgresSnapshot):
    """A ViewSnapshot over a connection inside a REPEATABLE READ transaction."""

    async def versions(self, stream: Stream) -> Versions:
        """Return the version of every live row."""
        columns = await self._one("view", "versions", stream)
        none = np.zeros(0, np.int64)
        return Versions(*(none if c is None else c.astype(np.int64) for c in columns))

    async def live_keyed(self, stream: Stream, keys: Int64) -> list[tuple[Device, Latest]]:
        """Return devices that have a reading, with the newest, by key."""
        wanted = arrays.PgArray(keys.astype(np.int32))
        rows = await self._all("view", "live_keyed", stream, device_id=wanted)
        return [_live(stream, row) for row in rows]

    async def live_named(self, stream: Stream, ids: Sequence[str]) -> list[tuple[Device, Latest]]:
        """Return devices that have a reading, with the newest, by outside id."""
        rows = await self._all("view", "live_named", stream, ids=list(ids))
        return [_live(stream, row) for row in rows]

    async def search(
        self, wanted: DeviceSearch, now_us: int, silent: float, within: Int64 | None = None
    ) -> tuple[list[LiveRow], int]:
        """Return a page of a list of devices, and how many devices the whole list has."""
        await self._plan_anew()
        where = {
            "pattern": _pattern(wanted.text),
            "shown": wanted.shown,
            "now": arrays.time_param(now_us),
            "silent": silent,
            "within": _keys(within),
        }
        rows = await self._all(
            "view",
            "search",
            wanted.stream,
            **where,
            sort=wanted.sort,
            sign=-1 if wanted.is_descending else 1,
            limit=wanted.limit,
            offset=wanted.offset,
        )
        (total,) = await self._one("view", "search_count", wanted.stream, **where)
        found = [
            LiveRow(*_live(wanted.stream, row), is_silent, day_ukwh)
            for is_silent, day_ukwh, *row in rows
        ]
        return found, total

    async def reported(
        self, stream: Stream, now_us: int, silent: float, within: Int64 | None = None
    ) -> Reported:
        """Return how well the devices of a stream report."""
        await self._plan_anew()
        asked = {"now": arrays.time_param(now_us), "silent": silent, "within": _keys(within)}
        return Reported(*await self._one("view", "reported", stream, **asked))

    async def tallies(self, within: Int64 | None = None) -> Tallies:
        """Return what is counted, without touching history."""
        found = Tallies(*await self._one("view", "tallies", Stream.METER, within=_keys(within)))
        return found if within is None else found._replace(readings=None, rejections=None)

    async def quarter_sums(
        self, stream: Stream, start_us: int, end_us: int, within: Int64 | None = None
    ) -> list[tuple[int, int]]:
        """Return start and energy of the quarter-hours in [start_us, end_us), devices together."""
        await self._plan_anew()
        limits = {
            "start_at": arrays.time_param(start_us),
            "end_at": arrays.time_param(end_us),
            "within": _keys(within),
        }
        rows = await self._all("view", "quarter_sums", stream, **limits)
        return [(at_us, int(energy)) for at_us, energy in rows]


@dataclass(frozen=True, slots=True)
class PostgresView:
    """A ViewStore: what opens a PostgresViewSnapshot."""

    opener: Callable[[], AbstractAsyncContextManager[PostgresViewSnapshot]]

    def snapshot(self) -> AbstractAsyncContextManager[ViewSnapshot]:
        """Open a consistent view."""
        return self.opener()


def _live(stream: Stream, row: Sequence[Any]) -> tuple[Device, Latest]:
    at_us, received_us, ukwh, delta, *fields = row[9:]
    values = Values(ukwh, tuple(np.nan if value is None else value for value in fields))
    return to_device(stream, row[:9]), Latest(at_us, received_us, values, delta)


def _keys(within: Int64 | None) -> arrays.PgArray | None:
    return None if within is None else arrays.PgArray(within.astype(np.int32))


def _pattern(text: str) -> str | None:
    """Return what finds a text anywhere, as ILIKE reads it."""
    return "%" + re.sub(r"([%_\\])", r"\\\1", text) + "%" if text else None
