"""Faults that a simulated fleet is given, and the truth about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wattstream.client.chance import uniform
from wattstream.domain.alerts import AlertKind
from wattstream.domain.units import DAY_US, Bool, Float64, Int64, rfc3339

FAULTS: Mapping[AlertKind, Mapping[str, float]] = {
    AlertKind.LOW_EFFICIENCY: {"points": 15},
    AlertKind.EFFICIENCY_DRIFT: {"points": 3, "days": 10},
    AlertKind.OVER_UNITY: {"efficiency": 1.1},
    AlertKind.FROZEN_METER: {},
    AlertKind.SILENT: {},
    AlertKind.BATTERY_HOT: {"temperatureC": 62},
    AlertKind.CLOCK_OFFSET: {"offsetSeconds": -1200},
}
"""What a pair can be given, with how bad it is.

A sudden loss of points of efficiency; a loss that grows to so many points over so many days
and stays; a meter that shows too little; one that shows nothing; a vehicle that sends nothing;
a hot battery; a vehicle's clock that is behind.
"""

_WHICH, _WHEN = 20, 21  # purposes of chance


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a pair from a time on.

    Attributes:
        kind: A key of FAULTS.
        pair: Number of the pair, from 0.
        begins_us: Microseconds.
    """

    kind: AlertKind
    pair: int
    begins_us: int

    def as_json(self, device: str) -> dict[str, object]:
        """Return a line of the truth; both sides of the pair report this id."""
        return {
            "kind": self.kind.value,
            "meterId": device,
            "vehicleId": device,
            "begins": rfc3339(self.begins_us),
            **FAULTS[self.kind],
        }


def choose(
    pairs: int, wanted: Mapping[AlertKind, int], seed: int, first_us: int, last_us: int
) -> list[Fault]:
    """Give some pairs a fault each, beginning at random times in [first_us, last_us).

    Args:
        pairs: How many there are; at least as many as faults.
        wanted: How many pairs get which fault.
        seed: The same seed, the same pairs and times.
        first_us: Where the range of times begins, microseconds.
        last_us: Where it ends.
    """
    everyone = np.arange(pairs)
    order = np.argsort(uniform(seed, everyone, _WHICH), kind="stable").tolist()
    kinds = [kind for kind, count in wanted.items() for _ in range(count)]
    when = uniform(seed, everyone, _WHEN).tolist()
    return [
        Fault(kind, pair, first_us + int(when[pair] * (last_us - first_us)))
        for kind, pair in zip(kinds, order, strict=False)
    ]


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults as columns, a row a pair; at most one each.

    Attributes:
        pairs: How many pairs there are.
        given: The faults.
    """

    pairs: int
    given: Sequence[Fault] = ()
    _kind: Int64 = field(init=False)
    _begins_us: Int64 = field(init=False)

    def __post_init__(self) -> None:
        kind, begins = np.full(self.pairs, -1), np.zeros(self.pairs, np.int64)
        for fault in self.given:
            kind[fault.pair] = list(FAULTS).index(fault.kind)
            begins[fault.pair] = fault.begins_us
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_begins_us", begins)

    @property
    def is_given(self) -> Bool:
        """Which pairs have a fault at some time."""
        return np.asarray(self._kind >= 0)

    def has(self, kind: AlertKind, pair: Int64, at_us: Int64) -> Bool:
        """Return which pairs have a fault at their times."""
        is_of_kind = self._kind[pair] == list(FAULTS).index(kind)
        return np.asarray(is_of_kind & (at_us >= self._begins_us[pair]))

    def lost(self, pair: Int64, at_us: Int64) -> Float64:
        """Return the efficiency that pairs have lost at their times, fraction."""
        sudden, slow = FAULTS[AlertKind.LOW_EFFICIENCY], FAULTS[AlertKind.EFFICIENCY_DRIFT]
        grown = (at_us - self._begins_us[pair]) / (slow["days"] * DAY_US)
        drifts = self.has(AlertKind.EFFICIENCY_DRIFT, pair, at_us)
        falls = self.has(AlertKind.LOW_EFFICIENCY, pair, at_us)
        points = np.where(drifts, slow["points"] * np.minimum(grown, 1), 0)
        return np.where(falls, sudden["points"], points) / 100
