"""The reference of the batch rates: what one connection's COPY reaches on this machine."""

import statistics
import time
from typing import Any

import numpy as np
import psycopg

from wattstream.store.postgres import arrays

ROWS = 10_000
_COMMITS = 24
_RUNS = 5
_COPY = "COPY bench_reference FROM STDIN (FORMAT BINARY)"
_TABLE = """
CREATE TABLE bench_reference (
    device_id int4, ts timestamptz, soc float4, e int8, t float4, PRIMARY KEY (device_id, ts)
)
"""


def copy_rate(conninfo: str) -> float:
    """Return rows a second of one connection's binary COPY, 10,000 rows a commit.

    The median of five runs, each into an empty plain table of fixed shape, so that a fatter
    history table cannot flatter a ratio; and each as long as one stream of a batch case.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return statistics.median(_run(connection) for _ in range(_RUNS))


def _run(connection: psycopg.Connection[Any]) -> float:
    connection.execute("DROP TABLE IF EXISTS bench_reference")
    connection.execute(_TABLE)
    commits = [_rows(commit) for commit in range(_COMMITS)]
    started = time.perf_counter()
    for rows in commits:
        with connection.transaction(), connection.cursor().copy(_COPY) as copy:
            copy.write(rows)
    rate = _COMMITS * ROWS / (time.perf_counter() - started)
    connection.execute("DROP TABLE bench_reference")
    return rate


def _rows(commit: int) -> bytes:
    return arrays.copy_rows(
        [
            np.arange(ROWS, dtype=np.int32),
            np.full(ROWS, 8 * 10**14 + commit * 60_000_000),
            np.full(ROWS, 50, np.float32),
            np.arange(ROWS),
            np.full(ROWS, 20, np.float32),
        ]
    )
