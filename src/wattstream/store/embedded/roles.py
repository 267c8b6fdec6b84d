"""The role that the engine's sessions use: it owns its schema and tables, and nothing else.

The server's superuser is for supervision, backups and people. Its password is in the data folder;
the engine role's is made anew at each start, and is in no file.
"""

from typing import Any

import psycopg
from psycopg import sql

DATABASE = "wattstream"
ENGINE = "wattstream_engine"
_SCHEMA = "public"
_LEAST = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
# An identity column's sequence goes with its table.
_FOREIGN_RELATIONS = """
SELECT relname::text FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relowner <> 'wattstream_engine'::regrole
  AND relkind IN ('r', 'p', 'v', 'm')
ORDER BY relkind = 'r', relname
"""


def prepare_database(server: psycopg.Connection[Any], password: str) -> None:
    """Make the database and the engine's role where they are missing, and set its password.

    Args:
        server: The superuser's session in the database `postgres`, in autocommit.
        password: Of the engine's role from now on.
    """
    query = "SELECT FROM pg_roles WHERE rolname = %s"
    act = "CREATE" if server.execute(query, [ENGINE]).fetchone() is None else "ALTER"
    server.execute(
        sql.SQL("{} ROLE {} {} PASSWORD {}").format(
            sql.SQL(act),
            sql.Identifier(ENGINE),
            sql.SQL(_LEAST),
            sql.Literal(_verifier(server, password)),
        )
    )
    query = "SELECT FROM pg_database WHERE datname = %s"
    if server.execute(query, [DATABASE]).fetchone() is None:
        server.execute(f"CREATE DATABASE {DATABASE}")
    for database in ("postgres", "template1", DATABASE):
        server.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC".encode())
    server.execute(f"GRANT CONNECT ON DATABASE {DATABASE} TO {ENGINE}")


def hand_over(database: psycopg.Connection[Any]) -> int:
    """Make the engine's role the owner of the schema and of every table in it, all or none.

    Args:
        database: The superuser's session in the database.

    Returns:
        How many tables had another owner, as in a data folder of an earlier version.
    """
    with database.transaction():
        database.execute(f"REVOKE ALL ON SCHEMA {_SCHEMA} FROM PUBLIC")
        database.execute(f"ALTER SCHEMA {_SCHEMA} OWNER TO {ENGINE}")
        database.execute(f"ALTER ROLE {ENGINE} SET search_path = {_SCHEMA}, pg_temp")
        foreign = [name for (name,) in database.execute(_FOREIGN_RELATIONS).fetchall()]
        for name in foreign:
            table, role = sql.Identifier(_SCHEMA, name), sql.Identifier(ENGINE)
            database.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(table, role))
    return len(foreign)


def _verifier(server: psycopg.Connection[Any], password: str) -> str:
    """Return what PostgreSQL stores of a password, so that no log of a statement has it."""
    encrypted = server.pgconn.encrypt_password(password.encode(), ENGINE.encode(), b"scram-sha-256")
    return encrypted.decode()
