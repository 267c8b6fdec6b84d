import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from wattstream.domain.errors import EmbeddedServerError
from wattstream.store.embedded import EmbeddedPostgres
from wattstream.store.embedded.account import SHARED_ROOT
from wattstream.store.embedded.binaries import Binaries, find_binaries
from wattstream.store.embedded.tuning import server_settings

IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="needs root, to run the server as another user")
Engine = Callable[..., EmbeddedPostgres]

KILLED_ENGINE = """
import sys, time
from pathlib import Path
import psycopg
from wattstream.store.embedded import EmbeddedPostgres

server = EmbeddedPostgres(Path(sys.argv[1]))
with psycopg.connect(server.start(), autocommit=True) as connection:
    connection.execute("CREATE TABLE kept AS SELECT 42 AS value")
    print(server.pid, flush=True)
    time.sleep(600)
"""

ORDINARY_ENGINE = """
import sys
from pathlib import Path
import psycopg
from wattstream.domain.errors import EmbeddedServerError
from wattstream.store.embedded import EmbeddedPostgres

server = EmbeddedPostgres(Path(sys.argv[1]))
try:
    with psycopg.connect(server.start()) as connection:
        print("answer", connection.execute("SELECT 6 * 7").fetchone()[0])
except EmbeddedServerError as error:
    print("refused", error)
server.stop()
"""


@pytest.fixture(scope="session")
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the server's user can enter; pytest's own have mode 0700."""
    if not IS_ROOT:
        yield tmp_path_factory.mktemp("open")
        return
    path = Path(tempfile.mkdtemp(prefix="wattstream-test-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def stopped(open_folder: Path) -> Path:
    """A data folder that was used once, to be copied: initdb takes most of a first start."""
    server = EmbeddedPostgres(open_folder / "stopped")
    server.start()
    server.stop()
    return server.data_dir


@pytest.fixture
def folder(open_folder: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=open_folder))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def data_dir(folder: Path, stopped: Path) -> Path:
    subprocess.run(["cp", "-a", stopped, folder / "data"], check=True)
    return folder / "data"


@pytest.fixture
def engine() -> Iterator[Engine]:
    made: list[EmbeddedPostgres] = []

    def make(data_dir: Path, **options: object) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(data_dir, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for server in made:
        server.stop()


def ask(conninfo: str, query: str) -> object:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        return row and row[0]


def run(conninfo: str, query: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(query)


def family(pid: int) -> set[int]:
    """Return a process and its children, zombies left out."""
    pids = set()
    for entry in Path("/proc").iterdir():
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if entry.name.isdecimal() and pid in {int(entry.name), int(parent)} and state != "Z":
            pids.add(int(entry.name))
    return pids


def alive(pid: int) -> bool:
    return pid in family(pid)


def server_user() -> str | None:
    return "nobody" if IS_ROOT else None


def pid_file_after_a_stop(server: EmbeddedPostgres) -> Callable[[int], object]:
    """Start and stop a server; return what leaves its pid file behind with another pid."""
    server.start()
    path = server.data_dir / "postgres" / "postmaster.pid"
    text = path.read_text()
    server.stop()
    return lambda pid: path.write_text(re.sub(r"\A\d+", str(pid), text))


def test_first_start_makes_a_safe_database(folder: Path, engine: Engine) -> None:
    server = engine(folder / "data")
    conninfo = server.start()

    shown = {name: ask(conninfo, f"SHOW {name}") for name in ("data_checksums", "fsync")}
    assert shown == {"data_checksums": "on", "fsync": "on"}
    assert ask(conninfo, "SHOW full_page_writes") == "on"
    assert ask(conninfo, "SHOW synchronous_commit") == "on"
    assert ask(conninfo, "SHOW listen_addresses") == ""
    assert ask(conninfo, "SHOW timezone") == "UTC"
    assert ask(conninfo, "SHOW server_encoding") == "UTF8"
    assert ask(conninfo, "SELECT current_database()") == "wattstream"
    rules = "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules"
    assert ask(server.superuser_conninfo, rules) == "scram-sha-256"
    assert server.version == find_binaries().version
    assert server.log_path.exists()
    password = folder / "data" / "password"
    assert password.stat().st_mode & 0o777 == 0o600
    assert password.stat().st_uid == os.geteuid()
    assert not list(folder.rglob("initdb-password"))
    assert password.read_text() not in server.log_path.read_text()


def test_wrong_password_is_refused(data_dir: Path, engine: Engine) -> None:
    conninfo = engine(data_dir).start()

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(conninfo, password="guess")


def test_stop_leaves_no_process_and_may_be_repeated(data_dir: Path, engine: Engine) -> None:
    server = engine(data_dir)
    conninfo = server.start()
    assert server.pid is not None
    with psycopg.connect(conninfo):
        processes = family(server.pid)
        server.stop()
    server.stop()

    assert len(processes) > 3
    assert not [pid for pid in processes if alive(pid)]
    assert server.pid is None
    assert server.poll() is None
    assert not server.is_running()


def test_second_start_keeps_cluster_and_data_and_shortens_the_log(
    data_dir: Path, engine: Engine
) -> None:
    server = engine(data_dir)
    run(server.start(), "CREATE TABLE kept AS SELECT 42 AS value")
    server.stop()
    with server.log_path.open("ab") as file:
        file.write(b"noise\n" * 2_000_000)
    made_ns = (data_dir / "postgres" / "PG_VERSION").stat().st_mtime_ns

    conninfo = server.start()

    assert (data_dir / "postgres" / "PG_VERSION").stat().st_mtime_ns == made_ns
    assert ask(conninfo, "SELECT value FROM kept") == 42
    assert server.log_path.stat().st_size < 2_000_000


def test_start_of_a_running_server_changes_nothing(data_dir: Path, engine: Engine) -> None:
    server = engine(data_dir)
    conninfo, pid = server.start(), server.pid

    assert server.start() == conninfo
    assert server.pid == pid


def test_second_engine_on_the_folder_is_refused(data_dir: Path, engine: Engine) -> None:
    first = engine(data_dir)
    conninfo = first.start()
    second = engine(data_dir)

    with pytest.raises(EmbeddedServerError, match=rf"pid {os.getpid()}.*WATTSTREAM_DATA_DIR"):
        second.start()
    assert ask(conninfo, "SELECT 1") == 1

    first.stop()
    second.start()


def test_copied_link_to_a_cluster_in_use_is_refused(
    folder: Path, data_dir: Path, engine: Engine
) -> None:
    first = engine(data_dir)
    conninfo = first.start()
    (folder / "copy").mkdir()
    (folder / "copy" / "postgres").symlink_to(data_dir / "postgres")

    with pytest.raises(EmbeddedServerError, match="in use by an engine with another data folder"):
        engine(folder / "copy").start()
    assert ask(conninfo, "SELECT 1") == 1


def test_server_of_a_killed_engine_is_replaced_and_loses_nothing(
    data_dir: Path, engine: Engine
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_ENGINE, str(data_dir)], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        lines = iter(child.stdout.readline, b"")
        left_over = int(next(line for line in lines if line.strip().isdigit()))
        child.kill()
    assert alive(left_over)

    server = engine(data_dir)
    conninfo = server.start()

    assert not alive(left_over)
    assert server.pid != left_over
    assert ask(conninfo, "SELECT value FROM kept") == 42


def test_foreign_process_named_by_a_stale_pid_file_is_left_alone(
    data_dir: Path, engine: Engine
) -> None:
    server = engine(data_dir)
    stale = pid_file_after_a_stop(server)
    with subprocess.Popen(["sleep", "60"], user=server_user(), cwd="/") as foreign:
        try:
            stale(foreign.pid)
            assert ask(server.start(), "SELECT 1") == 1
            server.stop()
            assert foreign.poll() is None
        finally:
            foreign.kill()


def test_another_server_named_by_a_stale_pid_file_is_left_alone(
    folder: Path, data_dir: Path, engine: Engine
) -> None:
    server, other = engine(data_dir), engine(folder / "other")
    stale = pid_file_after_a_stop(server)
    conninfo = other.start()
    assert other.pid is not None
    stale(other.pid)

    assert ask(server.start(), "SELECT 1") == 1
    assert ask(conninfo, "SELECT 1") == 1


def test_server_that_died_is_noticed_and_started_again(data_dir: Path, engine: Engine) -> None:
    server = engine(data_dir)
    run(server.start(), "CREATE TABLE kept AS SELECT 42 AS value")
    assert server.poll() is None
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    while server.is_running():
        time.sleep(0.01)

    assert server.poll() == -signal.SIGKILL
    with pytest.raises(EmbeddedServerError, match="in use"):
        engine(data_dir).start()
    assert ask(server.start(), "SELECT value FROM kept") == 42


def test_start_waits_while_the_server_recovers_until_it_is_stopped(
    data_dir: Path, engine: Engine
) -> None:
    server = engine(data_dir)
    cluster = data_dir / "postgres"
    (cluster / "standby.signal").touch()  # a recovery that never ends
    with (cluster / "postgresql.conf").open("a") as file:
        file.write("hot_standby = off\n")
    errors: list[str] = []

    def start() -> None:
        try:
            server.start()
        except EmbeddedServerError as error:
            errors.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(timeout=1.5)
    assert thread.is_alive()
    pid = server.pid
    assert pid is not None
    server.stop()
    thread.join()

    assert errors == ["the start of PostgreSQL was given up by a stop"]
    assert not alive(pid)


def test_server_that_cannot_start_shows_its_log_and_frees_the_folder(
    data_dir: Path, engine: Engine
) -> None:
    server = engine(data_dir)
    shutil.rmtree(data_dir / "postgres" / "pg_wal")

    with pytest.raises(EmbeddedServerError, match="pg_wal"):
        server.start()

    assert server.pid is None
    with pytest.raises(EmbeddedServerError, match="pg_wal"):
        engine(data_dir).start()


def test_path_too_long_for_a_socket_works(folder: Path, engine: Engine) -> None:
    server = engine(folder / ("long" * 30) / "data")
    conninfo = server.start()

    host = Path(psycopg.conninfo.conninfo_to_dict(conninfo)["host"])  # type: ignore[arg-type]
    assert host.parent == Path("/tmp")
    assert host.stat().st_mode & 0o777 == 0o700
    assert ask(conninfo, "SELECT 1") == 1
    server.stop()
    assert not host.exists()


def test_folder_of_another_major_version_is_refused(data_dir: Path, engine: Engine) -> None:
    server = engine(data_dir)
    (data_dir / "postgres" / "PG_VERSION").write_text("14\n")

    with pytest.raises(EmbeddedServerError, match=r"made by PostgreSQL 14, .* install PostgreSQL"):
        server.start()


def test_interrupted_initdb_is_done_again(folder: Path, engine: Engine) -> None:
    data_dir = folder / "data"
    with subprocess.Popen([sys.executable, "-c", KILLED_ENGINE, str(data_dir)]) as child:
        while not list(data_dir.glob(".wattstream-initdb-*/PG_VERSION")):
            assert child.poll() is None
            time.sleep(0.001)
        child.kill()
    assert not (data_dir / "postgres").exists()

    server = engine(data_dir)
    assert ask(server.start(), "SELECT 1") == 1
    server.stop()
    server.start()
    assert not list(data_dir.glob(".wattstream-initdb-*"))


def test_lost_password_is_named(data_dir: Path, engine: Engine) -> None:
    server = engine(data_dir)
    (data_dir / "password").unlink()

    with pytest.raises(EmbeddedServerError, match="password is missing; restore that file"):
        server.start()


def test_data_folder_that_cannot_be_made_is_named(folder: Path, engine: Engine) -> None:
    (folder / "file").touch()

    with pytest.raises(EmbeddedServerError, match=f"{folder}/file/data: .*Not a directory"):
        engine(folder / "file" / "data").start()


def test_system_postgresql_serves_as_well(folder: Path, engine: Engine) -> None:
    try:
        binaries = find_binaries("system")
    except EmbeddedServerError as error:
        pytest.skip(str(error))
    conninfo = engine(folder / "data", binaries=binaries).start()

    major = str(ask(conninfo, "SHOW server_version")).split(".", 1)[0]
    assert int(major) == binaries.version[0]
    assert ask(conninfo, "SHOW data_checksums") == "on"


def test_folder_made_by_a_system_postgresql_finds_it_again(folder: Path, engine: Engine) -> None:
    try:
        binaries = find_binaries("system")
    except EmbeddedServerError as error:
        pytest.skip(str(error))
    first = engine(folder / "data", binaries=binaries)
    first.start()
    first.stop()

    second = engine(folder / "data")
    second.start()
    assert second.version == binaries.version


def test_missing_programs_are_named_with_what_to_install() -> None:
    with pytest.raises(EmbeddedServerError, match=r"version 99 .*WATTSTREAM_DATABASE_URL"):
        find_binaries(major=99)


@pytest.mark.parametrize(
    ("memory_gib", "expected"), [(0.25, "128MB"), (4, "512MB"), (256, "2048MB")]
)
def test_shared_buffers_follow_memory_within_bounds(memory_gib: float, expected: str) -> None:
    text = server_settings(Path("/run"), "off", int(memory_gib * 2**30), 2, 2**38)

    assert f"shared_buffers = '{expected}'" in text


@as_root
@pytest.mark.parametrize(
    ("run_as", "words"), [("no-such-user", "there is no such user"), ("root", "refuses to run")]
)
def test_impossible_server_user_is_refused(
    folder: Path, engine: Engine, run_as: str, words: str
) -> None:
    with pytest.raises(EmbeddedServerError, match=f"{words}.*WATTSTREAM_POSTGRES_USER"):
        engine(folder / "data", run_as=run_as).start()


@as_root
def test_folder_begun_by_another_user_is_refused(data_dir: Path, engine: Engine) -> None:
    server = engine(data_dir)
    with pytest.raises(EmbeddedServerError, match=r"belongs to user nobody, .* needs daemon"):
        engine(data_dir, run_as="daemon").start()
    os.chown(data_dir / "password", pwd.getpwnam("nobody").pw_uid, -1)
    with pytest.raises(EmbeddedServerError, match=r"belongs to user nobody, .* needs root"):
        server.start()


@as_root
def test_programs_and_data_below_a_closed_home_are_moved_out(
    tmp_path: Path, engine: Engine
) -> None:
    tmp_path.chmod(0o700)
    wheel = find_binaries("wheel").bin_dir.parents[1]
    for source in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        shutil.copytree(source, tmp_path / source.name)
    hidden = tmp_path / wheel.name / "pginstall" / "bin"
    hidden.with_name(f"of-{tmp_path.name}").touch()  # makes the copy this test's own
    data_dir = tmp_path / "data"
    server = engine(data_dir, binaries=Binaries(hidden, find_binaries("wheel").version, "wheel"))
    run(server.start(), "CREATE TABLE kept AS SELECT 42 AS value")
    program = Path(Path(f"/proc/{server.pid}/cmdline").read_text().split("\0", 1)[0])
    cluster = (data_dir / "postgres").readlink()
    try:
        server.stop()
        assert program.is_relative_to(SHARED_ROOT)
        assert cluster.is_relative_to(SHARED_ROOT)
        assert cluster.owner() == "nobody"
        assert cluster.stat().st_mode & 0o777 == 0o700
        assert tmp_path.stat().st_mode & 0o777 == 0o700
        assert ask(server.start(), "SELECT value FROM kept") == 42
        server.stop()
        (data_dir / "postgres").unlink()
        cluster.rename(data_dir / "postgres")
        assert ask(server.start(), "SELECT value FROM kept") == 42
        server.stop()
        shutil.rmtree(cluster.parent)
        with pytest.raises(EmbeddedServerError, match="which is gone"):
            server.start()
    finally:
        server.stop()
        shutil.rmtree(program.parents[3])
        shutil.rmtree(cluster.parent, ignore_errors=True)


@as_root
def test_ordinary_user_runs_the_server_itself(folder: Path) -> None:
    python = _python_of_nobody()
    shutil.copyfile("/dev/null", folder / "engine.lock")
    home = folder / "home"
    home.mkdir()
    shutil.chown(home, "nobody")

    assert _ordinary(python, home / "data") == "answer 42"
    assert (home / "data").stat().st_mode & 0o777 == 0o700
    assert (home / "data" / "postgres").owner() == "nobody"
    assert "belongs to user root" in _ordinary(python, folder)


def _python_of_nobody() -> str:
    minor = f"python3.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(minor, path="/usr/bin:/usr/local/bin")):
        if python is None:
            continue
        try:
            _as_nobody([python, "-c", "import wattstream.store.embedded"])
        except (PermissionError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("user nobody can reach no Python that imports wattstream")


def _ordinary(python: str, data_dir: Path) -> str:
    output = _as_nobody([python, "-c", ORDINARY_ENGINE, str(data_dir)])
    return output.splitlines()[-1]


def _as_nobody(command: list[str]) -> str:
    return subprocess.run(
        command,
        user="nobody",
        group=pwd.getpwnam("nobody").pw_gid,
        extra_groups=[],
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
