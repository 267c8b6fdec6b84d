"""Local days and hours of a time zone, as UTC boundaries.

A day begins when the zone's clocks first show its date, so days have 23, 24 or 25 hours where
clocks change, and start at one o'clock where midnight is skipped. An hour begins when clocks
show a whole hour, and whenever they are changed: a change of 30 minutes makes an hour of half
an hour, and a repeated hour is two.

Boundaries are moved back to the start of their quarter-hour, so days and hours are sums of
whole rollup buckets. That changes nothing but for offsets that are no multiple of 15 minutes,
such as local mean time or Liberia's before 1972.
"""

from datetime import UTC, timedelta, tzinfo
from itertools import pairwise

import numpy as np

from wattstream.domain.units import DAY_US, HOUR_US, MICRO, Int64, bucket_of, to_datetime

# A zone's clocks are asked within the calendar only, and a day from its ends.
_FIRST_US, _LAST_US = -62_135_510_400_000_000, 253_402_214_400_000_000
_SECOND = timedelta(seconds=1)


def day_starts(zone: tzinfo, first_us: int, last_us: int) -> Int64:
    """Return the starts of the consecutive days that cover a range, and the end of the last.

    Args:
        zone: Whose clocks count.
        first_us: In the first day, microseconds.
        last_us: In the last day, at or after `first_us`.

    Returns:
        int64[n + 1] for n days, ascending: day i is [i, i + 1).
    """
    starts, newest = [], -(2**63)
    for piece_us, end_us, offset_us in _offsets(zone, first_us - 2 * DAY_US, last_us + 3 * DAY_US):
        # The day that clocks show at the start of the piece, then every midnight.
        dates = np.arange((piece_us + offset_us) // DAY_US, (end_us - 1 + offset_us) // DAY_US + 1)
        at_us = np.maximum(dates * DAY_US - offset_us, piece_us)
        starts.append(at_us[dates > newest])  # a date that comes back has begun already
        newest = max(newest, int(dates[-1]))
    return _covering(np.concatenate(starts), first_us, last_us)


def hour_starts(zone: tzinfo, first_us: int, last_us: int) -> Int64:
    """Return the starts of the consecutive hours that cover a range, and the end of the last.

    Args and result are those of `day_starts`.
    """
    starts = []
    for piece_us, end_us, offset_us in _offsets(zone, first_us - DAY_US, last_us + DAY_US):
        hours = np.arange(
            (piece_us + offset_us) // HOUR_US, (end_us - 1 + offset_us) // HOUR_US + 1
        )
        starts.append(np.maximum(hours * HOUR_US - offset_us, piece_us))
    return _covering(np.concatenate(starts), first_us, last_us)


def _covering(starts: Int64, first_us: int, last_us: int) -> Int64:
    """Return the boundaries around a range, at the starts of quarter-hours."""
    starts = np.unique(bucket_of(starts))
    first = np.searchsorted(starts, first_us, "right") - 1
    return starts[first : np.searchsorted(starts, last_us, "right") + 1]


def _offsets(zone: tzinfo, start_us: int, end_us: int) -> list[tuple[int, int, int]]:
    """Return (start, end, offset from UTC) of the stretches without a clock change, microseconds.

    Clocks are asked once a day: no zone changes them forth and back within one.
    """
    cuts = [start_us]
    for day_us, next_us in pairwise([*range(start_us, end_us, DAY_US), end_us]):
        before_us = _offset(zone, day_us)
        if _offset(zone, next_us) != before_us:
            known_us, change_us = day_us, next_us
            while change_us - known_us > MICRO:
                middle_us = (known_us + change_us) // 2
                if _offset(zone, middle_us) == before_us:
                    known_us = middle_us
                else:
                    change_us = middle_us
            cuts.append(change_us - change_us % MICRO)  # clocks change at whole seconds
    cuts.append(end_us)
    return [(a, b, _offset(zone, a)) for a, b in pairwise(cuts)]


def _offset(zone: tzinfo, at_us: int) -> int:
    moment = to_datetime(min(max(at_us, _FIRST_US), _LAST_US)).astimezone(UTC)
    offset = moment.astimezone(zone).utcoffset()
    return 0 if offset is None else offset // _SECOND * MICRO
