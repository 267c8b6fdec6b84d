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
    """A live row is not as it was read: somebody else changed it."""


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
        steps: The first must change a number of rows.
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
    statements = [step for step in steps if isinstance(step, Statement)]
    params = {
        f"s{i}_{name}": value
        for i, statement in enumerate(statements)
        for name, value in statement.params.items()
    }
    joined = _joined(tuple(statement.sql for statement in statements))
    try:
        connection.execute(joined, params | {"rows": statements[0].rows})
    except psycopg.errors.DivisionByZero as error:
        raise ChangedRowError from error


def _commit_copies(
    connection: Connection, steps: Sequence[Step], on_progress: Callable[[Progress], None]
) -> None:
    with connection.pipeline():
        connection.execute(b"BEGIN")
        sent = [
            (connection.execute(step.sql, step.params), step.rows)
            for step in steps
            if isinstance(step, Statement)
        ]
    if any(rows is not None and cursor.rowcount != rows for cursor, rows in sent):
        raise ChangedRowError
    on_progress(Progress.HALF)
    send(connection, [step for step in steps if isinstance(step, Copy)])
    on_progress(Progress.SENT)
    connection.execute(b"COMMIT")


def _nobody(progress: Progress) -> None:
    """Tell nobody."""


@cache
def _joined(statements: tuple[bytes, ...]) -> bytes:
    """Return statements as one, whose parameters have the place of their own in their names.

    The first is run before the others, and fails with a division by zero where it changed
    another number of rows than it must. A single statement is a transaction, and one round trip.
    """
    parts = [
        b"s%d AS (%s RETURNING 1)" % (i, re.sub(rb"%\((\w+)\)s", rb"%%(s%d_\1)s" % i, sql))
        for i, sql in enumerate(statements)
    ]
    return b"WITH %s SELECT 1 / ((SELECT count(*) FROM s0) = %%(rows)s)::int" % b", ".join(parts)
