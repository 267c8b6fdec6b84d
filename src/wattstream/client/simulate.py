"""The simulated fleet's readings, as batches: first the past, then live."""

import asyncio
import heapq
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import compress

import msgspec
import numpy as np

from wattstream.client.fleet import MINUTE_S, Fleet, Heartbeats
from wattstream.client.sender import Batch
from wattstream.domain.alerts import AlertKind
from wattstream.domain.units import Int64, rfc3339

_LATE, _AGAIN = 1, 2
_LONGEST_DELAY_MIN = 180


class _Meter(msgspec.Struct):
    meterId: str
    kwhConsumedAc: float
    voltage: float
    timestamp: str


class _Vehicle(msgspec.Struct):
    vehicleId: str
    kwhDeliveredDc: float
    soc: float
    batteryTemp: float
    timestamp: str


Record = _Meter | _Vehicle


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated.

    Attributes:
        backfill_min: Minutes before now that are sent first.
        duration_s: Seconds of live heartbeats after that; None: until stopped.
        speed: Simulated seconds a second while in the past; None: as fast as possible.
        late_share: Heartbeats held back for up to three hours.
        duplicate_share: Heartbeats sent a second time, up to three hours later.
        out_of_order_share: Heartbeats that change places within their batch.
        batch: Readings a request.
        single: One reading a request.
    """

    backfill_min: int = 0
    duration_s: float | None = None
    speed: float | None = None
    late_share: float = 0.0
    duplicate_share: float = 0.0
    out_of_order_share: float = 0.0
    batch: int = 5000
    single: bool = False


class Simulation:
    """A fleet that reports; the set of distinct readings depends on the fleet alone."""

    def __init__(self, fleet: Fleet, plan: Plan, prefix: str, seed: int) -> None:
        self._fleet = fleet
        self._plan = plan
        self._ids = [f"{prefix}{number:06d}" for number in range(1, fleet.pairs + 1)]
        self._all = np.arange(fleet.pairs)
        self._shuffle = random.Random(seed)  # noqa: S311 - a simulation repeats
        self._held: list[tuple[int, int, Record]] = []
        self._count = 0

    @property
    def backfill_readings(self) -> int:
        """How many distinct readings the past holds where none is left out."""
        return 2 * self._fleet.pairs * self._plan.backfill_min

    def truth(self) -> Iterator[dict[str, object]]:
        """Yield what is wrong with which devices: faults from a time on, and since always."""
        for fault in self._fleet.faults:
            yield fault.as_json(self._ids[fault.pair])
        for pair in np.flatnonzero(self._fleet.is_faulty).tolist():
            name, value = self._ids[pair], round(float(self._fleet.efficiency[pair]), 4)
            yield {
                "kind": AlertKind.LOW_EFFICIENCY.value,
                "meterId": name,
                "vehicleId": name,
                "begins": None,
                "efficiency": value,
            }

    async def batches(self, now_s: float) -> AsyncIterator[Batch]:
        """Yield the past up to a time, what was held back, then live heartbeats."""
        plan = self._plan
        last = int(now_s) // MINUTE_S
        first = last - plan.backfill_min
        started = time.monotonic()
        pending: list[Record] = []
        for minute in range(first, last):
            pending += self._minute(minute, self._all)
            while len(pending) >= plan.batch:
                for batch in self._requests(pending[: plan.batch]):
                    yield batch
                del pending[: plan.batch]
            if plan.speed is not None:
                due = started + (minute + 1 - first) * MINUTE_S / plan.speed
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        pending += self._release(None)
        for batch in self._requests(pending):
            yield batch
        if plan.duration_s != 0:
            async for batch in self._live(last * MINUTE_S):
                yield batch

    async def _live(self, second: int) -> AsyncIterator[Batch]:
        """Yield each second's heartbeats when their second has come, from a given second on."""
        end = None if self._plan.duration_s is None else time.time() + self._plan.duration_s
        while end is None or second < end:
            await asyncio.sleep(max(0.0, second - time.time()))
            minute, offset_s = divmod(second, MINUTE_S)
            due = np.flatnonzero(self._fleet.offset_s == offset_s)
            for batch in self._requests(self._minute(minute, due)):
                yield batch
            second += 1
        for batch in self._requests(self._release(None)):
            yield batch

    def _minute(self, minute: int, pairs: Int64) -> list[Record]:
        """Return what is sent in a minute: its own readings and those held back till then."""
        beats = self._fleet.heartbeats(pairs, minute)
        records = self._records(beats)
        is_sent = np.column_stack([np.ones(len(pairs), np.bool_), beats.is_vehicle_sent]).ravel()
        plan, fleet = self._plan, self._fleet
        if plan.late_share or plan.duplicate_share:
            delay = 1 + fleet.chance(pairs, minute, 0) * _LONGEST_DELAY_MIN
            late = fleet.chance(pairs, minute, _LATE) < plan.late_share
            again = fleet.chance(pairs, minute, _AGAIN) < plan.duplicate_share
            for row in np.flatnonzero(late | again).tolist():
                for place in (2 * row, 2 * row + 1):
                    if is_sent[place]:
                        self._hold(minute + int(delay[row]), records[place])
            is_sent &= np.repeat(~late, 2)
        if not is_sent.all():
            records = list(compress(records, is_sent.tolist()))
        return records + self._release(minute)

    def _hold(self, until_minute: int, record: Record) -> None:
        self._count += 1
        heapq.heappush(self._held, (until_minute, self._count, record))

    def _release(self, minute: int | None) -> list[Record]:
        """Return what was held back until a minute; None: all of it."""
        released = []
        while self._held and (minute is None or self._held[0][0] <= minute):
            released.append(heapq.heappop(self._held)[2])
        return released

    def _records(self, beats: Heartbeats) -> list[Record]:
        """Return meter and vehicle of each pair, one after the other."""
        names = [self._ids[pair] for pair in beats.pair.tolist()]
        meters = map(
            _Meter,
            names,
            beats.ac_kwh.tolist(),
            beats.voltage_v.tolist(),
            _texts(beats.meter_at_us),
        )
        vehicles = map(
            _Vehicle,
            names,
            beats.dc_kwh.tolist(),
            beats.soc_percent.tolist(),
            beats.temp_c.tolist(),
            _texts(beats.vehicle_at_us),
        )
        return [record for pair in zip(meters, vehicles, strict=True) for record in pair]

    def _requests(self, records: list[Record]) -> Iterator[Batch]:
        self._disorder(records)
        if self._plan.single:
            for record in records:
                yield Batch(msgspec.json.encode(record), 1, "/v1/ingest")
            return
        for start in range(0, len(records), self._plan.batch):
            part = records[start : start + self._plan.batch]
            yield Batch(msgspec.json.encode(part), len(part))

    def _disorder(self, records: list[Record]) -> None:
        """Let a share of the records change places."""
        count = int(len(records) * self._plan.out_of_order_share)
        rows = self._shuffle.sample(range(len(records)), count)
        moved = [records[row] for row in rows]
        self._shuffle.shuffle(moved)
        for row, record in zip(rows, moved, strict=True):
            records[row] = record


def _texts(at_us: Int64) -> list[str]:
    """Return times as RFC 3339, each different one written once."""
    unique, where = np.unique(at_us, return_inverse=True)
    texts = [rfc3339(at) for at in unique.tolist()]
    return [texts[i] for i in where.tolist()]
