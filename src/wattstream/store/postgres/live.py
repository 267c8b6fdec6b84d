"""Live rows of one stream kept in memory, so that a flush need not read them first.

A row is as this engine last read it, wrote it, or is about to write it. Its version tells
whether the database has that one: whoever changes a live row gives it a new version, so a
stale row is noticed by the statement that would overwrite it.
"""

import secrets
import threading

import numpy as np

from wattstream.domain.readings import Stream
from wattstream.domain.rollup import day_columns, live_dtype
from wattstream.domain.rows import assign, opaque
from wattstream.domain.units import Int64, Rows

# About 100 MB a stream; the rows of further devices are read each time.
_MAX_ROWS = 500_000
_MAX_KEY = 8_000_000
_NO_ROW = -1


def new_version() -> int:
    """Return a version that no live row has had, as far as 63 random bits can tell."""
    return secrets.randbits(63) | 1


class LiveCache:
    """Live rows by device key, for several threads."""

    def __init__(self, stream: Stream) -> None:
        self._day = day_columns(stream)
        self._rows: Rows = np.zeros(1024, live_dtype(stream))
        self._used = 0
        # Keys of both streams come from one sequence: a place for each key, rows for our own.
        self._place = np.full(1024, _NO_ROW, np.int32)
        # A row read while it is written would be a mixture that its version does not tell.
        self._lock = threading.Lock()

    def get(self, devices: Int64) -> Rows | None:
        """Return copies of the rows of devices, keys ascending, or None where one is unknown."""
        with self._lock:
            if int(devices[-1]) >= len(self._place):
                return None
            place = self._place.take(devices)
            if int(place.min()) == _NO_ROW:
                return None
            rows: Rows = self._rows.take(place)
            return rows

    def put(self, rows: Rows) -> None:
        """Remember rows that are committed or will be, or locked and just read; keys ascending."""
        rows = rows.compress(rows["device_id"] < _MAX_KEY)
        if len(rows) == 0:
            return
        for name, _ in self._day:
            rows[name] = 0
        with self._lock:
            self._make_room(rows["device_id"])
            place = self._place[rows["device_id"]]
            has_row = place != _NO_ROW
            assign(self._rows, place[has_row], rows.compress(has_row))

    def _make_room(self, keys: Int64) -> None:
        """Give a place to keys that have none, as long as there is room."""
        if (last := int(keys[-1])) >= len(self._place):
            grown = np.full(min(2 * last, _MAX_KEY), _NO_ROW, np.int32)
            grown[: len(self._place)] = self._place
            self._place = grown
        new = keys[self._place[keys] == _NO_ROW][: _MAX_ROWS - self._used]
        if self._used + len(new) > len(self._rows):
            rows = np.zeros(min(2 * (self._used + len(new)), _MAX_ROWS), self._rows.dtype)
            opaque(rows)[: len(self._rows)] = opaque(self._rows)
            self._rows = rows
        self._place[new] = np.arange(self._used, self._used + len(new))
        self._used += len(new)

    def forget(self) -> None:
        """Drop everything."""
        with self._lock:
            self._place[:] = _NO_ROW
            self._used = 0
