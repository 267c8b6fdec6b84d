"""What the store says of itself: how large it is, how busy, and where a flush's time went."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from wattstream.domain.readings import Stream
from wattstream.store.port import Stage
from wattstream.store.postgres.answers import PostgresSnapshot


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the database holds.

    Attributes:
        size_bytes: On disk, indexes included, log not.
        partitions: Days of history, by stream.
    """

    size_bytes: int
    partitions: Mapping[Stream, int]


@dataclass(frozen=True, slots=True)
class PoolState:
    """The connections that answer: how many are in use and not, and who waits for one."""

    busy: int
    idle: int
    waiting: int

    @classmethod
    def of(cls, stats: Mapping[str, int]) -> "PoolState":
        """Return it from the pool's own figures; those that are 0 may be absent."""
        size, idle = stats.get("pool_size", 0), stats.get("pool_available", 0)
        return cls(max(0, size - idle), idle, stats.get("requests_waiting", 0))


class FootprintSnapshot(PostgresSnapshot):
    """A view of the database's size."""

    async def footprint(self) -> Footprint:
        """Return how large the database is; it looks at every file, so not often."""
        (size_bytes,) = await self._one("footprint", "size", None)
        counts = dict(await self._all("footprint", "partitions", None))
        return Footprint(
            size_bytes, {stream: counts.get(f"{stream}_history", 0) for stream in Stream}
        )


class StageWatch:
    """The time of a flush, cut into stages, one after the other.

    Attributes:
        seconds: By stage; one that comes again is added.
    """

    def __init__(self) -> None:
        self.seconds: dict[Stage, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: Stage) -> None:
        """End a stage: what passed since the one before was spent in it."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
