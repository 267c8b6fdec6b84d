"""RFC 3339 timestamps to microseconds, whole columns at once and one by one.

Source: RFC 3339, section 5.6. Leap seconds (`:60`) are not accepted: no device clock that
we know of sends them, and they have no microsecond of their own.
"""

import re
from datetime import UTC, datetime, time

import numpy as np
from numpy.typing import NDArray

from wattstream.domain.units import DAY_US, MICRO, NEVER_US, Int32, Int64, to_us

FORM = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?([Zz]|([+-])(\d\d):(\d\d))?",
    re.ASCII,
)
# Python takes an offset of +01:70, and since 3.13 an hour of 24.
_PLAIN = re.compile(
    r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):\d\d:\d\d(\.\d{6}|\.\d{3})?"
    r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_PUNCTUATION = ((4, "-"), (7, "-"), (13, ":"), (16, ":"))
_SHORTEST, _LONGEST = 20, 64


def parse_one(text: str) -> int:
    """Return one timestamp in microseconds; digits beyond the sixth are cut off.

    Raises:
        ValueError: It is not RFC 3339, or has no offset; the message says which.
    """
    if _PLAIN.fullmatch(text) is not None:
        try:
            return to_us(datetime.fromisoformat(text))
        except ValueError:
            pass  # the longer way finds the words
    match = FORM.fullmatch(text)
    if match is None:
        raise ValueError("is not an RFC 3339 time such as 2026-02-09T10:00:00Z")
    *numbers, fraction, offset, sign, hours, minutes = match.groups()
    if offset is None:
        raise ValueError("has no offset; add Z for UTC, or one such as +01:00")
    try:
        year, month, day, hour, minute, second = map(int, numbers)
        micro = int((fraction or "0")[:6].ljust(6, "0"))
        at_us = to_us(datetime(year, month, day, hour, minute, second, micro, UTC))
        offset_s = time(int(hours or 0), int(minutes or 0)).hour * 3600 + int(minutes or 0) * 60
        return at_us - (-offset_s if sign == "-" else offset_s) * MICRO
    except ValueError as error:
        raise ValueError("is not a day and time that exists") from error


def parse(texts: list[str]) -> Int64:
    """Return timestamps in microseconds, int64[n]; NEVER_US where one does not parse."""
    if texts and texts[0] == texts[-1] and texts.count(texts[0]) == len(texts):
        return np.full(len(texts), _parse_or_never(texts[0]))
    joined = "\n".join(texts)
    data = np.frombuffer(f"{joined}\n".encode() if joined.isascii() else b"", np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if len(ends) != len(texts):  # a text is not ASCII, or holds a line's end
        return np.array([_parse_or_never(text) for text in texts], np.int64)
    lengths = np.diff(ends, prepend=-1) - 1
    if (lengths == lengths[0]).all() and _SHORTEST <= lengths[0] <= _LONGEST:
        return _parse_same_length(data.reshape(len(texts), -1)[:, :-1])
    at_us = np.full(len(texts), NEVER_US)
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        if _SHORTEST <= length <= _LONGEST:
            table = data[(ends[rows] - length)[:, None] + np.arange(length)]
            at_us[rows] = _parse_same_length(table)
        else:
            at_us[rows] = [_parse_or_never(texts[row]) for row in rows.tolist()]
    return at_us


def _parse_or_never(text: str) -> int:
    try:
        return parse_one(text)
    except ValueError:
        return NEVER_US


def _parse_same_length(text: NDArray[np.uint8]) -> Int64:
    in_utc = (text[:, -1] | 0x20) == ord("z")
    if in_utc.all():
        return _parse_same_form(text, has_offset=False)
    if not in_utc.any():
        return _parse_same_form(text, has_offset=True)
    at_us = np.empty(len(text), np.int64)
    at_us[in_utc] = _parse_same_form(text[in_utc], has_offset=False)
    at_us[~in_utc] = _parse_same_form(text[~in_utc], has_offset=True)
    return at_us


def _parse_same_form(text: NDArray[np.uint8], *, has_offset: bool) -> Int64:
    """Parse rows of one length that all end in Z, or all in ±hh:mm."""
    end = text.shape[1] - (6 if has_offset else 1)
    if end < 19 or end == 20:
        return np.full(len(text), NEVER_US)
    column = np.ascontiguousarray(text.T)
    digit = column - np.uint8(ord("0"))  # what is no digit wraps to more than 9
    ok = ((column[10] | 0x20) == ord("t")) | (column[10] == ord(" "))
    for place, mark in _PUNCTUATION:
        ok &= column[place] == ord(mark)

    def number(start: int, stop: int, rows: slice = slice(None)) -> Int32:
        nonlocal ok
        ok &= (digit[start:stop] <= 9).all(axis=0)
        value = np.zeros(len(text[rows]), np.int32)
        for place in range(start, stop):
            value = value * 10 + digit[place, rows]
        return value

    is_one_day = (column[:10] == column[:10, :1]).all()  # what is usual
    rows = slice(1) if is_one_day else slice(None)
    year, month, day = number(0, 4, rows), number(5, 7, rows), number(8, 10, rows)
    hour, minute, second = number(11, 13), number(14, 16), number(17, 19)
    ok &= (hour < 24) & (minute < 60) & (second < 60) & (year >= 1)
    ok &= (month >= 1) & (month <= 12) & (day >= 1) & (day <= _days_in(year, month))
    at_us = (hour * 3600 + minute * 60 + second).astype(np.int64) * MICRO
    at_us += _days_from_civil(year, month, day).astype(np.int64) * DAY_US
    if end > 19:
        ok &= column[19] == ord(".")
        kept = min(end, 26)
        at_us += number(20, kept) * 10 ** (26 - kept)
        number(kept, end)
    if has_offset:
        sign = column[end]
        offset_hour, offset_minute = number(end + 1, end + 3), number(end + 4, end + 6)
        ok &= ((sign == ord("+")) | (sign == ord("-"))) & (column[end + 3] == ord(":"))
        ok &= (offset_hour < 24) & (offset_minute < 60)
        offset_us = (offset_hour * 60 + offset_minute).astype(np.int64) * (60 * MICRO)
        at_us -= np.where(sign == ord("-"), -offset_us, offset_us)
    return np.where(ok, at_us, NEVER_US)


_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def _days_in(year: Int32, month: Int32) -> Int64:
    is_leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    return np.asarray(_MONTH_DAYS[np.clip(month, 0, 12)] + (is_leap & (month == 2)))


def _days_from_civil(year: Int32, month: Int32, day: Int32) -> Int32:
    """Return days since 1970-01-01 of a Gregorian date.

    Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
    """
    year = year - (month <= 2)
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return np.asarray(era * 146_097 + day_of_era - 719_468)
