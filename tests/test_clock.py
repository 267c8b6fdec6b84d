"""The offset of a pair's clocks: found within seconds, or said to be unknown."""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import shared_data
from test_fleet import table
from wattstream.client.fleet import Fleet
from wattstream.domain.clock import (
    MARGIN_US,
    SEARCH_US,
    ClockEstimate,
    ClockState,
    Curve,
    clock_offset,
)
from wattstream.domain.units import DAY_US, HOUR_US, MICRO, Float64

PAIRS, DAYS = 24, 6
FIRST_MINUTE = 29_510_000  # a minute of February 2026
MINUTE_US = 60 * MICRO
NOW_US = (FIRST_MINUTE + DAYS * 1440 - 60) * MINUTE_US
RANGE = (NOW_US - 2 * DAY_US, NOW_US)


@cache
def fleet() -> tuple[Float64, Float64, Float64]:
    """Return times, AC and DC energy since the start, of every minute and pair, us and kWh."""
    minutes = range(FIRST_MINUTE, FIRST_MINUTE + DAYS * 1440)
    at_us, ac, dc = table(Fleet(PAIRS, seed=8), minutes, "meter_at_us", "ac_kwh", "dc_kwh")
    return at_us.astype(np.float64), np.cumsum(ac, axis=0), np.cumsum(dc, axis=0)


def read(
    at_us: Float64,
    kwh: Float64,
    *,
    ahead_us: int = 0,
    phase_us: int = 0,
    every_us: int = MINUTE_US,
    noise: float = 0.0,
    since_us: int = RANGE[0] - SEARCH_US - MARGIN_US,
) -> Curve:
    """Return how a device sees energy that rises linearly in between, read up to now.

    Args:
        at_us: Of the energy since the start, true time.
        kwh: The energy, kWh.
        ahead_us: How much its clock is ahead of the truth.
        phase_us: When in each interval it reads.
        every_us: Length of its interval.
        noise: Standard deviation of each reading, as a share.
        since_us: Its first reading by its own clock.
    """
    true_us = np.arange(at_us[0] + phase_us, NOW_US, every_us)
    steps = np.diff(np.interp(true_us, at_us, kwh) * MICRO)
    steps *= 1 + noise * np.random.default_rng(phase_us).normal(size=len(steps))
    times = np.rint(true_us).astype(np.int64) + ahead_us
    curve = Curve(times[:-1], times[1:], np.rint(steps).astype(np.int64))
    inside = (curve.since_us >= since_us) & (curve.at_us < NOW_US + MARGIN_US)
    return Curve(curve.since_us[inside], curve.at_us[inside], curve.energy_ukwh[inside])


def pair_curves(
    meter: int,
    vehicle: int,
    offset_us: int,
    phases_us: tuple[int, int] = (0, 0),
    noise: float = 0.0,
    every_us: int = MINUTE_US,
) -> tuple[Curve, Curve]:
    """Return the curves of a meter and a vehicle; the clock that is not right is behind."""
    at_us, ac, dc = fleet()
    common = {"noise": noise, "every_us": every_us}
    ahead_us = (min(offset_us, 0), min(-offset_us, 0))
    return (
        read(at_us[:, meter], ac[:, meter], ahead_us=ahead_us[0], phase_us=phases_us[0], **common),  # type: ignore[arg-type]
        read(
            at_us[:, vehicle], dc[:, vehicle], ahead_us=ahead_us[1], phase_us=phases_us[1], **common
        ),  # type: ignore[arg-type]
    )


def charges(*sessions: tuple[float, float, float]) -> tuple[Float64, Float64]:
    """Return time and energy of charges: (hours before now, length in hours, kW)."""
    knots, kwh = [float(NOW_US - 6 * DAY_US)], [0.0]
    for before_h, length_h, kw in sorted(sessions, reverse=True):
        start_us = NOW_US - before_h * HOUR_US
        knots += [start_us, start_us + length_h * HOUR_US]
        kwh += [kwh[-1], kwh[-1] + length_h * kw]
    return np.array([*knots, NOW_US]), np.array([*kwh, kwh[-1]])


def estimate(
    ac: Sequence[tuple[float, float, float]],
    dc: Sequence[tuple[float, float, float]],
    ahead_us: int = 0,
    every_us: int = MINUTE_US,
) -> ClockEstimate:
    """Return the offset of a meter whose clock is behind by -ahead_us, phases unlike."""
    return clock_offset(
        read(*charges(*ac), ahead_us=ahead_us, every_us=every_us),
        read(*charges(*dc), phase_us=17 * MICRO, every_us=every_us),
        *RANGE,
    )


def assert_right_or_unknown(found: ClockEstimate, offset_us: int) -> None:
    if found.state is ClockState.UNKNOWN:
        assert (found.offset_us, found.uncertainty_us) == (None, None)
        assert found.reason
        return
    assert found.offset_us is not None
    assert found.uncertainty_us is not None
    assert found.reason is None
    error_us = abs(found.offset_us - offset_us)
    assert error_us <= found.uncertainty_us
    assert error_us <= 20 * MICRO


_phases = st.integers(0, MINUTE_US - 1)


@given(
    st.integers(0, PAIRS - 1),
    st.integers(-20 * HOUR_US, 20 * HOUR_US),
    st.tuples(_phases, _phases),
    st.sampled_from([0.0, 0.02, 0.05]),
)
@settings(max_examples=60)
def test_an_offset_is_found_within_20_s_or_unknown(
    pair: int, offset_us: int, phases_us: tuple[int, int], noise: float
) -> None:
    curves = pair_curves(pair, pair, offset_us, phases_us, noise)
    assert_right_or_unknown(clock_offset(*curves, *RANGE), offset_us)


def test_two_days_of_charging_nearly_always_tell() -> None:
    found = [
        clock_offset(*pair_curves(pair, pair, 7195 * MICRO, (0, 31 * MICRO)), *RANGE)
        for pair in range(PAIRS)
    ]
    for one in found:
        assert_right_or_unknown(one, 7195 * MICRO)
    assert sum(one.state is ClockState.KNOWN for one in found) >= 0.9 * PAIRS


@pytest.mark.parametrize("every_us", [MINUTE_US, 15 * MINUTE_US])
def test_a_meter_and_the_vehicle_of_another_are_nearly_always_unknown(every_us: int) -> None:
    rng = np.random.default_rng(5)
    found = [
        clock_offset(
            *pair_curves(
                meter,
                (meter + step) % PAIRS,
                int(rng.integers(-20, 20) * HOUR_US),
                (0, int(rng.integers(MINUTE_US))),
                every_us=every_us,
            ),
            *RANGE,
        )
        for meter in range(PAIRS)
        for step in range(1, 9)
    ]
    assert sum(one.state is ClockState.KNOWN for one in found) <= len(found) // 100


def test_positive_means_that_the_meter_is_ahead() -> None:
    curves = pair_curves(0, 0, 3600 * MICRO)
    found = clock_offset(*curves, *RANGE)
    assert found.offset_us == pytest.approx(3600 * MICRO, abs=15 * MICRO)
    assert found.quality is not None
    assert 0.95 < found.quality <= 1


def test_a_real_charge_with_one_clock_two_hours_wrong() -> None:
    curves = []
    for name, key in (
        ("gueni_charger_meter.jsonl", "kwhConsumedAc"),
        ("gueni_vehicle.jsonl", "kwhDeliveredDc"),
    ):
        rows = [json.loads(line) for line in shared_data(name).read_text().splitlines()]
        stamps = [datetime.fromisoformat(row["timestamp"]).timestamp() for row in rows]
        at_us = np.rint(np.array(stamps) * MICRO).astype(np.int64)
        ukwh = np.rint(np.array([row[key] for row in rows]) * MICRO).astype(np.int64)
        curves.append(Curve(at_us[:-1], at_us[1:], np.diff(ukwh)))
    end_us = int(curves[0].at_us[-1]) + 1
    for hours in (2, 24, 48, 24 * 31):
        found = clock_offset(*curves, end_us - hours * HOUR_US, end_us)
        assert found.offset_us == pytest.approx(7195 * MICRO, abs=15 * MICRO), hours


def test_charges_elsewhere_are_not_held_against_the_pair() -> None:
    home = [(40.0, 3.1, 7.0), (16.0, 4.3, 7.2)]
    elsewhere = [(30.0, 0.5, 90.0), (5.0, 1.5, 20.0)]
    found = estimate(home, [*home, *elsewhere], ahead_us=-5 * HOUR_US)
    assert_right_or_unknown(found, -5 * HOUR_US)
    assert found.state is ClockState.KNOWN


def test_seldom_readings_tell_less_exactly_and_say_so() -> None:
    sessions = [(40.0, 3.1, 7.0), (16.0, 4.35, 7.2)]
    found = estimate(sessions, sessions, -2 * HOUR_US, every_us=15 * MINUTE_US)
    assert found.offset_us == pytest.approx(-2 * HOUR_US, abs=found.uncertainty_us)
    assert found.uncertainty_us is not None
    assert found.uncertainty_us > MINUTE_US


def test_a_late_upload_during_a_charge_is_no_offset() -> None:
    for before_h in (140.0, 5.0):
        session = charges((before_h, before_h, 7.0))
        ac, dc = read(*session), read(*session)
        late = dc.at_us < NOW_US - 10 * MINUTE_US
        dc = Curve(dc.since_us[late], dc.at_us[late], dc.energy_ukwh[late])
        assert_right_or_unknown(clock_offset(ac, dc, *RANGE), 0)


@pytest.mark.parametrize(
    ("name", "ac", "dc", "every_us", "reason"),
    [
        ("nothing", [], [(10.0, 1.0, 7.0)], MINUTE_US, "the meter counted too little"),
        ("elsewhere", [(10.0, 1.0, 7.0)], [], MINUTE_US, "the vehicle counted too little"),
        ("short", [(10.0, 0.05, 7.0)], [(10.0, 0.05, 7.0)], MINUTE_US, "too little"),
        ("daily", *[[(24.0 * day + 10, 3.0, 7.0) for day in range(6)]] * 2, MINUTE_US,
         "too alike"),
        ("never off", *[[(140.0, 140.0, 7.0)]] * 2, MINUTE_US, "no offset makes"),
        ("other", [(10.0, 2.0, 7.0)], [(10.0, 3.0, 7.0)], MINUTE_US, "no offset makes"),
        ("no efficiency", [(10.0, 2.0, 7.0)], [(10.0, 2.0, 21.0)], MINUTE_US, "no offset makes"),
        ("hourly", *[[(40.0, 9.0, 7.0), (16.0, 7.0, 7.0)]] * 2, 60 * MINUTE_US, "too seldom"),
    ],
)  # fmt: skip
def test_what_the_data_does_not_carry_is_unknown(
    name: str,
    ac: list[tuple[float, float, float]],
    dc: list[tuple[float, float, float]],
    every_us: int,
    reason: str,
) -> None:
    found = estimate(ac, dc, every_us=every_us)
    assert found.state is ClockState.UNKNOWN
    assert found.offset_us is None
    assert reason in (found.reason or "")


_stretches = st.lists(
    st.tuples(st.integers(0, HOUR_US), st.integers(1, HOUR_US), st.integers(0, 10**15)),
    max_size=30,
)


def curve_of(stretches: list[tuple[int, int, int]]) -> Curve:
    at_us, rows = NOW_US - DAY_US, []
    for gap_us, length_us, ukwh in stretches:
        rows.append((at_us + gap_us, at_us + gap_us + length_us, ukwh))
        at_us += gap_us + length_us
    return Curve(*np.array(rows, np.int64).reshape(-1, 3).T)


@given(_stretches, _stretches, st.integers(1, 3 * DAY_US))
def test_no_curve_is_too_strange(
    ac: list[tuple[int, int, int]], dc: list[tuple[int, int, int]], length_us: int
) -> None:
    found = clock_offset(curve_of(ac), curve_of(dc), NOW_US - length_us, NOW_US)
    assert (found.state is ClockState.KNOWN) == (found.offset_us is not None)
    assert found.quality is None or 0 <= found.quality <= 1
