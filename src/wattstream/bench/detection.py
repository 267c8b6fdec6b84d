"""Faults injected into a simulated fleet: how soon the watch alerts, and how often for nothing.

Readings go through the real store, and the real watch looks at it after each quarter-hour,
with the simulated time for a clock.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import psycopg

from wattstream.bench.sessions import Sessions
from wattstream.client.faults import FAULTS, Fault, choose
from wattstream.client.fleet import MINUTE_S, Fleet, Heartbeats, Manner
from wattstream.domain.alerts import AlertKind
from wattstream.domain.readings import Readings, Stream
from wattstream.domain.units import BUCKET_US, DAY_US, MICRO, Float64, Int64, to_micro, to_us
from wattstream.store.postgres import PostgresStore, migrate
from wattstream.watch import Watch

SEEDS = (1, 2, 3)
NOISE = 0.02
_HEARTBEAT_S = BUCKET_US // MICRO
_REPORT_MIN = 7  # of each quarter-hour: both sides fall into the same one
_SPREAD_S = 59
_HEARD_US = 8 * 60 * MICRO  # readings come in then, counted from the start of the quarter-hour
_LOOK_US = BUCKET_US + 150 * MICRO  # and the watch looks then, once the next one has begun
_EFFICIENCY = {AlertKind.LOW_EFFICIENCY, AlertKind.OVER_UNITY, AlertKind.EFFICIENCY_DRIFT}
_START_US = 20_240 * DAY_US


@dataclass(frozen=True, slots=True)
class Trial:
    """The size of a trial.

    Attributes:
        pairs: Vehicles, each with its meter.
        days: Simulated.
        faults: How many pairs get which fault.
        learning_days: Before the first fault; the last begins in time to be found.
    """

    pairs: int = 1000
    days: int = 30
    faults: Mapping[AlertKind, int] = None  # type: ignore[assignment]
    learning_days: int = 12


FULL = Trial(faults={AlertKind.EFFICIENCY_DRIFT: 25, AlertKind.LOW_EFFICIENCY: 25})
QUICK = Trial(200, 25, {AlertKind.EFFICIENCY_DRIFT: 10, AlertKind.LOW_EFFICIENCY: 10})


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
        if self.kind == "healthy":
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
