"""The log: a line tells which request it is of, and nothing of local variables."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest

from wattstream.log import begin_request
from wattstream.settings import PREFIX

SECRET = "correct-horse-battery-staple"

LOGGER = """
import sys
import structlog
from wattstream.log import configure_logging
configure_logging(sys.argv[1], "info")
for _ in range(1000):
    structlog.get_logger().warning("said in vain")
print("went on")
"""


class Logged:
    """An engine whose log goes to a file."""

    def __init__(self, conninfo: str, log: Path, **flags: str) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        settings = {f"{PREFIX}{name.upper()}": value for name, value in flags.items()}
        self.conninfo = conninfo
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wattstream", "serve", "--port", "0"],
                env=environ | {"WATTSTREAM_DATABASE_URL": conninfo} | settings,
                stderr=file,
            )
        while not (match := re.search(r"ready: (http://[\d.]+:\d+)", self.log)):
            assert self.process.poll() is None, self.log
        self.url = match[1]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def drop(self, table: str) -> None:
        """Take away a table, which no part of the engine expects."""
        with psycopg.connect(self.conninfo) as connection:
            connection.execute(f"DROP TABLE {table} CASCADE".encode())

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(timeout=30) == 0


@pytest.fixture
def make_engine(
    make_database: Callable[[], str], tmp_path: Path
) -> Iterator[Callable[..., Logged]]:
    started: list[Logged] = []

    def make(**flags: str) -> Logged:
        started.append(Logged(make_database(), tmp_path / f"log{len(started)}", **flags))
        return started[-1]

    yield make
    for engine in started:
        engine.stop()


def reading(name: str = "M1") -> dict[str, object]:
    return {"meterId": name, "kwhConsumedAc": 1, "timestamp": datetime.now(UTC).isoformat()}


@pytest.mark.parametrize(
    ("sent", "is_taken"),
    [
        (b"abc-123", True),
        (b"0af7651916cd43dd8448eb211c80319c", True),
        (b"a" * 128, True),
        (b"a" * 129, False),
        (b"", False),
        (b"two words", False),
        (b"a\nERROR forged", False),
        (b"\x1b[31m", False),
        ("ü".encode(), False),
        (b'"}{', False),
    ],
)
def test_only_plain_characters_of_a_client_become_a_request_id(sent: bytes, is_taken: bool) -> None:
    made = begin_request([(b"host", b"x"), (b"x-request-id", sent)])
    assert (made == sent) is is_taken
    assert re.fullmatch(rb"[\w.-]+", made)


def test_request_ids_that_are_made_differ() -> None:
    made = {begin_request([]) for _ in range(1000)}
    assert len(made) == 1000


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_bug_is_logged_with_its_request_and_without_local_variables(
    make_engine: Callable[..., Logged], form: str
) -> None:
    engine = make_engine(log_format=form)
    with httpx.Client(base_url=engine.url, headers={"X-Request-ID": "trace-7"}) as client:
        for path in ("/v1/health/live", "/nowhere", "/v1/history/meter/x"):
            assert client.get(path).headers["X-Request-ID"] == "trace-7"
        assert client.post("/v1/ingest", json=reading()).headers["X-Request-ID"] == "trace-7"
        other = client.get("/v1/health/live", headers={"X-Request-ID": f"{SECRET} {SECRET}"})
        assert other.headers["X-Request-ID"] not in ("", "trace-7")
        assert SECRET not in other.headers["X-Request-ID"]

        engine.drop("rejections")
        for path in ("/v1/rejections", f"/v1/rejections?id={SECRET}"):
            assert client.get(path).json()["error"]["code"] == "internal"
        wrong = {"meterId": SECRET, "kwhConsumedAc": "much"}
        assert client.post("/v1/ingest", json=wrong).status_code == 500

    log = engine.log
    assert log.count("UndefinedTable") >= 3
    assert SECRET not in log
    if form == "json":
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        told = [line for line in lines if line.get("request_id") == "trace-7"]
        assert {line["event"] for line in told} == {"A request failed", "Ingest failed"}
        assert all("Traceback" in line["exception"] for line in told)
        assert max(map(len, log.splitlines())) < 20_000
    else:
        assert log.count("request_id=trace-7") == 3
        assert len(log) < 60_000


def test_a_slow_flush_is_explained_and_a_quick_one_is_not(
    make_engine: Callable[..., Logged],
) -> None:
    engine = make_engine(log_format="json", slow_flush="1s")
    assert httpx.post(f"{engine.url}/v1/ingest", json=reading()).status_code == 201
    with psycopg.connect(engine.conninfo) as blocker:
        blocker.execute("SELECT FROM meter_live FOR UPDATE")
        with httpx.Client(base_url=engine.url, timeout=30) as client:
            body = [reading(), reading("M2")]
            slow = subprocess.Popen(
                [sys.executable, "-c", "import sys, httpx; httpx.post(sys.argv[1], timeout=30,"
                 " content=sys.stdin.buffer.read(), headers={'Content-Type': 'application/json'})",
                 f"{engine.url}/v1/ingest/batch"],
                stdin=subprocess.PIPE,
            )  # fmt: skip
            assert slow.stdin is not None
            slow.stdin.write(json.dumps(body).encode())
            slow.stdin.close()
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            with psycopg.connect(engine.conninfo, autocommit=True) as watcher:
                while watcher.execute(waiting).fetchone() == (0,):
                    assert slow.poll() is None
                watcher.execute("SELECT pg_sleep(1.2)")
            blocker.rollback()
            assert slow.wait(timeout=30) == 0
            assert client.get("/v1/health").is_success
    (told,) = [json.loads(line) for line in engine.log.splitlines() if "Slow flush" in line]
    assert told["level"] == "warning"
    assert (told["stream"], told["readings"], told["late"], told["waiting"]) == ("meter", 2, 0, 0)
    assert told["seconds"] >= told["write_s"] > 1
    assert told["pack_s"] >= 0
    assert told["wait_s"] >= 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("form", ["console", "json"])
def test_log_on_a_full_disk_does_not_stop_what_logs(form: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LOGGER, form],
            check=False,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
        )
    assert done.stdout == "went on\n"
