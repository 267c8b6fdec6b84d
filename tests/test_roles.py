"""The engine's role on the embedded server: it owns its schema and tables, and nothing else."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from test_http import Api
from wattstream.settings import load
from wattstream.store.embedded import EmbeddedPostgres
from wattstream.store.embedded.roles import ENGINE
from wattstream.store.postgres.migrations import migrate

_BEFORE_ROLES = """
ALTER SCHEMA public OWNER TO pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
REASSIGN OWNED BY wattstream_engine TO wattstream;
DROP OWNED BY wattstream_engine;
DROP ROLE wattstream_engine;
"""
_HOW_TO = Path(__file__).parents[1] / "docs/how-to/own-postgresql.md"
_OWNERS = """
SELECT array_agg(DISTINCT pg_get_userbyid(relowner)::text), count(*) FROM pg_class
WHERE relnamespace = 'public'::regnamespace
"""


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wattstream-test-", dir="/tmp"))
    folder.chmod(0o711)
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data_dir)
    migrate(server.start())
    yield server
    server.stop()


@pytest.fixture
def engine(server: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """A session such as the engine's."""
    with psycopg.connect(server.start(), autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE ROLE other SUPERUSER",
        "ALTER ROLE wattstream_engine SUPERUSER",
        "ALTER ROLE wattstream_engine CREATEROLE",
        "SET ROLE wattstream",
        "SET SESSION AUTHORIZATION wattstream",
        "GRANT pg_read_server_files TO wattstream_engine",
        "SELECT rolpassword FROM pg_authid",
        "COPY (SELECT 1) TO PROGRAM 'id'",
        "COPY wattstream_migrations FROM PROGRAM 'id'",
        "COPY wattstream_migrations FROM '/etc/passwd'",
        "COPY (SELECT 1) TO '/tmp/wattstream-role'",
        "SELECT pg_read_file('postgresql.conf')",
        "SELECT pg_ls_dir('.')",
        "SELECT lo_import('/etc/passwd')",
        "CREATE DATABASE other",
        "DROP DATABASE postgres",
        "ALTER DATABASE wattstream SET fsync = off",
        "CREATE SCHEMA other",
        "CREATE TEMPORARY TABLE other ()",
        "CREATE EXTENSION file_fdw",
        "CREATE FUNCTION f() RETURNS int LANGUAGE c AS '/lib/x86_64-linux-gnu/libc.so.6', 'rand'",
        "ALTER SYSTEM SET fsync = off",
        "SELECT pg_reload_conf()",
        "CHECKPOINT",
        "DROP TABLE pg_catalog.pg_class",
    ],
)
def test_the_engine_may_do_nothing_to_the_server(
    engine: psycopg.Connection, statement: str
) -> None:
    with pytest.raises(
        (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidGrantOperation)
    ):
        engine.execute(statement.encode())


@pytest.mark.parametrize("database", ["postgres", "template1"])
def test_the_engine_enters_no_other_database(server: EmbeddedPostgres, database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(server.start(), dbname=database)


def test_another_role_sees_nothing_of_the_engines(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.superuser_conninfo, autocommit=True) as connection:
        connection.execute("CREATE ROLE stranger LOGIN PASSWORD 'x'")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(server.start(), user="stranger", password="x")


def test_names_are_found_in_the_engines_schema_only(engine: psycopg.Connection) -> None:
    assert engine.execute("SHOW search_path").fetchone() == ("public, pg_temp",)


def test_the_engines_password_is_in_no_file(server: EmbeddedPostgres, data_dir: Path) -> None:
    password = psycopg.conninfo.conninfo_to_dict(server.start())["password"]
    assert isinstance(password, str)
    assert re.fullmatch(r"[\w-]{43}", password)
    for path in data_dir.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert password.encode() not in path.read_bytes(), path


def test_the_documented_role_of_a_server_of_ones_own_is_enough(server: EmbeddedPostgres) -> None:
    block = re.findall(r"```sql\n(.*?)```", _HOW_TO.read_text(), re.DOTALL)[0]
    before, _, after = block.replace("wattstream", "ours").partition("\\c ours\n")
    own = {"dbname": "ours", "user": "ours", "password": "change-me"}
    for database, text in (("postgres", before), ("ours", after)):
        with psycopg.connect(
            server.superuser_conninfo, dbname=database, autocommit=True
        ) as connection:
            for statement in filter(str.strip, text.split(";")):
                connection.execute(statement.encode())
    conninfo = psycopg.conninfo.make_conninfo(server.superuser_conninfo, **own)
    migrate(conninfo)
    api = Api(conninfo, load({}, {}))
    now = datetime.now(UTC).isoformat()
    assert api.post({"meterId": "M", "kwhConsumedAc": 1, "timestamp": now}).status_code == 201
    api.close()
    with psycopg.connect(conninfo) as connection:
        query = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert connection.execute(query).fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE public.other ()")


def test_a_data_folder_of_before_the_role_is_handed_over(
    server: EmbeddedPostgres, data_dir: Path
) -> None:
    with psycopg.connect(server.superuser_conninfo, autocommit=True) as connection:
        for statement in filter(str.strip, _BEFORE_ROLES.split(";")):
            connection.execute(statement.encode())
        before = connection.execute(_OWNERS).fetchone()
        assert before is not None
        assert before[0] == ["wattstream"]
    server.stop()

    again = EmbeddedPostgres(data_dir)
    try:
        with psycopg.connect(again.start(), autocommit=True) as connection:
            assert connection.execute(_OWNERS).fetchone() == ([ENGINE], before[1])
            connection.execute("CREATE TABLE meter_history_x (LIKE meter_history)")
            connection.execute("INSERT INTO devices (stream, external_id) VALUES ('meter', 'a')")
        assert migrate(again.start()) == []
    finally:
        again.stop()
