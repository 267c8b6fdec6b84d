"""What a flush sends to PostgreSQL, packed before it is sent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

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
    data: bytes


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
    connection: Connection, steps: Sequence[Step], on_half: Callable[[], None] | None = None
) -> None:
    """Send steps as one transaction, all at once where none is a COPY.

    Args:
        connection: In no transaction.
        steps: At least one.
        on_half: Called when the first step is done.

    Raises:
        ChangedRowError: A statement changed fewer rows than it must; nothing was written.
    """
    if any(isinstance(step, Copy) for step in steps):
        with connection.transaction():
            send(connection, steps[:1])
            if on_half is not None:
                on_half()
            send(connection, steps[1:])
        return
    try:
        with connection.pipeline(), connection.transaction():
            for step in steps:
                assert isinstance(step, Statement)  # noqa: S101 - see above
                sql, params = step.sql, dict(step.params)
                if step.rows is not None:
                    sql, params["expected"] = _GUARDED % sql, step.rows
                connection.execute(sql, params)
    except psycopg.errors.DivisionByZero as error:
        raise ChangedRowError from error


# In a pipeline the number of changed rows shows only after the commit, so the statement itself
# must fail.
_GUARDED = (
    b"WITH changed AS (%s RETURNING 1) SELECT 1 / (count(*) = %%(expected)s)::int FROM changed"
)
