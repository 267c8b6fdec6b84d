"""Connections to PostgreSQL: how each is set up, and threads that own one each."""

import asyncio
import re
import select
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

import psycopg
import structlog

from wattstream.domain.errors import SchemaError, StoreUnavailableError
from wattstream.store.postgres import arrays

Connection = psycopg.Connection[Any]
Result = TypeVar("Result")

APPLICATION_NAME = "wattstream"
MINIMUM_VERSION = 150000
_ATTEMPTS = 6
_LOG_EVERY_S = 10.0
_RETRIED = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
)
# Every statement of ours finds rows by primary key. Fresh partitions have no statistics yet,
# and a plan made on a guess would scan a day of history.
_SESSION = {
    "TimeZone": "UTC",
    "jit": "off",
    "enable_seqscan": "off",
    "plan_cache_mode": "auto",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}
# A 2xx rests on synchronous_commit, whatever a role's own settings say.
_WRITER_SESSION = {
    **_SESSION,
    "plan_cache_mode": "force_custom_plan",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "synchronous_commit": "on",
}

_log = structlog.get_logger()


def session_sql(*, writes: bool, plans_once: bool = False) -> bytes:
    """Return the statement that sets up a session.

    Args:
        writes: Whether it is for a Worker.
        plans_once: Whether each statement keeps its first plan.
    """
    settings = dict(_WRITER_SESSION if writes else _SESSION)
    if plans_once:
        settings["plan_cache_mode"] = "force_generic_plan"
    return b"; ".join(f"SET {name} = '{value}'".encode() for name, value in settings.items())


def has_ended(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Return whether the server ended an idle session, from what has arrived; nothing is sent.

    A server that stops says so and closes; what is seen here fails before any work began, so a
    new connection can take its place.
    """
    pgconn = connection.pgconn
    try:
        arrived = select.poll()
        arrived.register(pgconn.socket, select.POLLIN)
        while arrived.poll(0):
            pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return pgconn.status != psycopg.pq.ConnStatus.OK


class Worker:
    """A thread with a connection of its own, opened when first needed and after it ended.

    A thread per connection lets two flushes run at once: psycopg waits for PostgreSQL, and
    NumPy works, without the interpreter's lock.
    """

    def __init__(self, conninfo: str, name: str, *, plans_once: bool = False) -> None:
        self._conninfo = conninfo
        self._name = name
        self._session = session_sql(writes=True, plans_once=plans_once)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"wattstream-{name}")
        self._connection: Connection | None = None

    async def run(self, work: Callable[[Connection], Result]) -> Result:
        """Do work in the thread; it must be a whole transaction, safe to do again.

        Raises:
            StoreUnavailableError: The database is away or refused the work; nothing of it
                was acknowledged.
        """
        loop = asyncio.get_running_loop()
        # With the context, so that what the thread logs bears the request's id.
        return await loop.run_in_executor(self._thread, copy_context().run, self._attempt, work)

    async def close(self) -> None:
        """Finish the work under way, then close the connection."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    def _attempt(self, work: Callable[[Connection], Result]) -> Result:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return work(self._connect())
            except _RETRIED as error:
                _log.warning(
                    "Transaction starts again; nothing is lost",
                    lane=self._name,
                    attempt=attempt,
                    reason=type(error).__name__,
                )
            except psycopg.errors.InsufficientPrivilege as error:
                raise no_privilege(error) from error
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                self._disconnect()
                raise unavailable(error) from error
        raise StoreUnavailableError("The database is busy with conflicting transactions.")

    def _connect(self) -> Connection:
        if self._connection is not None and not has_ended(self._connection):
            return self._connection
        self._disconnect()
        connection = psycopg.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=5,
            application_name=f"{APPLICATION_NAME} {self._name}",
        )
        connection.execute(self._session)
        arrays.register(connection)
        connection.prepare_threshold = 2
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def no_privilege(error: psycopg.Error) -> SchemaError:
    """Return the error for a role that may not do what the engine needs."""
    return SchemaError(
        f"PostgreSQL refuses: {error.diag.message_primary}. Grant the engine's user CREATE on "
        "the schema and let it own its tables; owning the database is the simple way."
    )


def reason_of(error: BaseException) -> str:
    """Return a driver's words for a failed connection, without what may be part of a URL."""
    text = " ".join(str(error).split())
    return re.sub(r"""(["'])[^"']*@[^"']*\1""", "(hidden)", text)


class _OutageLog:
    """Says that the database is away once in a while, however many requests find out."""

    def __init__(self) -> None:
        self._due_s = 0.0

    def warn(self, error: BaseException) -> None:
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + _LOG_EVERY_S
            reason, detail = type(error).__name__, reason_of(error)
            _log.warning("Database does not answer; clients get 503", reason=reason, detail=detail)


_outage_log = _OutageLog()


def unavailable(error: BaseException) -> StoreUnavailableError:
    """Translate a driver's error; its text goes to the log, never to a client."""
    _outage_log.warn(error)
    return StoreUnavailableError(
        "The database does not answer; nothing of this request was acknowledged. Send it again."
    )
