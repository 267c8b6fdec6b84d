"""Decoded requests to committed readings and a verdict for every record."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from wattstream.caller import caller
from wattstream.decode.json import Decoded, Part
from wattstream.domain.readings import KINDS, Conflict, Readings, Rejection, Row, Stream, from_rows
from wattstream.domain.units import exact, kwh, rfc3339
from wattstream.pipeline.lane import Lane
from wattstream.stats import Stats
from wattstream.store.port import Store, Values, Verdict, Written
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
            rejections += _rejections(part, outcome, decoded.record)
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
        written = await self._lanes[row.stream].write_row(row)
        self._received.inc()
        verdict = written.verdicts.item(0)
        if verdict == Verdict.STORED:
            self._stored[row.stream].inc()
            return True
        if verdict == Verdict.DUPLICATE:
            self._duplicates[row.stream].inc()
            return False
        part = Part(from_rows([row]), np.zeros(1, np.int64))
        (rejection,) = _rejections(part, written, lambda _: record)
        await self._store.keep([rejection], self._clock_us(), caller().prefix)
        self._stats.rejected.labels(rejection.code).inc()
        return rejection

    async def keep(self, rejection: Rejection) -> None:
        """Keep a request that holds no reading at all, and count it."""
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


def _rejections(part: Part, written: Written, record: Callable[[int], bytes]) -> list[Rejection]:
    readings = part.readings
    found = {row: _conflict(readings, row, standing) for row, standing in written.standing.items()}
    found |= {row: (*reason, None, None) for row, reason in written.refused.items()}
    return [
        Rejection(
            index := int(part.index[row]),
            code,
            message,
            field,
            record(index),
            readings.stream,
            readings.ids[row],
            conflict,
        )
        for row, (code, message, field, conflict) in found.items()
    ]


def _conflict(
    readings: Readings, row: int, standing: Values
) -> tuple[str, str, str | None, Conflict | None]:
    sent = Values(int(readings.energy_ukwh[row]), tuple(readings.values[row].tolist()))
    both = Conflict(_by_key(readings.stream, standing), _by_key(readings.stream, sent))
    return (
        "conflict",
        f"{readings.stream} {readings.ids[row]} already has other values at "
        f"{rfc3339(int(readings.at_us[row]))}: kept {_described(both.kept)}, "
        f"got {_described(both.got)}",
        "timestamp",
        both,
    )


def _by_key(stream: Stream, values: Values) -> dict[str, float | None]:
    kind = KINDS[stream]
    fields = zip(kind.fields, values.fields, strict=True)
    return {kind.energy_key: kwh(values.energy_ukwh)} | {
        field.key: None if np.isnan(value) else value for field, value in fields
    }


def _described(values: dict[str, float | None]) -> str:
    return ", ".join(
        f"{key} {'absent' if value is None else exact(value)}" for key, value in values.items()
    )
