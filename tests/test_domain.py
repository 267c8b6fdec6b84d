"""The rules of the field, one case at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle import contribution
from wattstream.domain.devices import Device
from wattstream.domain.efficiency import Status, efficiency, status
from wattstream.domain.links import FOREVER_US, AcSource, Feeds, Link, feeds_within
from wattstream.domain.readings import Stream
from wattstream.domain.register import EnergyMode, Rules, Steps, contributions, rule_rows
from wattstream.domain.units import (
    BUCKET_US,
    MICRO,
    NEVER_US,
    bucket_ceil,
    bucket_floor,
    rfc3339,
    rfc3339_column,
    to_datetime,
    to_us,
)

MINUTE = 60 * MICRO
REGISTER = Rules(EnergyMode.REGISTER)


def added(values: list[int], rules: Rules, step_us: int = MINUTE) -> list[tuple[int, int]]:
    """Return counted and suspect energy of readings one step apart."""
    at = np.arange(len(values) + 2) * step_us
    at[:2] = NEVER_US
    ukwh = np.array([0, 0, *values])
    steps = Steps(at[2:], ukwh[2:], at[1:-1], ukwh[1:-1], at[:-2], ukwh[:-2])
    parts = contributions(steps, rule_rows(rules, len(values)))
    return list(zip(parts.energy.tolist(), parts.suspect.tolist(), strict=True))


def counted(values: list[int], rules: Rules) -> list[int]:
    parts = added(values, rules)
    assert not any(suspect for _, suspect in parts)
    return [energy for energy, _ in parts]


def test_an_interval_counts_its_value() -> None:
    assert counted([5, 0, 10**15], Rules()) == [5, 0, 10**15]


def test_a_register_counts_differences_and_its_first_reading_nothing() -> None:
    assert counted([100, 100, 150, 151], REGISTER) == [0, 0, 50, 1]


def test_a_reset_counts_nothing_and_goes_on_from_the_new_value() -> None:
    assert counted([1000, 10, 30], REGISTER) == [0, 0, 20]


def test_a_dip_counts_nothing_and_the_next_from_before_the_fall() -> None:
    assert counted([1000, 10, 1005, 1006], REGISTER) == [0, 0, 5, 1]
    assert counted([1000, 10, 1000], REGISTER) == [0, 0, 0]


def test_falls_one_after_another_are_judged_one_by_one() -> None:
    assert counted([100, 50, 40, 110], REGISTER) == [0, 0, 0, 60]


def test_a_rollover_counts_through_the_modulus() -> None:
    rules = Rules(EnergyMode.REGISTER, modulus_ukwh=1000)
    assert counted([990, 15, 20], rules) == [0, 25, 5]
    assert counted([1000, 15], rules) == [0, 0]


def test_a_rollover_that_is_not_plausible_is_a_reset() -> None:
    rules = Rules(EnergyMode.REGISTER, modulus_ukwh=10**12, rated_w=1000)
    assert counted([10**11, 15, 20], rules) == [0, 0, 5]


def test_energy_above_the_rating_is_suspect_and_counting_goes_on() -> None:
    rules = Rules(EnergyMode.REGISTER, rated_w=60_000)
    limit = 1_200_000 + 10_000
    assert added([0, limit, 2 * limit + 1, 2 * limit + 2], rules) == [
        (0, 0),
        (limit, 0),
        (0, limit + 1),
        (1, 0),
    ]
    assert added([limit, limit + 1], Rules(rated_w=60_000)) == [(limit, 0), (0, limit + 1)]


def test_a_register_without_rating_is_limited_to_a_megawatt() -> None:
    limit = 20_000_000 + 10_000
    assert added([0, limit, 2 * limit + 1], REGISTER)[1:] == [(limit, 0), (0, limit + 1)]


def test_readings_close_together_are_judged_by_the_heartbeat() -> None:
    rules = Rules(rated_w=60_000)
    assert added([1_210_000, 1_210_000], rules, step_us=1) == [(1_210_000, 0)] * 2


@given(
    st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 10**15)), min_size=1, max_size=12),
    st.builds(
        Rules,
        st.sampled_from(EnergyMode),
        st.none() | st.integers(1, 10**15),
        st.none() | st.integers(1, 10**9),
        st.integers(1, 86_400),
    ),
)
def test_columns_agree_with_one_reading_at_a_time(
    rows: list[tuple[int, int]], rules: Rules
) -> None:
    at = np.cumsum([step for step, _ in rows])
    ordered = [(int(a), value) for a, (_, value) in zip(at, rows, strict=True)]
    padded_at = np.concatenate([[NEVER_US, NEVER_US], at])
    padded = np.array([0, 0, *(value for _, value in rows)])
    steps = Steps(at, padded[2:], padded_at[1:-1], padded[1:-1], padded_at[:-2], padded[:-2])
    parts = contributions(steps, rule_rows(rules, len(rows)))
    for i, (when, value) in enumerate(ordered):
        expected = contribution(rules, ordered[:i], when, value)
        assert (int(parts.energy[i]), int(parts.suspect[i])) == expected


def test_efficiency_is_a_ratio_and_never_guessed() -> None:
    assert efficiency(125_200_000, 150_300_000) == 125_200_000 / 150_300_000
    assert efficiency(0, 10) == 0
    assert efficiency(5, 0) is None
    assert efficiency(5, None) is None
    assert efficiency(11, 10) == 1.1


@pytest.mark.parametrize(
    ("readings", "has_meter", "value", "expected"),
    [
        (0, False, None, Status.NO_DATA),
        (5, False, None, Status.NO_METER),
        (5, True, 1.021, Status.OVER_UNITY),
        (5, True, 1.02, Status.OK),
        (5, True, 0.8499, Status.LOW_EFFICIENCY),
        (5, True, 0.85, Status.OK),
        (5, True, None, Status.OK),
    ],
)
def test_status_is_the_first_that_holds(
    readings: int, has_meter: bool, value: float | None, expected: Status
) -> None:
    found = status(vehicle_readings=readings, has_meter=has_meter, value=value, threshold=0.85)
    assert found is expected


def linked(name: str, *times: int) -> Link:
    return Link(Device(1, Stream.METER, name, Rules(), None, "UTC"), *times)


def test_links_are_cut_to_the_range_and_touch_without_overlap() -> None:
    feeds = Feeds((linked("A", 0, 10), linked("B", 10, 20), linked("A", 30)))
    inside, source = feeds_within(feeds, 5, 15)
    assert inside == [linked("A", 5, 10), linked("B", 10, 15)]
    assert source is AcSource.LINK
    assert feeds_within(feeds, 20, 30) == ([], AcSource.NONE)
    assert feeds_within(feeds, 40, 50)[0] == [linked("A", 40, 50)]


def test_a_twin_counts_only_where_no_link_names_the_vehicle() -> None:
    twin = linked("T", NEVER_US, FOREVER_US)
    assert feeds_within(Feeds((), twin), 1, 2) == ([linked("T", 1, 2)], AcSource.SAME_ID)
    assert feeds_within(Feeds((linked("A", 5, 6),), twin), 1, 2) == ([], AcSource.NONE)
    assert feeds_within(Feeds(), 1, 2) == ([], AcSource.NONE)


@given(st.integers(-(10**16), 10**17))
def test_buckets_start_at_whole_quarter_hours(at_us: int) -> None:
    floor, ceil = bucket_floor(at_us), bucket_ceil(at_us)
    assert floor <= at_us <= ceil
    assert floor % BUCKET_US == ceil % BUCKET_US == 0
    assert ceil - floor in (0, BUCKET_US)
    assert to_datetime(floor).minute % 15 == 0


@given(st.integers(-(10**15), 10**17))
def test_times_are_written_in_utc_and_read_back(at_us: int) -> None:
    assert to_us(to_datetime(at_us)) == at_us
    assert rfc3339(at_us).endswith("Z")


@given(
    st.lists(st.one_of(st.integers(-(10**16), 10**17), st.integers(0, 10**9).map(MICRO.__mul__)))
)
def test_a_column_of_times_is_written_like_each_of_them(times: list[int]) -> None:
    assert rfc3339_column(np.array(times, np.int64)) == [rfc3339(at_us) for at_us in times]
