"""The database's schema, brought up to this version under an advisory lock."""

import psycopg
import structlog

from wattstream.domain.errors import SchemaError, StoreUnavailableError
from wattstream.store.postgres import statements
from wattstream.store.postgres.connections import (
    APPLICATION_NAME,
    MINIMUM_VERSION,
    no_privilege,
    reason_of,
)

_LOCK = 7_300_115_870_001
_LEDGER = """
CREATE TABLE IF NOT EXISTS wattstream_migrations (
    number     int4 PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_log = structlog.get_logger()


def migrate(conninfo: str) -> list[str]:
    """Apply the migrations that the database lacks, each in a transaction of its own.

    Returns:
        The names of those applied now.

    Raises:
        StoreUnavailableError: The database cannot be reached.
        SchemaError: It is too old, or was made by a newer Wattstream.
    """
    try:
        with psycopg.connect(
            conninfo, autocommit=True, connect_timeout=5, application_name=APPLICATION_NAME
        ) as connection:
            return _migrate(connection)
    except psycopg.OperationalError as error:
        raise StoreUnavailableError(
            f"PostgreSQL does not answer: {reason_of(error)}.\n"
            "Start that server or mend WATTSTREAM_DATABASE_URL; unset it to use the embedded one."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise no_privilege(error) from error
    except psycopg.ProgrammingError as error:
        # Its text may hold parts of the URL, and with them a password.
        raise SchemaError(
            "WATTSTREAM_DATABASE_URL cannot be used; write it as "
            "postgresql://user:password@host:5432/database"
        ) from error


def _migrate(connection: psycopg.Connection) -> list[str]:
    version = connection.info.server_version
    if version < MINIMUM_VERSION:
        raise SchemaError(
            f"PostgreSQL 15 or newer is needed, the server is {version // 10000}. "
            "Upgrade it, or unset WATTSTREAM_DATABASE_URL to use the embedded one."
        )
    connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
    try:
        connection.execute(_LEDGER)
        rows = connection.execute("SELECT number, name FROM wattstream_migrations").fetchall()
        applied: dict[int, str] = dict(rows)
        known = statements.migrations()
        newer = sorted(set(applied) - {number for number, _, _ in known})
        if newer:
            raise SchemaError(
                f"The database was set up by a newer Wattstream (migration {applied[newer[-1]]}); "
                "this version would damage it. Upgrade Wattstream."
            )
        missing = [migration for migration in known if migration[0] not in applied]
        for number, name, text in missing:
            _apply(connection, number, name, text)
            _log.info("Schema migrated", migration=name)
        return [name for _, name, _ in missing]
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def _apply(connection: psycopg.Connection, number: int, name: str, text: str) -> None:
    try:
        with connection.transaction():
            connection.execute(text.encode())
            connection.execute(
                "INSERT INTO wattstream_migrations (number, name) VALUES (%s, %s)", [number, name]
            )
    except psycopg.errors.InsufficientPrivilege:
        raise
    except psycopg.ProgrammingError as error:
        raise SchemaError(
            f"The schema could not be brought up to {name}: {error.diag.message_primary}. Nothing "
            "of it was changed. Has the database tables that are not Wattstream's, or of a copy?"
        ) from error
