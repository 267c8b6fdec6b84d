"""Real PostgreSQL for every test that stores: one server a run, one database a test."""

import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from wattstream.domain.errors import EmbeddedServerError
from wattstream.settings import PREFIX
from wattstream.store.embedded import EmbeddedPostgres
from wattstream.store.embedded.binaries import Binaries, find_binaries
from wattstream.store.embedded.roles import hand_over
from wattstream.store.postgres.migrations import migrate

_TEMPLATE = "wattstream_template"

# Machines differ in speed; a test is not wrong for being slow.
settings.register_profile(
    "default",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("default")


def shared_data(name: str) -> Path:
    """Return a file of real telemetry, or skip where it is not there."""
    folder = Path(os.environ.get("WATTSTREAM_TEST_DATA", Path(__file__).parents[2] / "shared/data"))
    if not (folder / name).exists():
        pytest.skip(f"real telemetry is not here: {folder / name} (set WATTSTREAM_TEST_DATA)")
    return folder / name


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin each worker's share with slow tests: at the end, all others would wait for one."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers == 1:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    share = -(-len(others) // workers)
    items[:] = [
        item
        for n in range(workers)
        for item in (*slow[n::workers], *others[n * share : (n + 1) * share])
    ]


@pytest.fixture
def now_us() -> int:
    return time.time_ns() // 1000


class Server:
    """A running PostgreSQL that makes a fresh, migrated database for each test."""

    def __init__(self, folder: Path, binaries: Binaries | None = None) -> None:
        # A module may keep a dozen engines.
        self._server = EmbeddedPostgres(folder, binaries=binaries, connections=400)
        self._conninfo = self._server.start()
        self._names = (f"test_{number}" for number in itertools.count())
        # These databases outlive no crash of the machine, and nobody's 2xx rests on them.
        self._execute("ALTER SYSTEM SET fsync = off")
        self._execute("SELECT pg_reload_conf()")
        self._execute(f"CREATE DATABASE {_TEMPLATE}")
        with psycopg.connect(self.superuser(self._to(_TEMPLATE)), autocommit=True) as connection:
            hand_over(connection)
        migrate(self._to(_TEMPLATE))

    def _to(self, database: str) -> str:
        return psycopg.conninfo.make_conninfo(self._conninfo, dbname=database)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._server.superuser_conninfo, autocommit=True) as connection:
            connection.execute(statement.encode())

    def make_database(self) -> str:
        """Return the conninfo of a new database with the schema, as the engine's own role."""
        name = next(self._names)
        self._execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        return self._to(name)

    def superuser(self, conninfo: str) -> str:
        """Return the conninfo of a database's superuser."""
        database = psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"]
        return psycopg.conninfo.make_conninfo(self._server.superuser_conninfo, dbname=database)

    def stop(self) -> None:
        self._server.stop()


@contextmanager
def _server_folder() -> Iterator[Path]:
    """Provide a folder that the server's user can enter where root runs the tests."""
    with tempfile.TemporaryDirectory(prefix="wattstream-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture(scope="session")
def embedded() -> Iterator[Server]:
    with _server_folder() as folder:
        server = Server(folder)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def system() -> Iterator[Server]:
    try:
        binaries = find_binaries(origin="system")
    except EmbeddedServerError:
        pytest.skip("no PostgreSQL 15 or newer is installed on this machine")
    with _server_folder() as folder:
        server = Server(folder, binaries)
        yield server
        server.stop()


@pytest.fixture
def conninfo(embedded: Server) -> str:
    """A fresh database on the embedded server."""
    return embedded.make_database()


@pytest.fixture
def bench_conninfo(embedded: Server) -> str:
    """A fresh database as the benchmark has it: of the superuser, who makes others."""
    return embedded.superuser(embedded.make_database())


@pytest.fixture
def make_database(embedded: Server) -> Callable[[], str]:
    return embedded.make_database


@dataclass(frozen=True)
class Engine:
    """An engine in a process of its own.

    Attributes:
        url: Where it answers.
        conninfo: Its database.
        process: Its process.
    """

    url: str
    conninfo: str
    process: subprocess.Popen[str]


@pytest.fixture
def engine(conninfo: str) -> Iterator[Engine]:
    """Run `wattstream serve` on a fresh database."""
    with serving_on(conninfo) as engine:
        yield engine


@pytest.fixture(scope="session")
def shared_engine(embedded: Server) -> Iterator[Engine]:
    """Run `wattstream serve` for tests that only ask, or use devices of their own."""
    with serving_on(embedded.make_database()) as engine:
        yield engine


@contextmanager
def serving_on(conninfo: str, *flags: str) -> Iterator[Engine]:
    """Run `wattstream serve` on a database; it must end well."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    command = [sys.executable, "-m", "wattstream", "serve", "--port", "0", *flags]
    with subprocess.Popen(
        command,
        env=environ | {"WATTSTREAM_DATABASE_URL": conninfo},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        log = []
        for line in process.stderr:
            log.append(line)
            if match := re.search(r"https?://[\w.]+:\d+", line):
                break
        else:
            pytest.fail("the engine did not start: " + "".join(log))
        try:
            yield Engine(match[0], conninfo, process)
        finally:
            process.terminate()
            process.stderr.read()
            assert process.wait(timeout=30) == 0
