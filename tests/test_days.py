"""Local days and hours equal those that a zone's clocks show, minute by minute."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wattstream.domain.days import day_starts, hour_starts
from wattstream.domain.units import BUCKET_US, DAY_US, HOUR_US, bucket_floor, to_datetime, to_us

# Ordinary and odd changes: 30 minutes, at midnight, a minute after it, over the date line.
ZONES = [
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Havana",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Gaza",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
]
CHANGES = [
    ("Europe/Paris", "2026-03-29", 23),
    ("Europe/Paris", "2026-10-25", 25),
    ("America/New_York", "2026-03-08", 23),
    ("America/New_York", "2026-11-01", 25),
    ("Australia/Lord_Howe", "2026-10-04", 23.5),
    ("Australia/Lord_Howe", "2026-04-05", 24.5),
    ("Asia/Kathmandu", "2026-03-29", 24),
    ("Europe/Paris", "2024-02-29", 24),
    ("Africa/Cairo", "2026-04-24", 23),  # midnight is skipped
    ("America/Havana", "2026-11-01", 25),  # midnight comes twice
    ("America/St_Johns", "2010-11-07", 25),  # a minute of it comes before the change
]


def us(text: str) -> int:
    return to_us(datetime.fromisoformat(text).replace(tzinfo=UTC))


def shown(zone: ZoneInfo, at_us: int) -> datetime:
    return to_datetime(at_us).astimezone(zone)


def brute_days(zone: ZoneInfo, first_us: int, last_us: int) -> list[int]:
    """Number days by quarter-hour: a date that clocks show again has begun already."""
    newest, found = None, []
    for at_us in range(bucket_floor(first_us) - 3 * DAY_US, last_us + 1, BUCKET_US):
        dates = [shown(zone, at_us + minute * 60_000_000).date() for minute in range(15)]
        newest = max([*dates, newest] if newest else dates)
        if at_us + BUCKET_US > first_us:
            found.append(newest.toordinal())
    return found


def brute_hours(zone: ZoneInfo, first_us: int, last_us: int) -> list[tuple[datetime, object]]:
    """Name hours by quarter-hour: what clocks show at its end, and how far they are from UTC."""
    return [
        (local.replace(minute=0, second=0, microsecond=0, tzinfo=None), local.utcoffset())
        for at_us in range(bucket_floor(first_us), last_us + 1, BUCKET_US)
        for local in [shown(zone, at_us + BUCKET_US - 1)]
    ]


def changes(names: list[object]) -> list[int]:
    return [i for i in range(1, len(names)) if names[i] != names[i - 1]]


@given(
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    first=st.datetimes(datetime(1995, 1, 1), datetime(2035, 1, 1)),
    length=st.timedeltas(timedelta(), timedelta(days=3)),
)
@example(ZoneInfo("Pacific/Apia"), datetime(2011, 12, 29), timedelta(days=4))
@example(ZoneInfo("Pacific/Kiritimati"), datetime(1994, 12, 30), timedelta(days=3))
@example(ZoneInfo("America/St_Johns"), datetime(2010, 11, 6), timedelta(days=2))
def test_boundaries_are_where_clocks_show_another_day_or_hour(
    zone: ZoneInfo, first: datetime, length: timedelta
) -> None:
    first_us = to_us(first.replace(tzinfo=UTC))
    last_us = first_us + length // timedelta(microseconds=1)
    quarters = np.arange(bucket_floor(first_us), last_us + 1, BUCKET_US)
    for starts, names in (
        (day_starts(zone, first_us, last_us), brute_days(zone, first_us, last_us)),
        (hour_starts(zone, first_us, last_us), brute_hours(zone, first_us, last_us)),
    ):
        assert starts[0] <= first_us < starts[1]
        assert starts[-2] <= last_us < starts[-1]
        assert (starts % BUCKET_US == 0).all()
        place = np.searchsorted(starts, quarters, "right")
        assert changes(place.tolist()) == changes(names)


@pytest.mark.parametrize(("name", "date", "hours"), CHANGES)
def test_days_around_a_change_have_their_length(name: str, date: str, hours: float) -> None:
    zone = ZoneInfo(name)
    noon_us = to_us(datetime.fromisoformat(f"{date}T12:00").replace(tzinfo=zone))
    start, end = day_starts(zone, noon_us, noon_us)
    assert (end - start) / HOUR_US == hours
    assert shown(zone, int(start)).date().isoformat() == date
    assert shown(zone, int(start) - 1).date().isoformat() < date
    inside = hour_starts(zone, int(start), int(end) - 1)
    assert (inside[0], inside[-1]) == (start, end)
    lengths = np.diff(inside) / HOUR_US
    assert sum(lengths) == hours
    assert sorted({*lengths}) == ([0.5, 1] if hours % 1 else [1])


def test_hours_of_kathmandu_start_a_quarter_past() -> None:
    starts = hour_starts(ZoneInfo("Asia/Kathmandu"), us("2026-02-09T10:00"), us("2026-02-09T11:30"))
    assert starts.tolist() == [us(f"2026-02-09T{h}:15") for h in ("09", "10", "11", "12")]


def test_a_midnight_inside_a_quarter_hour_is_moved_back_to_its_start() -> None:
    """Liberia kept 0:44:30 behind UTC until 7 January 1972."""
    at_us = us("1972-01-05T12:00")
    starts = day_starts(ZoneInfo("Africa/Monrovia"), at_us, at_us)
    assert starts.tolist() == [us("1972-01-05T00:30"), us("1972-01-06T00:30")]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/New_York"])
def test_the_ends_of_the_calendar_have_days(zone: str) -> None:
    for at_us in (us("0001-01-01T00:00"), us("9999-12-31T23:59")):
        for starts_of in (day_starts, hour_starts):
            start, end = starts_of(ZoneInfo(zone), at_us, at_us)
            assert start <= at_us < end
