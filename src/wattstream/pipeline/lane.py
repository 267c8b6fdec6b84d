"""One lane per stream: group commit with a bounded queue."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import structlog

from wattstream.domain.errors import QueueFullError, StoreUnavailableError, WattstreamError
from wattstream.domain.readings import Readings, Row, Stream
from wattstream.domain.units import MICRO
from wattstream.pipeline.batcher import Batcher, Flush
from wattstream.stats import Stats
from wattstream.store.port import Progress, Stage, Store, Values, Written
from wattstream.traces import Traces

_NOT_TOLD = (
    "What became of the readings is not known; send the request again: nothing counts twice."
)
_LAG_SAMPLE = 1000  # rows, so that the middle one of a large flush costs nothing to find

_log = structlog.get_logger()


class Ticket(Protocol):
    """What waits for its rows of a flush."""

    def receive(self, start: int, stop: int, written: Written, offset: int) -> None:
        """Take rows of a flush: row `offset` of the flush is row `start` of the request."""

    def fail(self, error: WattstreamError) -> None:
        """Give up: some row was not committed."""


class _Request:
    """A request that waits for its pieces to be written."""

    def __init__(self, readings: Readings) -> None:
        self.done: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self.pieces = 0
        self._verdicts = np.zeros(len(readings), np.int8)
        self._standing: dict[int, Values] = {}
        self._refused: dict[int, tuple[str, str]] = {}

    def receive(self, start: int, stop: int, written: Written, offset: int) -> None:
        """Take rows of a flush: row `offset` of the flush is row `start` of the request."""
        size = stop - start
        self._verdicts[start:stop] = written.verdicts[offset : offset + size]
        for source, mine in ((written.standing, self._standing), (written.refused, self._refused)):
            for row, value in source.items():
                if offset <= row < offset + size:
                    mine[row - offset + start] = value  # type: ignore[assignment]
        self.pieces -= 1
        if self.pieces == 0 and not self.done.done():
            self.done.set_result(Written(self._verdicts, self._standing, self._refused))

    def fail(self, error: WattstreamError) -> None:
        """Give up: a piece was not committed."""
        if not self.done.done():
            self.done.set_exception(error)


class Lane:
    """Writes one stream, flush after flush; what arrives during one shares the next.

    The next is packed during the commit of the one before; where no other lane keeps the cores
    busy, from the middle of its transaction on.
    """

    def __init__(
        self,
        stream: Stream,
        store: Store,
        stats: Stats,
        clock_us: Callable[[], int],
        *,
        flush_readings: int,
        queue_readings: int,
        slow_flush_s: float,
        traces: Traces | None,
        is_alone: Callable[[], bool],
    ) -> None:
        """Make a lane.

        Args:
            stream: What it writes.
            store: Where to.
            stats: Counts what it does.
            clock_us: The time, microseconds.
            flush_readings: Most readings of a flush.
            queue_readings: How many may wait.
            slow_flush_s: A flush of so many seconds or more is explained in the log; 0: none.
            traces: Takes a span of each flush.
            is_alone: Whether no other lane writes.
        """
        self._stream = stream
        self._slow_flush_s = slow_flush_s
        self._traces = traces
        self._is_alone = is_alone
        self._store = store
        self._clock_us = clock_us
        self._queue_readings = queue_readings
        self._batcher: Batcher[Ticket] = Batcher(flush_readings)
        self._work = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._failures = stats.flush_failures.labels(stream)
        self._seconds = stats.flush_seconds.labels(stream)
        self._stages = {stage: stats.flush_stage_seconds.labels(stream, stage) for stage in Stage}
        self._newest_lag = stats.lag_seconds.labels(stream, "newest")
        self._middle_lag = stats.lag_seconds.labels(stream, "middle")
        self._sizes = stats.flush_readings.labels(stream)
        self._waiting = stats.queue.labels(stream)
        self._waiting.set(0)

    @property
    def is_full(self) -> bool:
        """Whether the queue is at its bound."""
        return self._batcher.waiting >= self._queue_readings

    @property
    def is_writing(self) -> bool:
        """Whether a flush is under way."""
        return bool(self._under_way)

    async def write(self, readings: Readings) -> Written:
        """Queue readings, at least one, and return once they are committed.

        Raises:
            QueueFullError: Too many readings wait already.
            StoreUnavailableError: They were not committed; some pieces may be.
        """
        self._refuse_if_full()
        request = _Request(readings)
        request.pieces = self._batcher.add(request, readings)
        self._waiting.set(self._batcher.waiting)
        self._work.set()
        return await request.done

    def queue_row(self, row: Row, ticket: Ticket) -> None:
        """Queue one reading; `ticket` is told once what became of it.

        Raises:
            QueueFullError: Too many readings wait already.
        """
        self._refuse_if_full()
        self._batcher.add_row(ticket, row)
        self._waiting.set(self._batcher.waiting)
        self._work.set()

    def _refuse_if_full(self) -> None:
        if self.is_full:
            raise QueueFullError(
                f"More than {self._queue_readings} {self._stream} readings wait for their commit, "
                "so this request was not taken whole. Send it again later; nothing counts twice."
            )

    async def run(self) -> None:
        """Write what is queued until `stop`, then what is still there, and return."""
        while True:
            flush = self._batcher.take()
            if flush is not None:
                self._waiting.set(self._batcher.waiting)
                is_next = asyncio.Event()
                task = asyncio.create_task(self._write(flush, is_next))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
                await is_next.wait()
            elif self._stopping:
                await asyncio.gather(*self._under_way)
                return
            else:
                self._work.clear()
                await self._work.wait()

    def stop(self) -> None:
        """Let `run` return once the queue is empty."""
        self._stopping = True
        self._work.set()

    async def _write(self, flush: Flush[Ticket], is_next: asyncio.Event) -> None:
        """Write a flush, and say when the next may be taken: the later, the larger it is."""

        def take_next(progress: Progress) -> None:
            if progress is Progress.SENT or self._is_alone():
                is_next.set()

        readings = flush.readings()
        started = time.perf_counter()
        try:
            written = await self._store.write(readings, self._clock_us(), take_next)
        except WattstreamError as error:
            self._fail(flush, error)
            self._trace(readings, started, None)
            return
        except Exception:  # noqa: BLE001 - a bug must fail its requests, not stop the lane
            _log.exception("Flush failed", stream=self._stream, readings=len(readings))
            self._fail(flush, StoreUnavailableError("The flush failed; send the request again."))
            self._trace(readings, started, None)
            return
        finally:
            is_next.set()
        self._observe(readings, written, time.perf_counter() - started)
        offset = 0
        for piece in flush.pieces:
            try:
                piece.ticket.receive(piece.start, piece.start + piece.size, written, offset)
            except Exception:  # noqa: BLE001 - a bug must fail its request, not those behind it
                _log.exception("A verdict was not taken", stream=self._stream)
                self._give_up(piece.ticket, StoreUnavailableError(_NOT_TOLD))
            offset += piece.size
        self._trace(readings, started, written)

    def _trace(self, readings: Readings, started: float, written: Written | None) -> None:
        """Make the span of a flush; None: it failed."""
        if self._traces is None:
            return
        facts: dict[str, str | int | float] = {
            "stream": self._stream.value,
            "readings": len(readings),
        }
        if written is not None:
            facts["late"] = written.late
            facts |= {f"{stage}_s": stage_s for stage, stage_s in written.stage_s.items()}
        end_ns = time.time_ns()
        start_ns = end_ns - int((time.perf_counter() - started) * 1e9)
        self._traces.flush(facts, start_ns, end_ns, failed=written is None)

    def _observe(self, readings: Readings, written: Written, seconds: float) -> None:
        """Count a committed flush, and explain a slow one."""
        self._seconds.observe(seconds)
        self._sizes.observe(len(readings))
        for stage, stage_s in written.stage_s.items():
            self._stages[stage].observe(stage_s)
        now_us = self._clock_us()
        some = readings.at_us[:: len(readings) // _LAG_SAMPLE + 1]
        middle = np.partition(some, len(some) // 2)[len(some) // 2]
        # A device whose clock is ahead has no lag; a sum that falls would be no counter.
        self._newest_lag.observe(max(0.0, (now_us - readings.at_us.max()) / MICRO))
        self._middle_lag.observe(max(0.0, (now_us - middle) / MICRO))
        if 0 < self._slow_flush_s <= seconds:
            _log.warning(
                "Slow flush; nothing is lost",
                stream=self._stream.value,
                seconds=round(seconds, 3),
                **{f"{stage}_s": round(stage_s, 3) for stage, stage_s in written.stage_s.items()},
                readings=len(readings),
                late=written.late,
                waiting=self._batcher.waiting,
            )

    def _fail(self, flush: Flush[Ticket], error: WattstreamError) -> None:
        self._failures.inc()
        for piece in flush.pieces:
            self._give_up(piece.ticket, error)

    def _give_up(self, ticket: Ticket, error: WattstreamError) -> None:
        try:
            ticket.fail(error)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("A failure was not taken", stream=self._stream)
