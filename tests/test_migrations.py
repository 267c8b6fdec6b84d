"""The schema's own record of its version."""

from collections.abc import Callable

import psycopg
import pytest

from wattstream.domain.errors import SchemaError
from wattstream.store.postgres.migrations import migrate


def test_database_of_a_newer_version_is_refused_and_left_alone(
    make_database: Callable[[], str],
) -> None:
    conninfo = make_database()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO wattstream_migrations (number, name) VALUES (9999, '9999_later')"
        )
        query = "SELECT array_agg(number ORDER BY number) FROM wattstream_migrations"
        before = connection.execute(query).fetchone()
        with pytest.raises(SchemaError, match=r"newer Wattstream \(migration 9999_later\)"):
            migrate(conninfo)
        assert connection.execute(query).fetchone() == before
