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
from wattstream.domain.rows import assign
from wattstream.domain.units import Int64, Rows

_MAX_KEY = 250_000  # about 40 MB a stream; devices with greater keys are read each time


def new_version() -> int:
    """Return a version that no live row has had, as far as 63 random bits can tell."""
    return secrets.randbits(63) | 1


class LiveCache:
    """Live rows by device key, for several threads."""

    def __init__(self, stream: Stream) -> None:
        self._day = day_columns(stream)
        self._rows: Rows = np.zeros(0, live_dtype(stream))
        # A row read while it is written would be a mixture that its version does not tell.
        self._lock = threading.Lock()

    def get(self, devices: Int64) -> Rows | None:
        """Return copies of the rows of devices, keys ascending, or None where one is unknown."""
        with self._lock:
            if int(devices[-1]) >= len(self._rows):
                return None
            rows: Rows = self._rows.take(devices)
        return rows if rows["device_id"].all() else None

    def put(self, rows: Rows) -> None:
        """Remember rows that are committed or will be, or locked and just read."""
        rows = rows.compress(rows["device_id"] < _MAX_KEY)
        for name, _ in self._day:
            rows[name] = 0
        if len(rows) == 0:
            return
        with self._lock:
            if (last := int(rows["device_id"][-1])) >= len(self._rows):
                grown = np.zeros(min(2 * last + 1024, _MAX_KEY), self._rows.dtype)
                grown[: len(self._rows)] = self._rows
                self._rows = grown
            assign(self._rows, rows["device_id"], rows)

    def forget(self) -> None:
        """Drop everything."""
        with self._lock:
            self._rows = self._rows[:0]
