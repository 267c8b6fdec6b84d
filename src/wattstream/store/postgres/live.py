"""Live rows of one stream kept in memory, so that a flush need not read them first.

A block is as this engine last read it, wrote it, or is about to write it. Its version tells
whether the database has that one: whoever changes a live row gives its block a new version, so a
stale one is noticed by the statement that would overwrite it.
"""

import threading

import numpy as np

from wattstream.domain.readings import Stream
from wattstream.domain.rollup import day_columns, live_dtype
from wattstream.domain.units import Int64, Rows
from wattstream.store.postgres.blocks import BLOCK_DEVICES, Blocks

# About 100 MB a stream; the rows of further devices are read each time.
_MAX_BLOCKS = 500_000 // BLOCK_DEVICES
_MAX_NUMBER = 8_000_000 // BLOCK_DEVICES
_NO_PLACE = -1
# Where several engines write the same devices, one flush in so many tries its live rows in memory.
_LONGEST_PAUSE = 64


class LiveCache:
    """Blocks of live rows by number, for several threads."""

    def __init__(self, stream: Stream) -> None:
        self._day = day_columns(stream)
        self._dtype = live_dtype(stream)
        self._rows = self._empty(128)
        self._version = np.zeros(128, np.int64)
        self._used = 0
        # Keys of both streams come from one sequence: a place for each number, rows for our own.
        self._place = np.full(1024, _NO_PLACE, np.int32)
        # A row read while it is written would be a mixture that its version does not tell.
        self._lock = threading.Lock()

    def _empty(self, blocks: int) -> Rows:
        """Return room for blocks, moved as one piece each."""
        return np.zeros(blocks, np.dtype((np.void, BLOCK_DEVICES * self._dtype.itemsize)))

    def get(self, number: Int64) -> Blocks | None:
        """Return copies of blocks, numbers ascending, or None where one is unknown."""
        with self._lock:
            if not self._has(number):
                return None
            place = self._place.take(number)
            rows = self._rows.take(place).view(self._dtype)
            return Blocks(number, self._version.take(place), rows)

    def has(self, number: Int64) -> bool:
        """Return whether all of some blocks are known, numbers ascending."""
        with self._lock:
            return self._has(number)

    def _has(self, number: Int64) -> bool:
        is_inside = int(number[-1]) < len(self._place)
        return is_inside and int(self._place.take(number).min()) != _NO_PLACE

    def put(self, blocks: Blocks) -> None:
        """Remember blocks that are committed or will be, or just read; they are lent.

        What their rows add to the day is dropped.
        """
        if int(blocks.number[-1]) >= _MAX_NUMBER:
            blocks = blocks.chosen(blocks.number < _MAX_NUMBER)
            if len(blocks.number) == 0:
                return
        for name, _ in self._day:
            blocks.rows[name] = 0
        with self._lock:
            self._make_room(blocks.number)
            place = self._place[blocks.number]
            if int(place.min()) == _NO_PLACE:
                blocks = blocks.chosen(place != _NO_PLACE)
                place = place[place != _NO_PLACE]
            self._rows[place] = blocks.rows.view(self._rows.dtype)
            self._version[place] = blocks.version

    def _make_room(self, number: Int64) -> None:
        """Give a place to blocks that have none, as long as there is room."""
        if (last := int(number[-1])) >= len(self._place):
            grown = np.full(min(2 * last, _MAX_NUMBER), _NO_PLACE, np.int32)
            grown[: len(self._place)] = self._place
            self._place = grown
        new = number[self._place[number] == _NO_PLACE][: _MAX_BLOCKS - self._used]
        if self._used + len(new) > len(self._rows):
            room = min(2 * (self._used + len(new)), _MAX_BLOCKS)
            rows, version = self._empty(room), np.zeros(room, np.int64)
            rows[: self._used], version[: self._used] = (
                self._rows[: self._used],
                self._version[: self._used],
            )
            self._rows, self._version = rows, version
        self._place[new] = np.arange(self._used, self._used + len(new))
        self._used += len(new)

    def forget(self) -> None:
        """Drop everything."""
        with self._lock:
            self._place[:] = _NO_PLACE
            self._used = 0


class Trust:
    """Whether live rows in memory are worth a try: less and less often where others write too."""

    def __init__(self) -> None:
        self._skip = 0
        self._pause = 1

    def is_due(self) -> bool:
        """Return whether to try now."""
        self._skip = max(0, self._skip - 1)
        return self._skip == 0

    def confirmed(self) -> None:
        """Note that the rows stood."""
        self._pause = 1

    def disappointed(self) -> None:
        """Note that another writer had changed one."""
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._skip = self._pause
