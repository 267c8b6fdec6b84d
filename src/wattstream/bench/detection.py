"""Faults injected into a simulated fleet: how soon the watch alerts, and how often for nothing.

Readings go through the real store, and the real watch looks at it after each quarter-hour,
with the simulated time for a clock.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import psycopg

from wattstream.bench.sessions import Sessions
from wattstream.client.faults import Fault, choose
from wattstream.client.fleet import MINUTE_S, Fleet, Heartbeats, Manner
from wattstream.domain.alerts import AlertKind
from wattstream.domain.readings import Readings, Stream
from wattstream.domain.units import BUCKET_US, DAY_US, HOUR_US, MICRO, to_micro, to_us
from wattstream.store.postgres import PostgresStore, migrate
from wattstream.watch import Watch

SEEDS = (1, 2, 3)
HEALTHY = "healthy"
"""Kind of the score that counts false alarms."""
NOISE = 0.02
_HEARTBEAT_S = BUCKET_US // MICRO
_REPORT_MIN = 7  # of each quarter-hour: both sides fall into the same one
_SPREAD_S = 59
_HEARD_US = 8 * 60 * MICRO  # readings come in then, counted from the start of the quarter-hour
_LOOK_US = BUCKET_US + 150 * MICRO  # and the watch looks then, once the next one has begun
_EFFICIENCY = {AlertKind.LOW_EFFICIENCY, AlertKind.OVER_UNITY, AlertKind.EFFICIENCY_DRIFT}
_FIND_DAYS = 10  # in which a drift has to be found
_MOST_FALSE = 2
_START_US = 20_240 * DAY_US + 12 * HOUR_US  # the simulated vehicles' days begin at noon


_SET_HEARTBEATS = "UPDATE {stream}_live SET heartbeat_s = %s, version = version + 1"


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a trial.

    Attributes:
        pairs: Vehicles, each with its meter.
        days: Simulated.
        faults: How many pairs get which fault.
        learning_days: Before the first fault.
        last_days: From the beginning of the last one to the end, at least.
    """

    pairs: int
    days: int
    faults: Mapping[AlertKind, int]
    learning_days: int = 12
    last_days: int = _FIND_DAYS


FULL = Size(1000, 30, {AlertKind.EFFICIENCY_DRIFT: 30, AlertKind.LOW_EFFICIENCY: 20})
QUICK = Size(200, 25, {AlertKind.EFFICIENCY_DRIFT: 10, AlertKind.LOW_EFFICIENCY: 10})


@dataclass(frozen=True, slots=True)
class Score:
    """How faults of a kind were found, or what was found among the healthy.

    Attributes:
        seed: Of the fleet.
        kind: Of the fault; `healthy` for false alarms.
        cases: Pairs with the fault, or without any.
        found: Alerted in time; for the healthy: alerts.
        wanted: At least so many found; for the healthy: at most.
        median_days: From its beginning to the alert.
        note: What stands out.
    """

    seed: int
    kind: str
    cases: int
    found: int
    wanted: int
    median_days: float | None
    note: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the score is as good as wanted."""
        if self.kind == HEALTHY:
            return self.found <= self.wanted
        return self.found >= self.wanted

    def as_json(self) -> dict[str, object]:
        """Return the score as JSON has it."""
        return {"part": "detection", **asdict(self), "is_met": self.is_met}


@dataclass(frozen=True, slots=True)
class _Alert:
    kind: AlertKind
    pair: int
    opened_us: int


def measure_detection(
    conninfo: str, size: Size, seeds: Sequence[int], on_score: Callable[[Score], None]
) -> None:
    """Run a trial for each seed, each in a database of its own.

    Args:
        conninfo: A server whose role may make databases.
        size: Of each trial.
        seeds: Of the fleets, their faults and the noise.
        on_score: Called with each result as it comes.
    """
    for seed in seeds:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS wattstream_detection")
            connection.execute("CREATE DATABASE wattstream_detection")
            # Nothing is timed here, so nothing has to wait for the disk.
            connection.execute("ALTER DATABASE wattstream_detection SET synchronous_commit = off")
        database = psycopg.conninfo.make_conninfo(conninfo, dbname="wattstream_detection")
        migrate(database)
        trial = _Trial(size, seed)
        asyncio.run(trial.run(database))
        for score in trial.scores(database):
            on_score(score)


def description() -> str:
    """Return how a trial measures, for people."""
    return (
        f"a heartbeat every {_HEARTBEAT_S // MINUTE_S} minutes, efficiency with {NOISE:.0%} of "
        "noise a quarter-hour, and 1 % more a heartbeat"
    )


class _Trial:
    """One fleet over its days."""

    def __init__(self, size: Size, seed: int) -> None:
        self._size, self._seed = size, seed
        first, last = size.learning_days, size.days - size.last_days
        self._faults = choose(
            size.pairs, size.faults, seed, _START_US + first * DAY_US, _START_US + last * DAY_US
        )
        self._fleet = Fleet(
            size.pairs,
            seed=seed,
            faulty_share=0,
            faults=self._faults,
            manner=Manner(_HEARTBEAT_S, NOISE, _SPREAD_S),
        )
        self._ids = [f"D{pair:06d}" for pair in range(size.pairs)]
        self._sessions = Sessions()

    async def run(self, conninfo: str) -> None:
        """Let the days pass: readings come in, the watch looks."""
        store = PostgresStore(conninfo, read_connections=2)
        await store.open()
        watch = Watch(store.alerts)
        everyone = np.arange(self._size.pairs)
        try:
            for bucket_us in range(_START_US, _START_US + self._size.days * DAY_US, BUCKET_US):
                minute = bucket_us // (MINUTE_S * MICRO) + _REPORT_MIN
                beats = self._fleet.heartbeats(everyone, minute)
                await self._send(store, beats, bucket_us + _HEARD_US)
                if bucket_us == _START_US:
                    _set_heartbeats(conninfo)
                self._sessions.add(bucket_us, to_micro(beats.dc_kwh))
                await watch.look(bucket_us + _LOOK_US)
        finally:
            await store.close()

    async def _send(self, store: PostgresStore, beats: Heartbeats, received_us: int) -> None:
        meters = Readings(
            Stream.METER,
            self._ids,
            beats.meter_at_us,
            to_micro(beats.ac_kwh),
            np.column_stack([beats.voltage_v]),
        )
        vehicles = Readings(
            Stream.VEHICLE,
            self._ids,
            beats.vehicle_at_us,
            to_micro(beats.dc_kwh),
            np.column_stack([beats.soc_percent, beats.temp_c]),
        )
        await asyncio.gather(*(store.write(sent, received_us) for sent in (meters, vehicles)))

    def scores(self, conninfo: str) -> Iterator[Score]:
        """Yield a score for each kind of fault, and one for the healthy."""
        alerts = _alerts(conninfo)
        begins = {fault.pair: fault.begins_us for fault in self._faults}
        for kind in self._size.faults:
            yield self._score(kind, [a for a in alerts if a.kind in _EFFICIENCY])
        false = [a for a in alerts if a.pair not in begins or a.opened_us < begins[a.pair]]
        kinds = Counter(alert.kind.value for alert in false)
        yield Score(
            self._seed,
            HEALTHY,
            self._size.pairs - len(begins),
            len(false),
            _MOST_FALSE,
            None,
            ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            or f"at least {self._sessions.least_a_day():.1f} sessions a day each",
        )

    def _score(self, kind: AlertKind, alerts: list[_Alert]) -> Score:
        faults = [fault for fault in self._faults if fault.kind == kind]
        delays = []
        for fault in faults:
            until_us = self._until_us(fault)
            opened = [a.opened_us for a in alerts if a.pair == fault.pair]
            in_time = [at for at in opened if fault.begins_us <= at <= until_us]
            if in_time:
                delays.append((min(in_time) - fault.begins_us) / DAY_US)
        wanted = len(faults) if kind is AlertKind.LOW_EFFICIENCY else -(-9 * len(faults) // 10)
        median = float(np.median(delays)) if delays else None
        note = f"the last after {max(delays):.1f} days" if delays else ""
        return Score(self._seed, kind.value, len(faults), len(delays), wanted, median, note)

    def _until_us(self, fault: Fault) -> int:
        """Return until when an alert about a fault is in time: the look that sees its limit."""
        if fault.kind is AlertKind.EFFICIENCY_DRIFT:
            return fault.begins_us + _FIND_DAYS * DAY_US
        end_us = self._sessions.end_us(fault.pair, fault.begins_us, 2)
        assert end_us is not None  # noqa: S101 - ten days are left, with a session each
        return end_us + _LOOK_US


def _set_heartbeats(conninfo: str) -> None:
    with psycopg.connect(conninfo) as connection:
        for stream in Stream:
            statement = _SET_HEARTBEATS.format(stream=stream)
            connection.execute(statement.encode(), [_HEARTBEAT_S])


def _alerts(conninfo: str) -> list[_Alert]:
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "SELECT kind, external_id, opened_at FROM alerts JOIN devices USING (device_id)"
        ).fetchall()
    return [_Alert(AlertKind(kind), int(name[1:]), to_us(at)) for kind, name, at in rows]
