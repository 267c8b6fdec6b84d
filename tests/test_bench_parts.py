"""The benchmark takes all of a history away, and measures what open pages cost."""

from pathlib import Path

import psycopg
import pytest

from wattstream.bench.engine import run_engine
from wattstream.bench.export import measure_export
from wattstream.bench.rows import Row
from wattstream.bench.viewers import five_viewers, measure_viewers, watching
from wattstream.domain.errors import OperatorError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


def test_a_history_is_taken_away_whole_in_each_form(bench_conninfo: str) -> None:
    rows: list[Row] = []
    measure_export(bench_conninfo, run_engine, 40_000, rows.append, pairs=10)
    csv, arrow = rows
    assert [csv.case.rpartition(" ")[2], arrow.case.rpartition(" ")[2]] == ["CSV", "Arrow"]
    assert all(row.rate > 0 and "MiB before" in row.note for row in rows)


def test_ingest_is_measured_with_pages_open_and_without(bench_conninfo: str) -> None:
    rows: list[Row] = []
    with psycopg.connect(bench_conninfo) as connection:
        shown = connection.execute("SHOW data_directory").fetchone()
    assert shown is not None
    postmaster = int((Path(shown[0]) / "postmaster.pid").read_text().split()[0])
    ratio = measure_viewers(
        bench_conninfo, postmaster, run_engine, rows.append, rounds=1, minutes=24, devices=200
    )
    alone, watched = rows
    assert watched.ratio == ratio == watched.rate / alone.rate
    assert "µs of CPU a reading" in watched.note


def test_a_page_that_is_not_served_is_told(bench_conninfo: str) -> None:
    nobody = ["nobody"]
    with (
        run_engine(bench_conninfo) as engine,
        pytest.raises(OperatorError, match="A page was not served"),
        watching(engine.port, five_viewers(nobody, nobody)),
    ):
        pass
