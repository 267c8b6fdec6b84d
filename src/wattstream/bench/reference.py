"""The reference of the batch rates: what COPY reaches on this machine, over one connection."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import psycopg

from wattstream.store.postgres import arrays

ROWS = 10_000
_COMMITS = 24
RUNS = 5
_TABLE = """
CREATE TABLE {name} (
    device_id int4, ts timestamptz, soc float4, e int8, t float4, PRIMARY KEY (device_id, ts)
)
"""


def copy_rate(conninfo: str, connections: int = 1) -> float:
    """Return rows a second of binary COPY, 10,000 rows a commit, over all connections together.

    The median of five runs, each into empty plain tables of fixed shape, one a connection, so that
    a fatter history table cannot flatter a ratio; and each as long as one stream of a batch case.
    """
    return statistics.median(copy_once(conninfo, connections) for _ in range(RUNS))


def copy_once(conninfo: str, connections: int = 1) -> float:
    """Return the rows a second of one of those runs."""
    commits = _commits()
    names = [f"bench_reference_{number}" for number in range(connections)]
    with ThreadPoolExecutor(connections) as threads:
        seconds = threads.map(lambda name: _run(conninfo, name, commits), names)
        return connections * _COMMITS * ROWS / max(seconds)


def _run(conninfo: str, name: str, commits: list[memoryview]) -> float:
    """Return how many seconds it takes to write rows into a table of that name."""
    copy_in = f"COPY {name} FROM STDIN (FORMAT BINARY)".encode()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {name}".encode())
        connection.execute(_TABLE.format(name=name).encode())
        started = time.perf_counter()
        for rows in commits:
            with connection.transaction(), connection.cursor().copy(copy_in) as copy:
                copy.write(rows)
        seconds = time.perf_counter() - started
        connection.execute(f"DROP TABLE {name}".encode())
    return seconds


@cache
def _commits() -> list[memoryview]:
    """Return what is copied, made once."""
    return [_rows(commit) for commit in range(_COMMITS)]


def _rows(commit: int) -> memoryview:
    return arrays.copy_rows(
        [
            np.arange(ROWS, dtype=np.int32),
            np.full(ROWS, 8 * 10**14 + commit * 60_000_000),
            np.full(ROWS, 50, np.float32),
            np.arange(ROWS),
            np.full(ROWS, 20, np.float32),
        ]
    )
