"""Partitions that somebody took away under a running engine."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import psycopg
import pytest

from test_exactness import FIRST, Sent, readings
from test_store import NOW, opened
from wattstream.domain.readings import Stream
from wattstream.domain.units import DAY_US, MICRO
from wattstream.store.port import Verdict

DAY = FIRST // DAY_US * DAY_US
NAME = f"meter_history_{datetime.fromtimestamp(DAY / 1e6, UTC):%Y%m%d}"


@pytest.mark.parametrize("size", [20, 2000])
@pytest.mark.parametrize("sent_again", [0, 20])
def test_detached_day_is_attached_again_with_its_readings(
    make_database: Callable[[], str], size: int, sent_again: int
) -> None:
    """Both where the next readings are new, and where some of the detached come again."""
    rows = [Sent(0, DAY + second * MICRO, second) for second in range(20 + size)]

    async def main() -> None:
        conninfo = make_database()
        async for store in opened(conninfo):
            await store.write(readings(Stream.METER, str, rows[:20]), NOW)
            with psycopg.connect(conninfo, autocommit=True) as other:
                other.execute(f"ALTER TABLE meter_history DETACH PARTITION {NAME}".encode())

            part = readings(Stream.METER, str, rows[20 - sent_again :])
            written = await store.write(part, NOW)

            verdicts = np.full(len(part), Verdict.STORED)
            verdicts[:sent_again] = Verdict.DUPLICATE
            assert written.verdicts.tolist() == verdicts.tolist()
            with psycopg.connect(conninfo) as other:
                (held,) = other.execute("SELECT count(*) FROM meter_history").fetchone() or (0,)
            assert held == len(rows)
            assert (await store.refresh(DAY, DAY + DAY_US)).buckets_repaired == 0

    asyncio.run(main())


def test_dropped_day_without_readings_is_made_again(make_database: Callable[[], str]) -> None:
    async def main() -> None:
        conninfo = make_database()
        async for store in opened(conninfo):
            await store.prepare(DAY)
            with psycopg.connect(conninfo, autocommit=True) as other:
                other.execute(f"DROP TABLE {NAME}".encode())
            written = await store.write(readings(Stream.METER, str, [Sent(0, DAY, 5)]), NOW)
            assert written.verdicts.tolist() == [Verdict.STORED]

    asyncio.run(main())
