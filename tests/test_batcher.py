"""The batcher loses and doubles nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wattstream.domain.readings import Readings, Stream
from wattstream.pipeline.batcher import Batcher


def rows(first: int, n: int) -> Readings:
    numbers = np.arange(first, first + n)
    return Readings(
        Stream.METER, [str(i) for i in numbers], numbers, numbers, numbers[:, None] * 1.0
    )


@given(st.lists(st.integers(0, 25) | st.none(), max_size=60), st.integers(1, 12))
def test_every_row_comes_out_once_and_in_order(steps: list[int | None], limit: int) -> None:
    batcher: Batcher[int] = Batcher(limit)
    added = taken = 0
    pieces_due: dict[int, int] = {}
    for ticket, step in enumerate([*steps, *([None] * sum(filter(None, steps)))]):
        if step:
            pieces_due[ticket] = batcher.add(ticket, rows(added, step))
            added += step
        elif (flush := batcher.take()) is not None:
            readings = flush.readings()
            assert 1 <= len(readings) <= limit
            assert readings.at_us.tolist() == list(range(taken, taken + len(readings)))
            assert readings.ids == [str(i) for i in readings.at_us]
            taken += len(readings)
            for piece in flush.pieces:
                pieces_due[piece.ticket] -= 1
        assert batcher.waiting == added - taken
    assert taken == added
    assert not any(pieces_due.values())


def test_a_large_request_is_cut_and_its_pieces_know_their_place() -> None:
    batcher: Batcher[str] = Batcher(10)
    assert batcher.add("big", rows(0, 25)) == 3
    starts = []
    while (flush := batcher.take()) is not None:
        starts += [(piece.start, len(piece.readings)) for piece in flush.pieces]
    assert starts == [(0, 10), (10, 10), (20, 5)]
