"""What keys cost ingest: the same load without any key, and with keys of several kinds."""

import time
from collections.abc import Callable
from statistics import median

import psycopg

from wattstream.bench.load import run_load
from wattstream.bench.payloads import Request, Shape
from wattstream.bench.rows import Row
from wattstream.domain.access import Token, digest_of
from wattstream.query.keyring import new_token

_ROUNDS = 8  # each kind is twice the first, and twice the last
_FOLLOWED_S = 2.5
_FLEET = "bench"
_KINDS: dict[str, tuple[str | None, str | None] | None] = {
    "without keys": None,
    "with a key": (None, None),
    "with a key bound to ids": (None, "*"),
    "with a key bound to a fleet": (_FLEET, None),
}


def measure_keys(
    port: int,
    conninfo: str,
    build: Callable[[Shape], list[Request]],
    copy_rate: float,
    on_row: Callable[[Row], None],
) -> None:
    """Measure batches of 16 connections, all kinds in turn, several rounds of them.

    Args:
        port: Of the engine.
        conninfo: Its database.
        build: Returns the requests of the next minutes.
        copy_rate: The reference, rows a second.
        on_row: Called with each result.
    """
    rates: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("UPDATE devices SET fleet = %s", [_FLEET])
        for number in range(_ROUNDS):
            kinds = list(_KINDS.items())
            first = number % len(kinds)
            for kind, reach in kinds[first:] + kinds[:first]:
                token = new_token()
                _set_key(connection, token, reach)
                time.sleep(_FOLLOWED_S)  # the engine follows within a second
                rates[kind].append(run_load(port, build(Shape(token=str(token))), 16).rate)
        _set_key(connection, new_token(), None)
    for kind, found in rates.items():
        rate = median(found)
        # A machine is faster at one time than at another: what ran one after the other is compared.
        share = median(a / b for a, b in zip(found, rates["without keys"], strict=True))
        note = f"{share:.3f} of the rate without, the median of {_ROUNDS} rounds"
        on_row(Row("keys", f"{kind}, 16 connections", rate, rate / copy_rate, note=note))


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
