"""The schema's own record of its version."""

from collections.abc import Callable

import psycopg
import pytest
from psycopg.rows import dict_row

from conftest import Server
from wattstream.domain.errors import SchemaError
from wattstream.domain.readings import Stream
from wattstream.store.postgres import statements
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


@pytest.mark.parametrize("stream", Stream)
def test_live_rows_in_another_order_are_the_same_rows(embedded: Server, stream: Stream) -> None:
    conninfo = embedded.superuser(embedded.make_database())
    texts = {number: text.encode() for number, _, text in statements.migrations()}
    with psycopg.connect(conninfo, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("CREATE SCHEMA before; SET search_path = before")
        for number in range(1, 8):
            connection.execute(texts[number])
        table = f"{stream}_live"
        described = connection.execute(f"SELECT * FROM {table}").description or []
        values = {
            column.name: f"'2026-01-{n + 1:02d}Z'" if column.name.endswith("_at") else str(n)
            for n, column in enumerate(described)
        }
        connection.execute(
            f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())})"
        )
        connection.execute(f"INSERT INTO {table} (device_id) VALUES (99)")
        rows = f"SELECT to_jsonb(l) FROM {table} AS l ORDER BY device_id"
        before = connection.execute(rows).fetchall()
        connection.execute(texts[8])
        assert connection.execute(rows).fetchall() == before
        assert len(set(map(str, before[0]["to_jsonb"].values()))) == len(described)
