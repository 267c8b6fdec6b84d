"""Chargers that slowly get worse: a cumulative sum of what is missing, for a whole fleet at once.

Each quarter-hour of charging is compared with the device's own baseline (`baseline`). What it
lies below or above, in standard deviations, is summed up less an allowance: chance stays near 0,
a loss of whatever course grows until it passes the decision. The baseline learns on until then,
which is fairer than one that is frozen after few days and wrong by its own chance from there on.

Source: Page: "Continuous Inspection Schemes", Biometrika 41 (1954); Montgomery: "Introduction to
Statistical Quality Control", chapter 9 (tabular CUSUM); Hawkins: "Self-Starting CUSUM Charts",
The Statistician 36 (1987), for learning and testing at once.
"""

from dataclasses import dataclass

import numpy as np

from wattstream.domain import baseline
from wattstream.domain.units import BUCKET_US, DAY_US, MICRO, NEVER_US, Bool, Float64, Int64, Rows

DECISION = 16.5
"""Sum that is a drift, standard deviations of a quarter-hour. 1 in some thousand healthy devices
passes it in a month; `wattstream bench --only detection` measures it."""
ALLOWANCE = 0.35
"""Taken off each quarter-hour: half the mean loss to be found, Montgomery 9.1.3. 0.7 deviations
are 1.4 points where noise is 2: what a drift of 3 points over 10 days has been on average."""
RETURN = 8.0
"""Sum of the way back that ends a drift: two sessions or three after a repair, and a charger that
is still half as bad as it was when found rarely gets there."""
LEAST_QUARTERS = 30.0
LEAST_US = 5 * DAY_US
"""Quarter-hours and time learnt before anything is a drift: fewer days know too few weathers."""

_HOURS = 0.25
_LEAST_KWH = 0.005  # 20 W: what a vehicle does not take when it is not charging
_STEADY = 0.9  # of the power before and after
_SLACK = 0.2  # of a quarter-hour: sides may be three minutes apart
_LIKELY = (0.3, 1.2)  # efficiencies outside come from clocks or links, not from wear
_RECENT = 1 / 16  # weight of a quarter-hour in the recent means

_SESSION = ("last_ac_kwh", "last_dc_kwh", "last_temp_c", "before_ac_kwh", "before_dc_kwh")
_POOL = ("pool_ac_kwh", "pool_dc_kwh", "pool_ac_kwh2", "pool_temp_kwh", "pool_h")

DRIFT_COLUMNS: list[tuple[str, type]] = [
    ("seen_us", np.int64),
    ("since_us", np.int64),
    *((name, np.float64) for name in ("is_covered", "is_whole", *_SESSION, *_POOL)),
    *baseline.BASELINE_COLUMNS,
    *((name, np.float64) for name in ("quarters", "low_sum", "high_sum", "return_sum", "is_on")),
    *((name, np.float64) for name in ("expected", "measured")),
]
"""State of one vehicle's detector: all that it remembers.

`seen_us`: newest quarter-hour observed; `since_us`: when the baseline began, NEVER_US before.
`last_…`, `before_…`: the two newest quarter-hours, 0 where there is a gap; `pool_…`: sums over a
session's edges; `is_whole`: no gap in it. `quarters`: learnt. `low_sum`, `high_sum`,
`return_sum`: the cumulative sums, deviations. `is_on`: 1 while drifting. `expected`,
`measured`: recent means of efficiency, 0 before the first.
"""


@dataclass(frozen=True, slots=True)
class Observations:
    """Closed quarter-hours of vehicles and their meters, columns of n rows.

    All of them are wanted, charging or not: the end of a session is seen in the next one.

    Attributes:
        bucket_us: Start of the quarter-hour.
        ac_ukwh: Drawn by the vehicle's meters.
        dc_ukwh: Delivered to its battery.
        temp_c: Mean of the battery, NaN where not known.
        is_covered: Whether both sides sent nearly all of their heartbeats.
    """

    bucket_us: Int64
    ac_ukwh: Int64
    dc_ukwh: Int64
    temp_c: Float64
    is_covered: Bool


@dataclass(frozen=True, slots=True)
class _Quarters:
    """One quarter-hour each of some devices."""

    at_us: Int64
    ac_kwh: Float64
    dc_kwh: Float64
    temp_c: Float64
    is_covered: Bool


@dataclass(frozen=True, slots=True)
class _Found:
    """What a quarter-hour completes: an efficiency with its conditions, where `is_there`."""

    is_there: Bool
    ac_kwh: Float64
    dc_kwh: Float64
    temp_c: Float64
    hours: Float64
    quarters: Float64


def empty_drift(n: int) -> Rows:
    """Return the states of n devices of which nothing was seen."""
    states = np.zeros(n, DRIFT_COLUMNS)
    states["seen_us"] = NEVER_US
    _restart(states)
    return states


def observe(
    states: Rows, seg: Int64, observations: Observations, times: Float64 | float = 1.0
) -> None:
    """Move detectors forward by the quarter-hours that they have not seen, in place.

    In one call or in many, the states come out the same.

    Args:
        states: DRIFT_COLUMNS, one a device.
        seg: Row in `states` of each observation, ascending; within it ascending in time.
        observations: The quarter-hours.
        times: How many times DECISION is a drift, of each device or of all; NaN: nothing is.
    """
    limit = np.broadcast_to(DECISION * np.asarray(times, np.float64), len(states))
    is_new = observations.bucket_us > states["seen_us"][seg]
    seg = seg[is_new]
    quarters = _Quarters(
        observations.bucket_us[is_new],
        observations.ac_ukwh[is_new] / MICRO,
        observations.dc_ukwh[is_new] / MICRO,
        observations.temp_c[is_new],
        observations.is_covered[is_new],
    )
    # The first of each device, then the second of each …: as many steps as one device has.
    place = np.arange(len(seg)) - np.searchsorted(seg, seg)
    order = np.argsort(place, kind="stable")
    for at in np.split(order, np.cumsum(np.bincount(place))[:-1]):
        rows = states[seg[at]]
        now = _Quarters(*(getattr(quarters, name)[at] for name in _Quarters.__slots__))
        found = _follow(rows, now)
        if found.is_there.any():
            some = rows[found.is_there]
            _judge(some, found, now.at_us[found.is_there], limit[seg[at]][found.is_there])
            rows[found.is_there] = some
        states[seg[at]] = rows


def drifting(states: Rows) -> Bool:
    """Return which devices drift downwards: from DECISION on, until they have come back."""
    return np.asarray(states["is_on"] > 0)


def _follow(rows: Rows, now: _Quarters) -> _Found:
    """Move sessions forward by a quarter-hour; return the efficiencies that it completes.

    Meter and vehicle may count the same minute at different times, so a quarter-hour alone is
    fair only within steady charging. The others of a session are pooled until it ends: what one
    side counted before an edge, it lacks after the other.
    """
    before, last = _side_by_side(rows, "before"), _side_by_side(rows, "last")
    energy = np.stack([now.ac_kwh, now.dc_kwh])
    follows = (now.at_us == rows["seen_us"] + BUCKET_US) & now.is_covered
    was_charging, goes_on = _is_charging(last), _is_charging(energy) & follows
    is_steady = _is_charging(before) & was_charging & goes_on
    is_steady &= (last >= _STEADY * np.maximum(before, energy)).all(axis=0)
    begins, ends = ~was_charging & goes_on, was_charging & ~goes_on

    slack = np.where(begins, _left_over(last, energy), 0)
    slack += np.where(ends & follows, _left_over(energy, last), 0)
    pooled = np.where(was_charging & ~is_steady, last, 0)
    rows["pool_ac_kwh"] += pooled[0] + slack[0]
    rows["pool_dc_kwh"] += pooled[1] + slack[1]
    rows["pool_ac_kwh2"] += pooled[0] ** 2
    rows["pool_temp_kwh"] += rows["last_temp_c"] * pooled[0]
    rows["pool_h"] += np.where(pooled[0] > 0, _HOURS, 0)
    is_pooled = ends & follows & (rows["is_whole"] > 0) & (rows["pool_h"] > 0)
    pool, square = (np.where(is_pooled, rows[f"pool_{name}"], 1) for name in ("ac_kwh", "ac_kwh2"))
    found = _Found(
        is_steady | is_pooled,
        np.where(is_steady, last[0], pool),
        np.where(is_steady, last[1], rows["pool_dc_kwh"]),
        np.where(is_steady, rows["last_temp_c"], rows["pool_temp_kwh"] / pool),
        np.where(is_steady, _HOURS, rows["pool_h"]),
        # Kish's effective size: quarter-hours of equal energy that would be as noisy.
        np.where(is_steady, 1.0, np.maximum(pool**2 / square, 1)),
    )
    for name in _POOL:
        rows[name] = np.where(ends, 0, rows[name])
    is_known = follows & (rows["is_covered"] > 0)
    rows["is_whole"] = np.where(begins, is_known, goes_on & (rows["is_whole"] > 0))
    _move(rows, now, follows)
    return _only_likely(found)


def _side_by_side(rows: Rows, name: str) -> Float64:
    return np.stack([rows[f"{name}_ac_kwh"], rows[f"{name}_dc_kwh"]])


def _is_charging(energy: Float64) -> Bool:
    """Return where both sides carry energy; [side, device]."""
    return np.asarray((energy >= _LEAST_KWH).all(axis=0))


def _left_over(outside: Float64, inside: Float64) -> Float64:
    """Return what the quarter-hour beside a session holds of it; more is something else."""
    return np.where(outside <= _SLACK * inside, outside, 0)


def _move(rows: Rows, now: _Quarters, follows: Bool) -> None:
    """Let the quarter-hour be the last one, in place."""
    for side, current in (("ac", now.ac_kwh), ("dc", now.dc_kwh)):
        rows[f"before_{side}_kwh"] = np.where(follows, rows[f"last_{side}_kwh"], 0)
        rows[f"last_{side}_kwh"] = np.where(now.is_covered, current, 0)
    rows["last_temp_c"] = np.nan_to_num(now.temp_c, nan=baseline.MEAN_TEMP_C)
    rows["is_covered"] = now.is_covered
    rows["seen_us"] = now.at_us


def _only_likely(found: _Found) -> _Found:
    """Return the efficiencies that a charger can have, without the rows of the others."""
    is_there = found.is_there.copy()
    ratio = found.dc_kwh / np.maximum(found.ac_kwh, _LEAST_KWH)
    is_there &= (ratio > _LIKELY[0]) & (ratio < _LIKELY[1])
    columns = (getattr(found, name)[is_there] for name in _Found.__slots__[1:])
    return _Found(is_there, *columns)


def _judge(rows: Rows, found: _Found, at_us: Int64, limit: Float64) -> None:
    """Compare efficiencies with their baselines, sum up, decide; in place."""
    rows["since_us"] = np.where(rows["since_us"] == NEVER_US, at_us, rows["since_us"])
    is_on, efficiency, worth = rows["is_on"] > 0, found.dc_kwh / found.ac_kwh, found.quarters
    x = baseline.conditions(found.ac_kwh / found.hours, found.temp_c)
    residuals = baseline.learn(rows, x, efficiency, worth, ~is_on)
    _remember(rows, efficiency, residuals.expected, worth)

    learnt = (rows["quarters"] >= LEAST_QUARTERS) & (at_us - rows["since_us"] >= LEAST_US)
    rows["quarters"] += np.where(is_on, 0, worth)
    score, allowance = np.sqrt(worth) * residuals.z, ALLOWANCE * worth
    for name, gain, is_summed in (
        ("low_sum", -score - allowance, learnt),
        ("high_sum", score - allowance, learnt & ~is_on),
        ("return_sum", score + allowance, is_on),
    ):
        rows[name] = np.where(is_summed, np.maximum(rows[name] + gain, 0), rows[name])

    is_back = is_on & (rows["return_sum"] > RETURN)
    for name in ("low_sum", "high_sum", "return_sum"):
        rows[name] = np.where(is_back, 0, rows[name])
    rows["is_on"] = (is_on & ~is_back) | (~is_on & (rows["low_sum"] > limit))
    better = np.flatnonzero((rows["high_sum"] > limit) & ~is_on)
    if len(better):
        # Repaired, or another charger: nothing is wrong, and what was learnt is of no use.
        renewed = rows[better]
        _restart(renewed)
        rows[better] = renewed


def _remember(rows: Rows, efficiency: Float64, expected: Float64, worth: Float64) -> None:
    """Move the recent means, in place."""
    share = 1 - (1 - _RECENT) ** worth
    is_first = rows["expected"] == 0
    for name, values in (("measured", efficiency), ("expected", expected)):
        moved = rows[name] + share * (values - rows[name])
        rows[name] = np.where(is_first, values, moved)


def _restart(rows: Rows) -> None:
    """Forget what was learnt and summed up, in place; a session under way goes on."""
    baseline.start(rows)
    rows["since_us"] = NEVER_US
    for name in ("quarters", "low_sum", "high_sum", "return_sum", "is_on", "expected", "measured"):
        rows[name] = 0
