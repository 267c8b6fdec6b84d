"""The benchmark's long history holds what an engine would have written."""

import asyncio
from typing import Any

import psycopg
import pytest

from wattstream.bench.history import external_id, grow
from wattstream.domain.errors import OperatorError
from wattstream.domain.holdings import Repair
from wattstream.domain.readings import Stream
from wattstream.domain.units import BUCKET_US, DAY_US, MICRO, to_datetime
from wattstream.store.postgres import PostgresStore

NOW = 1_770_631_200 * MICRO + 7 * 60 * MICRO + 1  # 2026-02-09T10:07Z, inside a bucket
MINUTE = 60 * MICRO
PAIRS = 20


def repair(bench_conninfo: str) -> Repair:
    async def main() -> Repair:
        store = PostgresStore(bench_conninfo, read_connections=1)
        await store.open()
        try:
            return await store.refresh(0, NOW + DAY_US)
        finally:
            await store.close()

    return asyncio.run(main())


def ask(bench_conninfo: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(bench_conninfo) as connection:
        return connection.execute(statement.encode()).fetchall()


@pytest.mark.slow
@pytest.mark.parametrize("passed", [0, 2, 8, 31])
def test_a_history_that_grew_in_steps_needs_no_repair(bench_conninfo: str, passed: int) -> None:
    later = NOW + passed * MINUTE
    for rows, now in ((3 * 40, NOW), (47 * 40, NOW), (700 * 40, later), (2 * 1440 * 40, later)):
        grow(bench_conninfo, PAIRS, rows, clock_us=lambda now=now: now)  # type: ignore[misc]
        found = repair(bench_conninfo)
        assert found.buckets_repaired == 0
        assert found.buckets_checked >= rows // 15
    held = 2 * 1440 * PAIRS
    for stream in Stream:
        assert ask(bench_conninfo, f"SELECT count(*) FROM {stream}_history") == [(held,)]
        assert ask(
            bench_conninfo,
            f"""SELECT sum(readings)::int8, min(first_at), max(last_at) FROM history_days
            WHERE stream = '{stream}'""",
        ) == ask(
            bench_conninfo,
            f"SELECT count(*), min(measured_at), max(measured_at) FROM {stream}_history",
        )
        assert (
            ask(
                bench_conninfo,
                f"""SELECT (first_at AT TIME ZONE 'UTC')::date = day, sum(readings)::int8 -
                (SELECT count(*) FROM {stream}_history
                 WHERE (measured_at AT TIME ZONE 'UTC')::date = day)
            FROM history_days WHERE stream = '{stream}' GROUP BY day, 1""",
            )
            == [(True, 0)] * 3
        )
        newest = (later // MINUTE - 1) * MINUTE
        assert ask(
            bench_conninfo, f"SELECT DISTINCT date_trunc('minute', last_at) FROM {stream}_live"
        ) == [(to_datetime(newest),)]
    assert ask(bench_conninfo, "SELECT count(*), count(DISTINCT external_id) FROM devices") == [
        (2 * PAIRS, PAIRS)
    ]


@pytest.mark.slow
def test_day_tables_are_left_as_the_engine_makes_them(bench_conninfo: str) -> None:
    grow(bench_conninfo, PAIRS, 1500 * 40, clock_us=lambda: NOW)
    tables = ask(
        bench_conninfo,
        """SELECT inhrelid::regclass::text, pg_get_expr(relpartbound, pg_class.oid),
            (SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), ', ' ORDER BY conname)
             FROM pg_constraint WHERE conrelid = inhrelid AND contype <> 'n'),
            (SELECT count(*) FROM pg_index JOIN pg_inherits AS i ON i.inhrelid = indexrelid
             WHERE indrelid = pg_class.oid AND indisvalid AND indisprimary)
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent IN ('meter_history'::regclass, 'vehicle_history'::regclass) ORDER BY 1""",
    )
    assert tables == [
        (
            name := f"{stream}_history_202602{day:02d}",
            f"FOR VALUES FROM ('2026-02-{day:02d} 00:00:00+00') "
            f"TO ('2026-02-{day + 1:02d} 00:00:00+00')",
            f"{name}_pkey PRIMARY KEY (minute, device_id, measured_at)",
            1,
        )
        for stream in ("meter", "vehicle")
        for day in (8, 9)
    ]


@pytest.mark.slow
def test_live_rows_sum_their_last_day(bench_conninfo: str) -> None:
    grow(bench_conninfo, PAIRS, 2 * 1440 * 40, clock_us=lambda: NOW)
    day = 95 * BUCKET_US // MICRO
    for stream in Stream:
        wrong = ask(
            bench_conninfo,
            f"""SELECT l.device_id FROM {stream}_live AS l
            JOIN {stream}_history AS h ON h.device_id = l.device_id
                AND h.measured_at >= l.bucket_at - interval '{day} seconds'
                AND h.measured_at < l.bucket_at
            GROUP BY l.device_id, l.day_energy_ukwh, l.day_readings, l.day_suspect_ukwh
            HAVING sum(h.energy_ukwh) <> l.day_energy_ukwh OR count(*) <> l.day_readings
                OR l.day_suspect_ukwh <> 0""",
        )
        assert wrong == []
        assert ask(bench_conninfo, f"SELECT DISTINCT day_readings FROM {stream}_live") == [
            (95 * 15,)
        ]


@pytest.mark.slow
def test_a_history_larger_than_the_disk_is_refused_before_anything_is_written(
    bench_conninfo: str,
) -> None:
    with pytest.raises(OperatorError, match=r"needs .* GB in .* GB are free"):
        grow(bench_conninfo, PAIRS, 10**15, clock_us=lambda: NOW)
    assert ask(bench_conninfo, "SELECT count(*) FROM devices") == [(0,)]


def test_both_devices_of_a_pair_report_one_id() -> None:
    assert external_id(123) == "B000123"
