"""The detector of drifts: finds what gets worse, ignores noise, remembers all that it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattstream.domain.drift import (
    DRIFT_COLUMNS,
    Observations,
    drifting,
    empty_drift,
    observe,
)
from wattstream.domain.units import BUCKET_US, DAY_US, MICRO, Bool, Float64, Int64, Rows

START_US = 20_000 * DAY_US
DAY_QUARTERS = 14  # of a day, those from 17:30 to 21:00 are observed
NOISE = 0.02


@dataclass
class Days:
    """Quarter-hours of n devices, [quarter-hour, device]: at 11 kW from 18:00 to 20:30."""

    efficiency: Float64
    ac_kwh: Float64
    dc_kwh: Float64
    temp_c: Float64
    is_covered: Bool

    @property
    def quarters(self) -> int:
        return len(self.ac_kwh)


def days_of(
    devices: int, days: int, *, seed: int = 1, lost: Float64 | None = None, noise: float = NOISE
) -> Days:
    """Make days; `lost` is efficiency lost by day, fraction."""
    rng = np.random.default_rng(seed)
    quarter = np.arange(days * DAY_QUARTERS)
    is_charging = (quarter % DAY_QUARTERS >= 2) & (quarter % DAY_QUARTERS < 12)
    lost = np.zeros(days) if lost is None else lost
    efficiency = rng.uniform(0.88, 0.94, devices) - lost[quarter // DAY_QUARTERS][:, None]
    shape = (len(quarter), devices)
    drawn = 2.75 * (1 + noise * rng.standard_normal(shape))
    temp_c = np.broadcast_to(15 + 5 * np.sin(quarter / 73)[:, None], shape)
    dc_kwh = np.where(is_charging[:, None], 2.75 * efficiency, 0)
    ac_kwh = np.where(is_charging[:, None], drawn, 0) + 0.002
    return Days(efficiency, ac_kwh, dc_kwh, temp_c, np.ones(shape, np.bool_))


def at_us(first: int, last: int) -> Int64:
    """Return the starts of the quarter-hours [first, last)."""
    day, place = np.divmod(np.arange(first, last), DAY_QUARTERS)
    return START_US + day * DAY_US + (70 + place) * BUCKET_US


def follow(days: Days, states: Rows, first: int = 0, last: int | None = None) -> Rows:
    """Let detectors observe the quarter-hours [first, last) in one call."""
    last = days.quarters if last is None else last
    n = len(states)
    seg = np.repeat(np.arange(n), last - first)
    starts_us = np.tile(at_us(first, last), n)
    observe(states, seg, Observations(starts_us, *columns(days, first, last)))
    return states


def columns(days: Days, first: int, last: int) -> tuple[Int64, Int64, Float64, Bool]:
    part = slice(first, last)
    ac, dc = (np.rint(side[part].T.ravel() * MICRO) for side in (days.ac_kwh, days.dc_kwh))
    return (
        ac.astype(np.int64),
        dc.astype(np.int64),
        days.temp_c[part].T.ravel(),
        days.is_covered[part].T.ravel(),
    )


def alarms(days: Days, every: int = 4) -> tuple[Rows, Float64]:
    """Return the states at the end, and the day of each device's first alarm, NaN for none."""
    states = empty_drift(days.ac_kwh.shape[1])
    first = np.full(len(states), np.nan)
    for quarter in range(0, days.quarters, every):
        follow(days, states, quarter, min(quarter + every, days.quarters))
        first[drifting(states) & np.isnan(first)] = (quarter + every) / DAY_QUARTERS
    return states, first


def ramp(days: int, begin: int, points: float, length: int) -> Float64:
    return points / 100 * np.clip((np.arange(days) - begin) / length, 0, 1)


def test_noise_alone_is_no_drift() -> None:
    _, first = alarms(days_of(1000, 30), every=DAY_QUARTERS)
    assert np.isfinite(first).sum() <= 1


def test_three_points_in_ten_days_are_found_on_the_way() -> None:
    _, first = alarms(days_of(200, 26, lost=ramp(26, 14, 3, 10)), every=DAY_QUARTERS)
    assert (first > 14).all()
    assert (first <= 24).mean() >= 0.95


def test_a_sudden_loss_is_found_within_its_second_session() -> None:
    _, first = alarms(days_of(200, 20, lost=0.15 * (np.arange(20) >= 14)))
    assert (first > 14).all()
    assert (first <= 16).all()


def test_a_repair_ends_the_drift_and_what_was_learnt_still_holds() -> None:
    lost = ramp(40, 14, 5, 10)
    lost[28:] = 0
    days = days_of(100, 40, lost=lost)
    states = follow(days, empty_drift(100), 0, 28 * DAY_QUARTERS)
    assert drifting(states).all()
    np.testing.assert_allclose(states["expected"] - states["measured"], 0.05, atol=0.02)
    follow(days, states, 28 * DAY_QUARTERS)
    assert not drifting(states).any()
    assert (states["since_us"] < START_US + DAY_US).mean() > 0.9


def test_a_loss_that_stays_stays_a_drift() -> None:
    days = days_of(100, 60, lost=ramp(60, 14, 3, 10))
    states = follow(days, empty_drift(100), 0, 30 * DAY_QUARTERS)
    was = drifting(states)
    assert was.mean() > 0.95
    follow(days, states, 30 * DAY_QUARTERS)
    assert drifting(states)[was].all()


def test_what_gets_better_is_learnt_anew() -> None:
    states, first = alarms(days_of(50, 30, lost=-0.04 * (np.arange(30) >= 14)), every=DAY_QUARTERS)
    assert np.isnan(first).all()
    assert (states["since_us"] > START_US + 14 * DAY_US).mean() > 0.9
    np.testing.assert_allclose(states["measured"], states["expected"], atol=0.02)


def test_nothing_is_a_drift_before_enough_is_learnt() -> None:
    _, first = alarms(days_of(50, 4, lost=0.15 * (np.arange(4) >= 2)), every=DAY_QUARTERS)
    assert np.isnan(first).all()


@pytest.mark.parametrize("late_s", [-59, 30, 59])
def test_sides_that_report_at_different_seconds_agree(late_s: int) -> None:
    """What one side counts before an edge it lacks after the other."""
    days = days_of(100, 20, noise=0.002)
    share = abs(late_s) / 900
    late = days.ac_kwh if late_s > 0 else days.dc_kwh
    moved = share * late
    late -= moved
    late[1:] += moved[:-1]
    states, first = alarms(days, every=DAY_QUARTERS)
    assert np.isnan(first).all()
    np.testing.assert_allclose(states["expected"], days.efficiency[-1], atol=0.004)


def test_a_session_with_a_gap_is_not_pooled() -> None:
    days = days_of(20, 20)
    at = 19 * DAY_QUARTERS + 4
    days.ac_kwh[at] = 0.1  # the meter's readings of a quarter-hour are missing
    whole = follow(days, empty_drift(20))
    days.is_covered[at] = False
    assert (follow(days, empty_drift(20))["quarters"] < whole["quarters"]).all()


def test_the_threshold_is_times_the_decision_and_nan_is_never() -> None:
    days = days_of(3, 26, lost=ramp(26, 14, 6, 10))
    states = empty_drift(3)
    seg = np.repeat(np.arange(3), days.quarters)
    starts_us = np.tile(at_us(0, days.quarters), 3)
    seen = Observations(starts_us, *columns(days, 0, days.quarters))
    observe(states, seg, seen, np.array([1.0, 1000.0, np.nan]))
    assert drifting(states).tolist() == [True, False, False]


def test_a_state_is_plain_columns_that_can_be_kept() -> None:
    states = follow(days_of(5, 3), empty_drift(5))
    kept = np.frombuffer(states.tobytes(), np.dtype(DRIFT_COLUMNS))
    np.testing.assert_array_equal(kept, states)
    assert {np.dtype(kind) for _, kind in DRIFT_COLUMNS} == {np.dtype("f8"), np.dtype("i8")}
    assert all(np.isfinite(states[name]).all() for name, _ in DRIFT_COLUMNS)


CALLS = st.lists(st.integers(1, 12 * DAY_QUARTERS - 1), max_size=6)


@settings(max_examples=30)
@given(CALLS, st.integers(0, 2**32 - 1), st.floats(0, 0.3))
def test_one_call_or_many_give_the_same_states(
    cuts: Sequence[int], seed: int, missing: float
) -> None:
    days = days_of(4, 12, seed=seed, lost=ramp(12, 7, 20, 3))
    rng = np.random.default_rng(seed)
    days.is_covered &= rng.random(days.is_covered.shape) >= missing**2
    days.temp_c = np.where(rng.random(days.temp_c.shape) < missing, np.nan, days.temp_c)
    whole = follow(days, empty_drift(4))
    parts = empty_drift(4)
    bounds = [0, *sorted(set(cuts)), days.quarters]
    for first, last in pairwise(bounds):
        # What was seen before comes again, and does not count again.
        kept = np.frombuffer(bytearray(parts.tobytes()), np.dtype(DRIFT_COLUMNS))
        parts = follow(days, kept, max(0, first - 5), last)
    np.testing.assert_array_equal(parts, whole)


@given(st.permutations(range(4)))
def test_devices_do_not_know_one_another(order: list[int]) -> None:
    days = days_of(4, 8)
    whole = follow(days, empty_drift(4))
    shuffled = Days(*(getattr(days, name)[:, order] for name in Days.__dataclass_fields__))
    # Sums over columns of another length may differ in the last digit.
    moved = follow(shuffled, empty_drift(4))
    for name, _ in DRIFT_COLUMNS:
        np.testing.assert_allclose(moved[name], whole[name][order], rtol=1e-9, atol=1e-12)


def test_nothing_to_observe_changes_nothing() -> None:
    states = empty_drift(2)
    none = np.zeros(0)
    observe(states, none.astype(int), Observations(none, none, none, none, none > 0))
    np.testing.assert_array_equal(states, empty_drift(2))
