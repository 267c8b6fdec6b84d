"""The benchmark of answers asks an engine everything, at each size, idle and with load."""

import math

import psycopg
import pytest

from wattstream.bench.answers import measure_answers
from wattstream.bench.engine import run_engine
from wattstream.bench.rows import Row
from wattstream.bench.wrk import _latency_ms

PAIRS = 40


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_every_answer_is_measured_at_each_size(bench_conninfo: str) -> None:
    rows: list[Row] = []
    sizes = (2 * PAIRS * 60, 2 * PAIRS * 1500)
    measure_answers(
        bench_conninfo, run_engine, sizes, 0.1, rows.append, pairs=PAIRS, asked=0.1, rounds=2
    )
    measured = {row.case: row for row in rows}
    for name in ("performance", "status", "stats", "alerts", "fleet", "a day of history"):
        for label in ("idle", "with load"):
            small = measured.pop(f"{name}, 0.0048 million rows, {label}")
            large = measured.pop(f"{name}, 0.12 million rows, {label}")
            assert small.ratio is None
            assert large.ratio == pytest.approx(large.p99_ms / small.p99_ms)  # type: ignore[operator]
            assert small.rate > 0
            assert 0 < small.p50_ms <= small.p99_ms < math.inf  # type: ignore[operator]
            assert "1.0 h of history" in small.note
    assert len(measured.keys() & {
        f"a heartbeat sent, {size} million rows, the load itself" for size in ("0.0048", "0.12")
    }) == 2  # fmt: skip
    database = psycopg.conninfo.make_conninfo(
        bench_conninfo, dbname=f"wattstream_answers_{sizes[1]}"
    )
    with psycopg.connect(database) as connection:
        held = connection.execute("SELECT count(*) FROM vehicle_history").fetchone()
    assert held is not None
    assert held[0] > sizes[1] // 2  # the load was stored


def test_a_latency_is_read_as_wrk_prints_it() -> None:
    text = "     50%   33.35ms\n     90%  812.00us\n     99%    2.20s \n"
    assert [_latency_ms(text, of) for of in (50, 90, 99)] == [33.35, 0.812, 2200]
