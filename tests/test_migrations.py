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


@pytest.mark.parametrize("stream", Stream)
def test_live_rows_in_blocks_are_the_same_rows_and_written_one_by_one(
    embedded: Server, stream: Stream
) -> None:
    conninfo = embedded.superuser(embedded.make_database())
    texts = {number: text.encode() for number, _, text in statements.migrations()}
    devices = (7, 8, 9, 15, 99)  # one alone, three of a block, one far away
    with psycopg.connect(conninfo, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("CREATE SCHEMA before; SET search_path = before")
        for number in range(1, 12):
            connection.execute(texts[number])
        view = f"{stream}_live"
        columns = [c.name for c in connection.execute(f"SELECT * FROM {view}").description or []]

        def values(device: int) -> list[str]:
            """Another value for each column, and for each device."""
            return [
                str(device)
                if name == "device_id"
                else f"'2026-01-01Z'::timestamptz + {100 * device + n} * interval '1 min'"
                if name.endswith("_at")
                else str(10 * n + device % 10)
                for n, name in enumerate(columns)
            ]

        for device in devices:
            connection.execute(
                f"INSERT INTO {view} ({', '.join(columns)}) VALUES ({', '.join(values(device))})"
            )
        connection.execute(f"INSERT INTO {view} (device_id) VALUES (100)")
        rows = f"SELECT to_jsonb(l) - 'version' AS row FROM {view} AS l ORDER BY device_id"
        before = [one["row"] for one in connection.execute(rows).fetchall()]
        assert len(set(map(str, before[0].values()))) == len(columns) - 1
        connection.execute(texts[12])
        assert [one["row"] for one in connection.execute(rows).fetchall()] == before

        versions = f"SELECT device_id, version FROM {view} ORDER BY device_id"
        old = {one["device_id"]: one["version"] for one in connection.execute(versions)}
        pairs = list(zip(columns, values(55), strict=True))
        changes = ", ".join(
            f"{name} = {value}" for name, value in pairs if name not in ("device_id", "version")
        )
        connection.execute(f"UPDATE {view} SET {changes} WHERE device_id = 9")
        after = [one["row"] for one in connection.execute(rows).fetchall()]
        assert [row for row in after if row["device_id"] != 9] == [
            row for row in before if row["device_id"] != 9
        ]
        changed = next(row for row in after if row["device_id"] == 9)
        unchanged = {name for name in changed if changed[name] == before[2][name]}
        assert unchanged == {"device_id"}
        new = {one["device_id"]: one["version"] for one in connection.execute(versions)}
        assert {device for device in new if new[device] != old[device]} == {8, 9, 15}

        other = [name for name in columns if name not in ("device_id", "version")]
        for name in other:  # several devices of a block, one column at a time
            step = "interval '1 s'" if name.endswith("_at") else "1"
            connection.execute(f"UPDATE {view} SET {name} = {name} + {step} WHERE device_id < 16")
        stepped = [one["row"] for one in connection.execute(rows).fetchall()]
        assert stepped[4:] == after[4:]
        for old_row, new_row in zip(after[:4], stepped[:4], strict=True):
            assert {name for name in new_row if new_row[name] == old_row[name]} == {"device_id"}

        for at in ("1999-12-31 23:59:59.999999Z", "2026-02-09 10:00:00.000001Z", "-infinity"):
            same = "SELECT hot_time(hot_number(%s)) = %s::timestamptz AS same"
            assert connection.execute(same, [at, at]).fetchone() == {"same": True}

        key = "SELECT nextval(pg_get_serial_sequence('devices', 'device_id'))"
        first = connection.execute(key).fetchone()
        assert first is not None
        assert first["nextval"] % 8 == 0


@pytest.mark.parametrize("stream", Stream)
def test_history_with_another_key_holds_the_same_readings(embedded: Server, stream: Stream) -> None:
    conninfo = embedded.superuser(embedded.make_database())
    texts = {number: text.encode() for number, _, text in statements.migrations()}
    history = f"{stream}_history"
    days = {"20251231": "2025-12-31Z", "20260101": "2026-01-01Z", "20260102": "2026-01-02Z"}
    ends = [*list(days.values())[1:], "2026-01-03Z"]
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA before; SET search_path = before")
        for number in range(1, 10):
            connection.execute(texts[number])
        for (name, start), end in zip(days.items(), ends, strict=True):
            connection.execute(
                f"CREATE TABLE {history}_{name} PARTITION OF {history}"
                f" FOR VALUES FROM ('{start}') TO ('{end}')"
            )
        connection.execute(
            f"INSERT INTO {history} SELECT d, t, d * 7, 0.1 * d FROM generate_series(1, 3) AS d,"
            " generate_series('2025-12-31Z'::timestamptz, '2026-01-02 23:59:59.999999Z',"
            " '7 min 13.5 s') AS t"
        )
        connection.execute(f"ALTER TABLE {history} DETACH PARTITION {history}_20260101")
        connection.execute(f'ALTER TABLE {history}_20260102 RENAME TO "By Hand"')
        both = f"(SELECT * FROM {history} UNION ALL SELECT * FROM {history}_20260101)"
        rows = (
            f"SELECT device_id, measured_at, to_jsonb(h) - '{{quarter, minute}}'::text[]"
            f" FROM {both} AS h ORDER BY 1, 2"
        )
        before = connection.execute(rows).fetchall()
        assert len(before) > 1700
        connection.execute(texts[10])
        assert connection.execute(rows).fetchall() == before
        wrong = (
            f"SELECT FROM {both} AS h WHERE quarter <> floor(extract(epoch FROM measured_at) / 900)"
        )
        assert connection.execute(wrong).fetchall() == []
        connection.execute(texts[11])
        assert connection.execute(rows).fetchall() == before
        wrong = wrong.replace("quarter", "minute").replace("900", "60")
        assert connection.execute(wrong).fetchall() == []
        partitions = (
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass"
        )
        attached = {name for (name,) in connection.execute(partitions, [history])}
        assert attached == {f"{history}_20251231", '"By Hand"'}
        connection.execute(
            f"ALTER TABLE {history} ATTACH PARTITION {history}_20260101"
            " FOR VALUES FROM ('2026-01-01Z') TO ('2026-01-02Z')"
        )
        keys = (
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE contype = 'p' AND conrelid IN (SELECT relid FROM pg_partition_tree(%s))"
        )
        key = ("PRIMARY KEY (minute, device_id, measured_at)",)
        assert connection.execute(keys, [history]).fetchall() == [key] * 4
        left = "SELECT relname FROM pg_class WHERE relname ~ 'before|new'"
        assert connection.execute(left).fetchall() == []


def test_history_in_partitions_of_partitions_is_refused_whole(embedded: Server) -> None:
    conninfo = embedded.superuser(embedded.make_database())
    texts = {number: text.encode() for number, _, text in statements.migrations()}
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA before; SET search_path = before")
        for number in range(1, 10):
            connection.execute(texts[number])
        connection.execute(
            "CREATE TABLE nested PARTITION OF vehicle_history DEFAULT PARTITION BY LIST (device_id)"
        )
        with pytest.raises(psycopg.errors.RaiseException, match="vehicle_history has a partition"):
            connection.execute(texts[10])
        assert connection.execute("SELECT FROM nested").fetchall() == []
