"""When a lane takes its next flush."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from oracle import MemoryStore
from wattstream.decode.json import Decoded, Part
from wattstream.domain.errors import StoreUnavailableError, WattstreamError
from wattstream.domain.readings import KINDS, Readings, Rejection, Row, Stream
from wattstream.pipeline.ingest import Ingest
from wattstream.pipeline.single import Single
from wattstream.stats import Stats
from wattstream.store.port import Progress, Written

NOW_US = 1_770_631_200_000_000


class SteppedStore(MemoryStore):
    """Holds the first flush of a stream in its middle and before its commit, until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[Stream, int]] = []
        self.may_send, self.may_commit = asyncio.Event(), asyncio.Event()
        self._turn = {stream: asyncio.Lock() for stream in Stream}

    async def write(
        self,
        readings: Readings,
        received_at_us: int,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Written:
        assert on_progress is not None
        self.begun.append((readings.stream, len(readings)))
        async with self._turn[readings.stream]:
            on_progress(Progress.HALF)
            await self.may_send.wait()
            on_progress(Progress.SENT)
            await self.may_commit.wait()
            return await super().write(readings, received_at_us)


def request(stream: Stream, device: str, n: int = 1) -> Decoded:
    values = np.full((n, len(KINDS[stream].fields)), 20.0)
    at_us = NOW_US + np.arange(n) * 60_000_000
    readings = Readings(stream, [device] * n, at_us, np.ones(n, np.int64), values)
    return Decoded(n, [Part(readings, np.arange(n))], [], lambda _: b"")


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def flushes(streams: list[Stream]) -> list[list[tuple[Stream, int]]]:
    """Send a reading of each stream, then twice two of the first.

    Returns:
        The flushes begun while those of the first readings are in the middle of their
        transactions, before their commits, and in all.
    """
    store = SteppedStore()
    ingest = Ingest(
        store, Stats(), lambda: NOW_US, flush_readings=100, queue_readings=1000, slow_flush_s=0
    )
    running = asyncio.create_task(ingest.run())
    requests = [request(stream, "A") for stream in streams]
    writes = [asyncio.create_task(ingest.write(one)) for one in requests]
    await settled()
    for device in ("B", "C"):
        requests.append(request(streams[0], device, 2))
        writes.append(asyncio.create_task(ingest.write(requests[-1])))
        await settled()
    begun = [store.begun.copy()]
    for step in (store.may_send, store.may_commit):
        step.set()
        await settled()
        begun.append(store.begun.copy())
    reports = await asyncio.gather(*writes)
    assert [report.stored for report in reports] == [one.received for one in requests]
    ingest.stop()
    await running
    return begun


def test_beside_another_lane_the_next_flush_is_taken_before_the_commit() -> None:
    meter, vehicle = Stream.METER, Stream.VEHICLE
    first = [(meter, 1), (vehicle, 1)]
    assert asyncio.run(flushes([meter, vehicle])) == [
        first,
        [*first, (meter, 4)],
        [*first, (meter, 4)],
    ]


def test_alone_a_lane_takes_its_next_flush_in_the_middle_of_the_transaction() -> None:
    meter = Stream.METER
    assert asyncio.run(flushes([meter])) == [
        [(meter, 1), (meter, 2)],
        [(meter, 1), (meter, 2)],
        [(meter, 1), (meter, 2), (meter, 2)],
    ]


class Told(Single):
    """Remembers what becomes of it; it may be one that raises."""

    def __init__(self, device: str, *, raises: bool = False) -> None:
        super().__init__(Row(Stream.METER, device, NOW_US, 1, (20.0,)), b"{}")
        self.told: list[object] = []
        self._raises = raises

    def settle(self, *, is_stored: bool) -> None:
        self._take(is_stored)

    def reject(self, rejection: Rejection) -> None:
        self._take(rejection)

    def fail(self, error: WattstreamError) -> None:
        self._take(error)

    def _take(self, told: object) -> None:
        self.told.append(told)
        if self._raises:
            raise RuntimeError("a bug")


@pytest.mark.parametrize("fails", [False, True])
def test_a_bug_with_one_reading_keeps_nothing_from_the_others(*, fails: bool) -> None:
    async def main() -> list[list[object]]:
        store = MemoryStore()
        if fails:
            store.write = failing  # type: ignore[method-assign]
        ingest = Ingest(
            store, Stats(), lambda: NOW_US, flush_readings=9, queue_readings=9, slow_flush_s=0
        )
        singles = [Told("A"), Told("B", raises=True), Told("C")]
        for single in singles:
            ingest.queue_row(single)
        running = asyncio.create_task(ingest.run())
        await settled()
        ingest.stop()
        await running
        return [single.told for single in singles]

    async def failing(*_: object) -> Written:
        raise StoreUnavailableError("away")

    first, second, third = asyncio.run(main())
    if fails:
        kinds = [[type(told) for told in each] for each in (first, second, third)]
        assert kinds == [[StoreUnavailableError]] * 3
    else:
        assert (first, third) == ([True], [True])
        assert second[0] is True
        assert isinstance(second[1], StoreUnavailableError)
        assert len(second) == 2
