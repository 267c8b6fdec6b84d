"""A reading that came alone, and what becomes of it."""

from abc import ABC, abstractmethod

from wattstream.domain.errors import WattstreamError
from wattstream.domain.readings import Rejection, Row
from wattstream.pipeline.verdicts import rejection_of
from wattstream.store.port import Verdict, Written

_IS_STORED = {Verdict.STORED.value: True, Verdict.DUPLICATE.value: False}


class Single(ABC):
    """A reading that waits for its flush; exactly one of three things becomes of it.

    Attributes:
        row: The reading.
        record: It, as it came.
    """

    __slots__ = ("record", "row")

    def __init__(self, row: Row, record: bytes) -> None:
        self.row = row
        self.record = record

    @abstractmethod
    def settle(self, *, is_stored: bool) -> None:
        """Learn that it is committed, now or, where it is a duplicate, before."""

    @abstractmethod
    def reject(self, rejection: Rejection) -> None:
        """Learn why it is refused."""

    @abstractmethod
    def fail(self, error: WattstreamError) -> None:
        """Learn that it was not committed."""

    def receive(self, _start: int, _stop: int, written: Written, offset: int) -> None:
        """Take row `offset` of a flush."""
        is_stored = _IS_STORED.get(written.verdicts.item(offset))
        if is_stored is not None:
            self.settle(is_stored=is_stored)
        else:
            self.reject(rejection_of(self.row, self.record, written, offset))
