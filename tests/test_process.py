"""The engine as a process: start, stop, kill; what it acknowledged is there afterwards."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest

from wattstream.settings import PREFIX


@pytest.fixture
def folder() -> Iterator[Path]:
    """A working folder that the server's user can enter, also where root runs the tests."""
    path = Path(tempfile.mkdtemp(prefix="wattstream-process-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


class Process:
    """`wattstream serve` on the embedded PostgreSQL of a folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "wattstream", "serve", "--port", "0", *arguments],
            cwd=folder,
            env=environ,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.log: list[str] = []
        self.url = ""
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._is_ready.wait(timeout=60)

    def _read(self) -> None:
        """Take in the log as it comes: a full pipe would stop the engine."""
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self.log.append(line)
                if match := re.search(r"ready: (http://[\d.]+:\d+)", line):
                    self.url = match[1]
                    self._is_ready.set()
        self._is_ready.set()

    def end(self, number: signal.Signals) -> int:
        """Send a signal to the process group; return the exit code."""
        os.killpg(self._process.pid, number)
        return self.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> int:
        """Return the exit code of a process that ends by itself, or was told to."""
        code = self._process.wait(timeout=60)
        self._reader.join()
        return code


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Process]:
    process = Process(folder, *arguments)
    try:
        yield process
    finally:
        if process.is_running:
            process.end(signal.SIGTERM)


def servers_of(folder: Path) -> list[int]:
    """Return the ids of processes that work inside a folder's cluster."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            cwd = os.readlink(entry / "cwd")
            if cwd.startswith(str(folder)) and "postgres" in (entry / "comm").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def postmasters_of(folder: Path) -> list[int]:
    """Return the servers of a folder whose parent is no server of it: one each cluster."""
    servers = servers_of(folder)
    parents = {
        pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        for pid in servers
    }
    return [pid for pid in servers if parents[pid] not in servers]


class Load:
    """Clients that send until told to stop, and remember every reading that got a 2xx."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self._stop = threading.Event()
        self.acknowledged: list[tuple[str, str]] = []
        self.refused: list[str] = []
        self._threads = [
            threading.Thread(target=self._run, args=(url, client)) for client in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, url: str, client: int) -> None:
        base = datetime.now(UTC) - timedelta(hours=3)
        step = 0
        with httpx.Client(base_url=url, timeout=30) as http:
            while not self._stop.is_set():
                at = (base + timedelta(seconds=step)).isoformat()
                rows = [(f"C{client}-{device}", at) for device in range(25)]
                body = [{"meterId": d, "kwhConsumedAc": 1, "timestamp": at} for d, at in rows]
                try:
                    response = http.post("/v1/ingest/batch", json=body)
                except httpx.TransportError:
                    return
                if response.is_success:
                    self.acknowledged += rows
                else:
                    self.refused.append(response.text)
                step += 1

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def assert_holds(folder: Path, url: str, acknowledged: list[tuple[str, str]]) -> None:
    """Every acknowledged reading is in history once, and in live state and rollups."""
    password = (folder / "wattstream-data" / "password").read_text().strip()
    socket_folder = next(
        line.split("=")[1].strip(" '\"\n")
        for line in (folder / "wattstream-data/postgres/wattstream.conf").read_text().splitlines()
        if line.startswith("unix_socket_directories")
    )
    with psycopg.connect(
        host=socket_folder, user="wattstream", password=password, dbname="wattstream"
    ) as connection:
        held = set(
            connection.execute(
                "SELECT external_id, measured_at FROM meter_history JOIN devices USING (device_id)"
            )
        )
        (counted,) = connection.execute(
            "SELECT (SELECT sum(readings) FROM history_days)"
        ).fetchone() or (0,)
        (rolled,) = connection.execute(
            "SELECT (SELECT coalesce(sum(readings), 0) FROM meter_rollup)"
            " + (SELECT sum(readings) FROM meter_live)"
        ).fetchone() or (0,)
    missing = {(d, datetime.fromisoformat(at)) for d, at in acknowledged} - held
    assert not missing
    assert len(held) == counted == rolled
    assert httpx.post(f"{url}/v1/analytics/refresh").json()["bucketsRepaired"] == 0


def test_a_second_start_makes_nothing_anew_and_a_stop_leaves_nothing_behind(folder: Path) -> None:
    first = Process(folder)
    assert first.url
    assert "Schema migrated" in "".join(first.log)
    assert servers_of(folder)
    cluster = folder / "wattstream-data" / "postgres" / "PG_VERSION"
    made_ns = cluster.stat().st_mtime_ns
    assert first.end(signal.SIGTERM) == 0
    assert "everything acknowledged is on disk" in first.log[-1]
    assert servers_of(folder) == []
    with serving(folder) as second:
        assert "Schema migrated" not in "".join(second.log)
        assert cluster.stat().st_mtime_ns == made_ns
        assert httpx.get(f"{second.url}/v1/health").json() == {"status": "ready"}


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_stop_under_load_keeps_every_acknowledged_reading(
    folder: Path, number: signal.Signals
) -> None:
    engine = Process(folder)
    load = Load(engine.url)
    time.sleep(2)
    assert engine.end(number) == 0
    load.join()
    assert len(load.acknowledged) > 100
    assert servers_of(folder) == []
    with serving(folder) as again:
        assert_holds(folder, again.url, load.acknowledged)


@pytest.mark.parametrize(
    ("number", "code", "pause_s"),
    [(signal.SIGTERM, 143, 0), (signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 2)],
)
def test_a_benchmark_that_is_ended_takes_its_server_with_it(
    folder: Path, number: signal.Signals, code: int, pause_s: float
) -> None:
    """Also while its files are made: what makes them runs servers of its own."""
    command = [sys.executable, "-m", "wattstream", "bench", "--quick", "--only", "costs"]
    environ = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not any(folder.rglob("postmaster.pid")):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(pause_s)
        servers = []
        for file in folder.rglob("postmaster.pid"):
            with suppress(FileNotFoundError):  # one that ended meanwhile
                servers.append(abs(int(file.read_text().split()[0])))
        process.send_signal(number)
        assert process.wait(timeout=60) == code
    for server in servers:
        with pytest.raises(ProcessLookupError):
            os.kill(server, 0)
    assert list(folder.iterdir()) == []


def test_ctrl_c_ends_engine_and_database_without_a_trace_of_it(folder: Path) -> None:
    engine = Process(folder)
    assert engine.end(signal.SIGINT) == 0
    assert "Traceback" not in "".join(engine.log)
    assert "KeyboardInterrupt" not in "".join(engine.log)
    assert servers_of(folder) == []


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_two_clients_with_opposite_orders_of_devices_see_no_error(
    folder: Path, seconds: int
) -> None:
    names = [f"O{i}" for i in range(200)]
    base = datetime.now(UTC) - timedelta(hours=2)
    verdicts = {"stored": 0, "duplicates": 0}
    steps: list[int] = []
    problems: list[str] = []

    def send(url: str, order: list[str]) -> None:
        step = 0
        until = time.monotonic() + seconds
        with httpx.Client(base_url=url, timeout=30) as http:
            while time.monotonic() < until:
                at = (base + timedelta(seconds=step)).isoformat()
                body = [{"meterId": n, "kwhConsumedAc": 1, "timestamp": at} for n in order]
                body += [{"vehicleId": n, "kwhDeliveredDc": 1, "timestamp": at} for n in order]
                answer = http.post("/v1/ingest/batch", json=body)
                if answer.status_code != 201:
                    problems.append(answer.text)
                    return
                with lock:
                    for verdict in verdicts:
                        verdicts[verdict] += answer.json()[verdict]
                step += 1
        steps.append(step)

    lock = threading.Lock()
    with serving(folder) as engine:
        clients = [
            threading.Thread(target=send, args=(engine.url, order))
            for order in (names, names[::-1])
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert problems == []
        # Both send the same readings, so the faster one's steps are all there is to store.
        assert verdicts["stored"] == max(steps) * 400
        assert verdicts["duplicates"] == min(steps) * 400 > 0
        stats = httpx.get(f"{engine.url}/v1/analytics/stats").json()
        assert stats["meter"]["readings"] == stats["vehicle"]["readings"] == max(steps) * 200
        assert httpx.post(f"{engine.url}/v1/analytics/refresh").json()["bucketsRepaired"] == 0


def test_a_killed_engine_loses_nothing_acknowledged(folder: Path) -> None:
    engine = Process(folder)
    load = Load(engine.url)
    time.sleep(2)
    assert engine.end(signal.SIGKILL) == -signal.SIGKILL
    load.join()
    assert len(load.acknowledged) > 100
    left = servers_of(folder)
    assert left, "the kill reached PostgreSQL too, so nothing is there to take over"
    with serving(folder) as again:
        assert again.url, again.log
        assert not set(left) & set(servers_of(folder))
        assert len(postmasters_of(folder)) == 1
        assert_holds(folder, again.url, load.acknowledged)
    assert servers_of(folder) == []


@pytest.mark.slow
def test_a_killed_postgres_is_started_again_and_nothing_acknowledged_is_lost(folder: Path) -> None:
    with serving(folder) as engine:
        load = Load(engine.url, clients=2)
        time.sleep(1.5)
        postmaster = int(
            (folder / "wattstream-data/postgres/postmaster.pid").read_text().splitlines()[0]
        )
        os.kill(postmaster, signal.SIGKILL)
        deadline = time.monotonic() + 30
        time.sleep(1)
        while not httpx.get(f"{engine.url}/v1/health").is_success:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        before = len(load.acknowledged)
        time.sleep(1.5)
        load.stop()
        assert len(load.acknowledged) > before
        assert all("database_unavailable" in text for text in load.refused)
        assert_holds(folder, engine.url, load.acknowledged)


@pytest.mark.slow
def test_a_postgres_that_cannot_start_again_is_tried_until_it_can(folder: Path) -> None:
    with serving(folder) as engine:
        cluster = folder / "wattstream-data" / "postgres"
        (cluster / "global").rename(cluster / "away")
        postmaster = int((cluster / "postmaster.pid").read_text().splitlines()[0])
        os.kill(postmaster, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not any("did not start" in line for line in engine.log):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (cluster / "away").rename(cluster / "global")
        while not httpx.get(f"{engine.url}/v1/health", timeout=30).is_success:
            assert time.monotonic() < deadline
            time.sleep(0.5)


@pytest.mark.slow
def test_an_engine_whose_database_stops_answering_at_its_start_ends(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from wattstream.app import running
from wattstream.settings import load
async def main():
    async with running(load({}, {}), sys.argv[1]):
        pass
asyncio.run(main())
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        conninfo = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/x"
        done = subprocess.run(
            [sys.executable, "-c", script, conninfo],
            check=False,
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            timeout=40,
        )
    assert "StoreUnavailableError" in done.stderr


def test_a_second_engine_on_the_same_folder_is_refused_with_what_to_do(folder: Path) -> None:
    with serving(folder) as first:
        second = Process(folder)
        assert second.wait() == 1
        text = " ".join("".join(second.log).split())
        assert "WATTSTREAM_DATA_DIR" in text
        assert "Traceback" not in text
        assert httpx.get(f"{first.url}/v1/health").is_success


def test_a_port_in_use_ends_the_start_with_what_to_do(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        engine = Process(folder, "--port", str(taken.getsockname()[1]))
        assert engine.wait() == 1
    text = " ".join("".join(engine.log).split())
    assert "WATTSTREAM_PORT" in text
    assert "Traceback" not in text
    assert servers_of(folder) == []


def test_wrong_settings_are_all_named_before_anything_starts(folder: Path) -> None:
    engine = Process(folder, "--max-past", "long", "--log-format", "xml")
    assert engine.wait() == 1
    text = "".join(engine.log)
    assert "WATTSTREAM_MAX_PAST" in text
    assert "WATTSTREAM_LOG_FORMAT" in text
    assert not (folder / "wattstream-data").exists()


def test_a_log_in_json_has_an_object_a_line(folder: Path) -> None:
    engine = Process(folder, "--log-format", "json")
    assert engine.end(signal.SIGTERM) == 0
    lines = [line for line in engine.log if line.startswith("{")]
    assert lines
    assert all({"event", "level", "timestamp"} <= set(json.loads(line)) for line in lines)


def test_simulated_devices_report_beside_the_engine_and_end_with_it(folder: Path) -> None:
    with serving(folder, "--simulate", "50") as engine:
        deadline = time.monotonic() + 20
        while httpx.get(f"{engine.url}/v1/analytics/stats").json()["vehicle"]["readings"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert engine.end(signal.SIGTERM) == 0


def test_the_limit_of_open_files_is_raised_at_the_start(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard <= 2000:
        pytest.skip("this user may not open more files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    try:
        engine = Process(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert resource.prlimit(engine.pid, resource.RLIMIT_NOFILE)[0] > 2000
    finally:
        engine.end(signal.SIGTERM)
