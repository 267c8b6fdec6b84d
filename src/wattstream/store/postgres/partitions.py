"""Daily partitions of history, made before the flush that needs them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql as compose

from wattstream.domain.readings import Stream
from wattstream.domain.units import DAY_US, Int64, to_datetime
from wattstream.store.postgres import statements

DAYS_AHEAD = 2
_LOCK_TIMEOUT = "5s"


class Partitions:
    """The partitions of one stream known to exist."""

    def __init__(self, stream: Stream) -> None:
        self._parent = f"{stream}_history"
        self._sql = statements.load("partitions")
        self._known: set[int] = set()

    def ensure(self, connection: psycopg.Connection[Any], at_us: Int64) -> None:
        """Make every partition that readings measured at these times need.

        A table of its own is attached, because `CREATE TABLE … PARTITION OF` waits for one
        open export and makes every insert queue behind it.
        """
        first, last = int(at_us.min()) // DAY_US, int(at_us.max()) // DAY_US
        days = {first, last} if last - first <= 1 else set((at_us // DAY_US).tolist())
        for day in sorted(days - self._known):
            self._make(connection, day)
            self._known.add(day)

    def prepare(self, connection: psycopg.Connection[Any], now_us: int) -> None:
        """Make the partitions of today and the next days."""
        for day in range(now_us // DAY_US, now_us // DAY_US + DAYS_AHEAD + 1):
            if day not in self._known:
                self._make(connection, day)
                self._known.add(day)

    def forget(self) -> None:
        """Drop the cache, as after a partition was found missing."""
        self._known.clear()

    def _make(self, connection: psycopg.Connection[Any], day: int) -> None:
        start = to_datetime(day * DAY_US)
        partition = f"{self._parent}_{start:%Y%m%d}"
        if self._exists(connection, partition):
            return
        names = {
            "parent": compose.Identifier(self._parent),
            "partition": compose.Identifier(partition),
            "start": compose.Literal(_bound(start)),
            "stop": compose.Literal(_bound(start + timedelta(days=1))),
        }
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            connection.execute(self._sql["lock"])
            if not self._exists(connection, partition):
                for step in ("create", "attach"):
                    connection.execute(compose.SQL(self._sql[step].decode()).format(**names))

    def _exists(self, connection: psycopg.Connection[Any], partition: str) -> bool:
        names = {"parent": self._parent, "partition": partition}
        row = connection.execute(self._sql["exists"], names).fetchone()
        return bool(row and row[0])


def _bound(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
