"""Decoded requests to committed readings and a verdict for every record."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from wattstream.caller import caller
from wattstream.decode.json import Decoded, Part
from wattstream.domain.errors import WattstreamError
from wattstream.domain.readings import Rejection, Row, Stream
from wattstream.pipeline.lane import Lane
from wattstream.pipeline.single import Single
from wattstream.pipeline.verdicts import rejections_of
from wattstream.stats import Stats
from wattstream.store.port import Store, Verdict, Written
from wattstream.traces import Traces


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a request; received = stored + duplicates + rejected.

    Attributes:
        rejections: Every refused record, by index.
    """

    received: int
    stored: int
    duplicates: int
    rejections: list[Rejection]


class _Awaited(Single):
    """One that a task waits for."""

    __slots__ = ("done",)

    def __init__(self, row: Row, record: bytes) -> None:
        super().__init__(row, record)
        self.done: asyncio.Future[bool | Rejection] = asyncio.get_running_loop().create_future()

    def settle(self, *, is_stored: bool) -> None:
        if not self.done.done():
            self.done.set_result(is_stored)

    def reject(self, rejection: Rejection) -> None:
        if not self.done.done():
            self.done.set_result(rejection)

    def fail(self, error: WattstreamError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Ingest:
    """The way in: two lanes and a keeper of what is refused."""

    def __init__(
        self,
        store: Store,
        stats: Stats,
        clock_us: Callable[[], int],
        *,
        flush_readings: int,
        queue_readings: int,
        slow_flush_s: float,
        traces: Traces | None = None,
    ) -> None:
        self._store = store
        self._stats = stats
        self._clock_us = clock_us
        # A label is looked up once, not with every reading.
        self._received = stats.received
        self._stored = {stream: stats.stored.labels(stream) for stream in Stream}
        self._duplicates = {stream: stats.duplicates.labels(stream) for stream in Stream}
        self._lanes = {
            stream: Lane(
                stream,
                store,
                stats,
                clock_us,
                flush_readings=flush_readings,
                queue_readings=queue_readings,
                slow_flush_s=slow_flush_s,
                traces=traces,
                is_alone=partial(self._is_alone, stream),
            )
            for stream in Stream
        }

    @property
    def is_full(self) -> bool:
        """Whether some lane's queue is at its bound."""
        return any(lane.is_full for lane in self._lanes.values())

    def _is_alone(self, stream: Stream) -> bool:
        return not any(lane.is_writing for other, lane in self._lanes.items() if other != stream)

    async def run(self) -> None:
        """Write until `stop`, then finish what is queued."""
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes.values():
                tasks.create_task(lane.run())

    def stop(self) -> None:
        """Let `run` return once everything queued is committed."""
        for lane in self._lanes.values():
            lane.stop()

    async def write(self, decoded: Decoded) -> Report:
        """Write a request; return once it is committed and its refusals are kept.

        Raises:
            RetryLaterError: Nothing may be taken as acknowledged; the request may be sent
                again, and nothing is counted twice.
        """
        parts = decoded.parts
        writes = [self._lanes[part.readings.stream].write(part.readings) for part in parts]
        written = [await writes[0]] if len(writes) == 1 else await asyncio.gather(*writes)
        rejections = list(decoded.rejections)
        for part, outcome in zip(parts, written, strict=True):
            rejections += rejections_of(part, outcome, decoded.record)
        rejections.sort(key=lambda rejection: rejection.index)
        if rejections:
            await self._store.keep(rejections, self._clock_us(), caller().prefix)
        return self._count(decoded.received, parts, written, rejections)

    async def write_row(self, row: Row, record: bytes) -> bool | Rejection:
        """Write one reading that came alone; return once it is committed, or refused and kept.

        Returns:
            Whether it was stored, and not a duplicate; or why it was refused.

        Raises:
            RetryLaterError: As for `write`.
        """
        single = _Awaited(row, record)
        self.queue_row(single)
        outcome = await single.done
        if isinstance(outcome, Rejection):
            await self.keep(outcome)
        else:
            self.count_rows(row.stream, 1, is_stored=outcome)
        return outcome

    def has_room(self, stream: Stream) -> bool:
        """Whether a reading of a stream would be taken now."""
        return not self._lanes[stream].is_full

    def queue_row(self, single: Single) -> None:
        """Queue one reading; it is told what became of it, and is to be counted or kept then.

        Raises:
            QueueFullError: Too many readings wait already.
        """
        self._lanes[single.row.stream].queue_row(single.row, single)

    def count_rows(self, stream: Stream, count: int, *, is_stored: bool) -> None:
        """Count readings that came alone and were all stored, or all duplicates."""
        (self._stored if is_stored else self._duplicates)[stream].inc(count)
        self._received.inc(count)

    async def keep(self, rejection: Rejection) -> None:
        """Keep the one record of a request, or what is none at all, and count it."""
        await self._store.keep([rejection], self._clock_us(), caller().prefix)
        self._count(1, [], [], [rejection])

    def _count(
        self,
        received: int,
        parts: list[Part],
        written: list[Written],
        rejections: list[Rejection],
    ) -> Report:
        stored = duplicates = 0
        for part, outcome in zip(parts, written, strict=True):
            by_verdict = np.bincount(outcome.verdicts, minlength=len(Verdict)).tolist()
            self._stored[part.readings.stream].inc(by_verdict[Verdict.STORED])
            self._duplicates[part.readings.stream].inc(by_verdict[Verdict.DUPLICATE])
            stored += by_verdict[Verdict.STORED]
            duplicates += by_verdict[Verdict.DUPLICATE]
        for code, count in Counter(rejection.code for rejection in rejections).items():
            self._stats.rejected.labels(code).inc(count)
        self._received.inc(received)
        return Report(received, stored, duplicates, rejections)
