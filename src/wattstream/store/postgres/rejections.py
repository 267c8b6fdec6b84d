"""Refused records: kept in one statement a part, and pruned in small ones."""

import json
from collections.abc import Sequence

from wattstream.domain.readings import Rejection
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.connections import Connection

MAX_RECORD_BYTES = 8192
_KEPT_AT_ONCE = 10_000
_PRUNED_AT_ONCE = 1000  # about 10 ms, for which a request with refused records may wait


def keep(
    rejections: Sequence[Rejection], rejected_at_us: int, key: str | None, connection: Connection
) -> None:
    """Keep and count refused records, all or none; each record is cut at MAX_RECORD_BYTES."""
    with connection.transaction():
        for first in range(0, len(rejections), _KEPT_AT_ONCE):
            part = rejections[first : first + _KEPT_AT_ONCE]
            connection.execute(
                statements.load("rejections")["keep"],
                {
                    "rejected_at": arrays.time_param(rejected_at_us),
                    "key": key,
                    "stream": [rejection.stream for rejection in part],
                    "device": [rejection.device for rejection in part],
                    "code": [rejection.code for rejection in part],
                    "message": [rejection.message for rejection in part],
                    "field": [rejection.field for rejection in part],
                    "record": [rejection.record[:MAX_RECORD_BYTES] for rejection in part],
                    "conflict": [
                        rejection.conflict and json.dumps(rejection.conflict._asdict())
                        for rejection in part
                    ],
                },
            )


def prune_part(oldest_us: int, max_bytes: int, connection: Connection) -> int:
    """Drop some of the oldest kept rejections where they are too old, or all are too large.

    Returns:
        How many were dropped; 0 where nothing is left to drop, or another engine is at it.
    """
    statement = statements.load("rejections")
    with connection.transaction():
        locked = connection.execute(statement["prune_lock"]).fetchone()
        if locked is None or not locked[0]:
            return 0
        bounds = {"oldest_at": arrays.time_param(oldest_us), "max_bytes": max_bytes}
        row = connection.execute(statement["prune"], {**bounds, "rows": _PRUNED_AT_ONCE}).fetchone()
        return 0 if row is None else int(row[0])
