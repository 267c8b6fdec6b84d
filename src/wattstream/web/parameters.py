"""Query parameters that need more than a type: times, ranges, thresholds."""

import re
from typing import Annotated

from fastapi import Query

from wattstream.decode.timestamps import parse_one
from wattstream.domain.errors import MalformedError
from wattstream.domain.links import FOREVER_US
from wattstream.domain.units import DAY_US, NEVER_US, rfc3339

# "+" means a space in a query string, and nobody remembers to write %2B.
_LOST_PLUS = re.compile(r" (\d\d:\d\d)$")
# PostgreSQL's calendar and ours both hold these.
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_000_000

StartQuery = Annotated[
    str | None,
    Query(
        description="Start of the range, inclusive: RFC 3339 with an offset. Default: 24 h ago.",
        examples=["2026-02-09T00:00:00Z"],
    ),
]
EndQuery = Annotated[
    str | None,
    Query(
        description="End of the range, exclusive: RFC 3339 with an offset. Default: now.",
        examples=["2026-02-10T00:00:00Z"],
    ),
]

AfterQuery = Annotated[
    str | None,
    Query(description="`next` of the page before, or any time: RFC 3339 with an offset."),
]


def open_range(start: str | None, end: str | None, now_us: int) -> tuple[int | None, int | None]:
    """Return a range whose missing end, and then start, are left to the answer.

    Raises:
        MalformedError: As for `time_range`.
    """
    if end is not None:
        return time_range(start, end, now_us)
    return None if start is None else time_of_query("start", start), None


def time_range(
    start: str | None, end: str | None, now_us: int, default_us: int = DAY_US
) -> tuple[int, int]:
    """Return a range in microseconds, by default of `default_us` up to its end or now.

    Raises:
        MalformedError: A time is not one, or the range is empty.
    """
    end_us = now_us if end is None else time_of_query("end", end)
    start_us = end_us - default_us if start is None else time_of_query("start", start)
    _check_order(start_us, end_us)
    return start_us, end_us


def optional_range(start: str | None, end: str | None) -> tuple[int, int]:
    """Return a range in microseconds; a side that is missing is open.

    Raises:
        MalformedError: As for `time_range`.
    """
    start_us = NEVER_US if start is None else time_of_query("start", start)
    end_us = FOREVER_US if end is None else time_of_query("end", end)
    _check_order(start_us, end_us)
    return start_us, end_us


def _check_order(start_us: int, end_us: int) -> None:
    if start_us >= end_us:
        raise MalformedError(
            f"start must be before end, got {rfc3339(start_us)} and {rfc3339(end_us)}",
            code="range_empty",
            field="start",
        )


def time_of_query(name: str, text: str) -> int:
    """Return a time of a query, microseconds, or raise MalformedError."""
    try:
        return moment(_LOST_PLUS.sub(r"+\1", text))
    except ValueError as error:
        raise MalformedError(f"{name} {error}", code="time_invalid", field=name) from error


def moment(text: str) -> int:
    """Return a time in microseconds.

    Raises:
        ValueError: It is none, has no offset, or lies outside the years 1 to 9999; the message
            goes on after the name of what was asked for.
    """
    try:
        at_us = parse_one(text)
    except ValueError as error:
        raise ValueError(f"{ascii(text)[:60]} {error}") from error
    # Two days inside the calendar's ends leave room for a default start.
    if not _FIRST_US + 2 * DAY_US <= at_us <= _LAST_US:
        raise ValueError("must be between the years 1 and 9999")
    return at_us


def fraction(threshold: float) -> float:
    """Return a threshold as a fraction; above 1 it is read as percent.

    Raises:
        MalformedError: It is not in (0, 100].
    """
    if not 0 < threshold <= 100:
        raise MalformedError(
            f"threshold must be a fraction in (0, 1] or a percentage up to 100, got {threshold:g}",
            code="threshold_invalid",
            field="threshold",
        )
    return threshold / 100 if threshold > 1 else threshold
