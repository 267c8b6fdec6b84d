"""The fleet and its ingest in a few numbers, for people who look on."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from wattstream.domain.access import Reach
from wattstream.domain.readings import Stream
from wattstream.domain.units import MICRO, NEVER_US
from wattstream.query.fleet import FleetPerformance
from wattstream.query.reach import within
from wattstream.store.view_port import Reported, Tallies, ViewStore

_TALLIES_EVERY_US = MICRO // 2
_DEVICES_EVERY_US = 10 * MICRO
_DEVICES_LONGEST_US = 60 * MICRO
_PAUSE = 50  # times as long as asking them took
_RATE_OVER_US = 60 * MICRO


@dataclass(frozen=True, slots=True)
class Overview:
    """What is known of all devices within a reach.

    Attributes:
        per_second: Readings stored a second, by all engines, over the last minute at most; None
            before it is measured, or where it is not counted.
        fleet: Energy and efficiency over the fleet's default window.
    """

    tallies: Tallies
    per_second: float | None
    reported: dict[Stream, Reported]
    fleet: FleetPerformance


class Overviews:
    """Overviews of one engine's database, each read once for all who ask at about that time.

    What is only counted is at most 0.5 s old, what all devices must be asked for 10 s; on a busy
    machine, where that takes long, up to a minute.
    """

    def __init__(
        self,
        store: ViewStore,
        fleet: Callable[[], Awaitable[FleetPerformance]],
        clock_us: Callable[[], int],
        silent: float,
        reach: Reach,
    ) -> None:
        """Prepare; `silent`: heartbeats without a reading that make a device silent."""
        self._reach = reach
        self._store = store
        self._fleet = fleet
        self._clock_us = clock_us
        self._silent = silent
        self._newest: Overview | None = None
        self._tallied_us = self._due_us = NEVER_US
        self._counts: deque[tuple[int, int]] = deque()
        self._lock = asyncio.Lock()

    async def now(self) -> Overview:
        """Return what is known."""
        async with self._lock:
            now_us = self._clock_us()
            last = self._newest
            if last is not None and now_us < self._tallied_us + _TALLIES_EVERY_US:
                return last
            is_due = last is None or now_us >= self._due_us
            async with self._store.snapshot() as snapshot:
                keys = {stream: await within(snapshot, stream, self._reach) for stream in Stream}
                some = [of_stream for of_stream in keys.values() if of_stream is not None]
                tallies = await snapshot.tallies(np.concatenate(some) if some else None)
                if last is None or is_due:
                    reported = {
                        stream: await snapshot.reported(stream, now_us, self._silent, keys[stream])
                        for stream in Stream
                    }
            if last is None or is_due:
                fleet = await self._fleet()
                pause_us = _PAUSE * (self._clock_us() - now_us)
                self._due_us = now_us + min(max(_DEVICES_EVERY_US, pause_us), _DEVICES_LONGEST_US)
            else:
                reported, fleet = last.reported, last.fleet
            self._tallied_us = now_us
            rate = self._rate(now_us, tallies.readings)
            self._newest = Overview(tallies, rate, reported, fleet)
            return self._newest

    def _rate(self, now_us: int, readings: int | None) -> float | None:
        """Return readings a second since the oldest count of the last minute."""
        if readings is None:
            return None
        counts = self._counts
        counts.append((now_us, readings))
        while counts[0][0] < now_us - _RATE_OVER_US:
            counts.popleft()
        first_us, first = counts[0]
        if now_us - first_us < MICRO:
            return None
        return (readings - first) * MICRO / (now_us - first_us)
