"""What keys cost ingest: an engine without any key, and one with keys of several kinds.

Both take the same load at the same time, so that a machine that is faster now than later is so for
both.
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from statistics import median

import psycopg

from wattstream.bench.engine import Engine, make_database
from wattstream.bench.load import run_load
from wattstream.bench.payloads import Shape, moved, requests
from wattstream.bench.rows import Row
from wattstream.domain.access import Token, digest_of
from wattstream.inputs.http import BATCH_PATH
from wattstream.query.keyring import new_token

_TEMPLATE_MINUTES = 24
_CONNECTIONS = 8
_FOLLOWED_S = 1.5
_FLEET = "bench"
_KINDS: dict[str, tuple[str | None, str | None] | None] = {
    "no key either": None,
    "a key": (None, None),
    "a key bound to ids": (None, "*"),
    "a key bound to a fleet": (_FLEET, None),
}


def measure_keys(
    conninfo: str,
    start_engine: Callable[[str], AbstractContextManager[Engine]],
    copy_rate: float,
    on_row: Callable[[Row], None],
    *,
    rounds: int = 5,
) -> None:
    """Measure batches with keys of several kinds, each beside batches without.

    Args:
        conninfo: A PostgreSQL server of this machine, as superuser.
        start_engine: Runs an engine on a database.
        copy_rate: The reference, rows a second.
        on_row: Called with each result.
        rounds: How often each kind is measured.
    """
    rates: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    shares: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    token = new_token()
    shapes = (Shape(), Shape(token=str(token)))
    templates = [requests(shape, 0, _TEMPLATE_MINUTES, BATCH_PATH) for shape in shapes]
    next_s = int(time.time()) // 60 * 60 - 30 * 86_400
    names = ("wattstream_open", "wattstream_guarded")
    without, guarded = (make_database(conninfo, name) for name in names)
    with (
        start_engine(without) as first,
        start_engine(guarded) as second,
        psycopg.connect(guarded, autocommit=True) as connection,
        ThreadPoolExecutor(2) as threads,
    ):

        def both() -> list[float]:
            """Return the rates of both engines, until one of them has all of the load."""
            nonlocal next_s
            stop = multiprocessing.get_context("fork").Event()
            built = [moved(template, _TEMPLATE_MINUTES, next_s) for template in templates]
            next_s += 60 * _TEMPLATE_MINUTES
            running = [
                threads.submit(run_load, engine.port, load, _CONNECTIONS, stop)
                for engine, load in zip((first, second), built, strict=True)
            ]
            return [each.result().rate for each in running]

        both()  # devices, partitions and caches are there before anything is measured
        connection.execute("UPDATE devices SET fleet = %s", [_FLEET])
        for _ in range(rounds):
            for kind, reach in _KINDS.items():
                _set_key(connection, token, reach)
                time.sleep(_FOLLOWED_S)  # the engine follows within a second
                plain, rate = both()
                rates[kind].append(rate)
                shares[kind].append(rate / plain)
    for kind, found in rates.items():
        note = (
            f"{median(shares[kind]):.3f} of the rate of another engine at the same time, without "
            f"any key; median of {rounds}, {min(shares[kind]):.3f} to {max(shares[kind]):.3f}"
        )
        rate = median(found)
        case = f"{kind}, {_CONNECTIONS} connections each"
        on_row(Row("keys", case, rate, rate / copy_rate, note=note))


def _set_key(
    connection: psycopg.Connection, token: Token, reach: tuple[str | None, str | None] | None
) -> None:
    """Let one key be the only one, or none be."""
    with connection.transaction():
        connection.execute("UPDATE access_changes SET changes = changes + 1")
        connection.execute("DELETE FROM access_keys")
        if reach is not None:
            connection.execute(
                "INSERT INTO access_keys"
                " (prefix, digest, name, scopes, fleet, devices, created_at, expires_at)"
                " VALUES (%s, %s, 'bench', '{ingest}', %s, %s, now(), 'infinity')",
                [token.prefix, digest_of(token.secret), *reach],
            )
