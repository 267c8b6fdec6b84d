"""Requests to flushes and verdicts back: no I/O and no clock.

Requests that arrive while a flush is running share the next one. A large request is cut, so
a flush stays bounded; its pieces keep their order.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from wattstream.domain.readings import Readings, Row, concat

Ticket = TypeVar("Ticket")


@dataclass(slots=True)
class Piece(Generic[Ticket]):
    """Readings of one request inside one flush.

    Attributes:
        ticket: Who waits for the verdicts.
        start: First row of the piece in its request's readings.
        readings: n rows, or one.
        size: n.
    """

    ticket: Ticket
    start: int
    readings: Readings | Row
    size: int


@dataclass(frozen=True, slots=True)
class Flush(Generic[Ticket]):
    """Pieces to be written together, in order of arrival."""

    pieces: list[Piece[Ticket]]

    def readings(self) -> Readings:
        """Return all rows, piece after piece."""
        return concat([piece.readings for piece in self.pieces])


class Batcher(Generic[Ticket]):
    """The readings of one stream that wait for a flush.

    Attributes:
        waiting: Readings that wait.
    """

    def __init__(self, flush_readings: int) -> None:
        self._limit = flush_readings
        self._pieces: deque[Piece[Ticket]] = deque()
        self.waiting = 0

    def add(self, ticket: Ticket, readings: Readings) -> int:
        """Queue a request's readings; return in how many pieces."""
        starts = range(0, len(readings), self._limit)
        for start in starts:
            stop = min(start + self._limit, len(readings))
            piece = readings if len(starts) == 1 else readings.part(start, stop)
            self._pieces.append(Piece(ticket, start, piece, stop - start))
        self.waiting += len(readings)
        return len(starts)

    def add_row(self, ticket: Ticket, row: Row) -> None:
        """Queue a request of one reading."""
        self._pieces.append(Piece(ticket, 0, row, 1))
        self.waiting += 1

    def take(self) -> Flush[Ticket] | None:
        """Return the next flush: what waits, up to the limit; None where nothing does."""
        pieces: list[Piece[Ticket]] = []
        size = 0
        while self._pieces and (not pieces or size + self._pieces[0].size <= self._limit):
            pieces.append(self._pieces.popleft())
            size += pieces[-1].size
        self.waiting -= size
        return Flush(pieces) if pieces else None
