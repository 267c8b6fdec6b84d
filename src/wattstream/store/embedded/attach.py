"""The database of a data folder, for a command beside the engine or without it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from wattstream.store.embedded import cluster as folder
from wattstream.store.embedded.server import DATABASE, EmbeddedPostgres

CLUSTER, PASSWORD = "postgres", "password"


@contextmanager
def attached(data_dir: Path, run_as: str) -> Iterator[str]:
    """Provide the database without its password: of the engine that runs, or started for this.

    Args:
        data_dir: The data folder, with symbolic links resolved.
        run_as: As for EmbeddedPostgres.

    Raises:
        EmbeddedServerError: The server cannot be started.
    """
    if _is_locked(data_dir / "engine.lock"):
        facts = (data_dir / CLUSTER / "postmaster.pid").read_text().splitlines()
        # Source: PostgreSQL's miscadmin.h, LOCK_FILE_LINE_PORT and LOCK_FILE_LINE_SOCKET_DIR.
        yield _conninfo(facts[4], facts[3])
        return
    server = EmbeddedPostgres(data_dir, run_as)
    host = psycopg.conninfo.conninfo_to_dict(server.start())["host"]
    try:
        yield _conninfo(str(host), "5432")
    finally:
        server.stop()


def password_of(data_dir: Path) -> str:
    """Return the password of a data folder's database."""
    return (data_dir / PASSWORD).read_text().strip()


def _conninfo(host: str, port: str) -> str:
    return make_conninfo(host=host, port=port, user=folder.SUPERUSER, dbname=DATABASE)


def _is_locked(path: Path) -> bool:
    """Return whether an engine holds the lock of a data folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
