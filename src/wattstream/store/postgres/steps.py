"""What a flush sends to PostgreSQL, packed before it is sent."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import psycopg

from wattstream.store.port import Progress

Connection = psycopg.Connection[Any]


class ChangedRowError(Exception):
    """A block of live rows is not as it was read, or a row of it is gone: somebody changed it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement with its parameters.

    Attributes:
        sql: The statement.
        params: By name.
        rows: How many rows it must change, or None.
    """

    sql: bytes
    params: Mapping[str, Any]
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """A COPY … FROM STDIN with all of its data."""

    sql: bytes
    data: memoryview


Step = Statement | Copy


def send(connection: Connection, steps: Sequence[Step]) -> None:
    """Send steps one after the other.

    Raises:
        ChangedRowError: A statement changed fewer rows than it must.
    """
    for step in steps:
        if isinstance(step, Copy):
            with connection.cursor().copy(step.sql) as copy:
                copy.write(step.data)
        elif connection.execute(step.sql, step.params).rowcount != step.rows and step.rows:
            raise ChangedRowError


def commit(
    connection: Connection,
    steps: Sequence[Step],
    on_progress: Callable[[Progress], None] | None = None,
) -> None:
    """Send steps as one transaction.

    Where none is a COPY, that is one statement. Else the statements go out together, before the
    COPY, so that there are four answers to wait for: each has to wait for the interpreter as well.

    Args:
        connection: In no transaction.
        steps: The first is a statement that must change a number of rows.
        on_progress: Told of the statements and of the COPY, where there is one.

    Raises:
        ChangedRowError: A statement changed fewer rows than it must; nothing was written.
    """
    if any(isinstance(step, Copy) for step in steps):
        try:
            _commit_copies(connection, steps, on_progress or _nobody)
        except BaseException:
            if not connection.closed:
                connection.rollback()
            raise
        return
    _execute_joined(connection, [step for step in steps if isinstance(step, Statement)])


def _commit_copies(
    connection: Connection, steps: Sequence[Step], on_progress: Callable[[Progress], None]
) -> None:
    statements = [step for step in steps if isinstance(step, Statement)]
    try:
        with connection.pipeline():
            connection.execute(b"BEGIN")
            # Where the first finds a row changed, it fails, and the server leaves out the rest:
            # those would take locks that only the first one's allow.
            _send_joined(connection, statements[:1])
            sent = [(connection.execute(one.sql, one.params), one.rows) for one in statements[1:]]
    except psycopg.errors.DivisionByZero as error:
        raise ChangedRowError from error
    if any(rows is not None and cursor.rowcount != rows for cursor, rows in sent):
        raise ChangedRowError
    on_progress(Progress.HALF)
    send(connection, [step for step in steps if isinstance(step, Copy)])
    on_progress(Progress.SENT)
    connection.execute(b"COMMIT")


def _nobody(progress: Progress) -> None:
    """Tell nobody."""


def _execute_joined(connection: Connection, statements: Sequence[Statement]) -> None:
    """Send statements as one, which is a transaction, and one round trip."""
    try:
        _send_joined(connection, statements)
    except psycopg.errors.DivisionByZero as error:
        raise ChangedRowError from error


def _send_joined(connection: Connection, statements: Sequence[Statement]) -> None:
    params = {
        f"s{i}_{name}": value
        for i, statement in enumerate(statements)
        for name, value in (*statement.params.items(), ("rows", statement.rows))
        if name != "rows" or value is not None
    }
    joined = _joined(tuple((one.sql, one.rows is not None) for one in statements))
    connection.execute(joined, params)


@cache
def _joined(statements: tuple[tuple[bytes, bool], ...]) -> bytes:
    """Return statements as one, whose parameters have the place of their own in their names.

    Those that must change a number of rows are run before the others, in their order; where one
    changes another number, the whole fails with a division by zero, and none after it is run.
    """
    parts = [
        b"s%d AS (%s RETURNING 1)" % (i, re.sub(rb"%\((\w+)\)s", rb"%%(s%d_\1)s" % i, sql))
        for i, (sql, _) in enumerate(statements)
    ]
    checks = [
        b"WHEN (SELECT count(*) FROM s%d) <> %%(s%d_rows)s THEN 0" % (i, i)
        for i, (_, is_counted) in enumerate(statements)
        if is_counted
    ]
    return b"WITH %s SELECT 1 / CASE %s ELSE 1 END" % (b", ".join(parts), b" ".join(checks))
