"""Several engine processes behind one port: exact together, and none is left behind."""

import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from test_process import Load, Process, assert_holds, folder, servers_of, serving

__all__ = ["folder"]
DEVICES = 20
STEPS = 15


def workers_of(pid: int) -> set[int]:
    """Return the worker processes that a parent started."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"wattstream.worker" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def counters_of(pid: int) -> set[Path]:
    """Return the files where a worker counts."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {Path(line.split()[-1]) for line in lines if line.endswith(".db")}


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def totals(url: str) -> Counter[str]:
    """Return every counter of /metrics, summed over its labels."""
    found: Counter[str] = Counter()
    text = httpx.get(f"{url}/metrics").text
    for name, value in re.findall(r"^wattstream_(\w+)(?:{.*})? (\S+)$", text, re.M):
        found[name] += float(value)  # type: ignore[assignment]
    return found


class Sender:
    """A client of its own connections that sends every reading, in its own order and pieces."""

    def __init__(self, url: str, seed: int, base: datetime) -> None:
        self.answers: Counter[str] = Counter()
        self.problems: list[str] = []
        self._rng = random.Random(seed)
        self._base = base
        self._url = url
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        rows = [
            {
                f"{stream}Id": f"W{device}",
                "kwhConsumedAc" if stream == "meter" else "kwhDeliveredDc": 1,
                "timestamp": (self._base + timedelta(seconds=step)).isoformat(),
            }
            for stream in ("meter", "vehicle")
            for device in range(DEVICES)
            for step in range(STEPS)
        ]
        self._rng.shuffle(rows)
        while rows:
            # Each connection may go to another worker.
            with httpx.Client(base_url=self._url, timeout=30) as http:
                size = self._rng.choice([1, 1, 20, 150])
                part, rows = rows[:size], rows[size:]
                if len(part) == 1:
                    self._note(http.post("/v1/ingest", json=part[0]))
                    self._note(http.post("/v1/ingest", json=part[0]))
                else:
                    self._note(http.post("/v1/ingest/batch", json=part + part[: size // 2]))

    def _note(self, response: httpx.Response) -> None:
        if not response.is_success:
            self.problems.append(response.text)
            return
        body = response.json()
        if body.get("status") == "ok":
            body = {
                "received": 1,
                "stored": int(body["stored"]),
                "duplicate": int(body.get("duplicate", False)),
            }
        else:
            body["duplicate"] = body["duplicates"]
        for name in ("received", "stored", "duplicate"):
            self.answers[name] += body[name]
        self.answers["requests"] += 1


@contextmanager
def idle_connections(url: str, count: int) -> Iterator[list[httpx.Client]]:
    """Provide clients whose connections stay open."""
    clients = [httpx.Client(base_url=url) for _ in range(count)]
    try:
        for client in clients:
            assert client.get("/v1/health/live").is_success
        yield clients
    finally:
        for client in clients:
            client.close()


def sockets_of(pid: int) -> int:
    """Return how many established connections of clients a process holds."""
    inodes = {
        row.split()[9]
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if row.split()[3] == "01"
    }
    held = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held += os.readlink(entry).removeprefix("socket:[").rstrip("]") in inodes
        except OSError:
            continue
    return held


def test_workers_together_are_one_engine(folder: Path) -> None:
    base = datetime.now(UTC) - timedelta(hours=1)
    with serving(folder, "--workers", "4", "--read-connections", "20") as engine:
        config = (folder / "wattstream-data/postgres/wattstream.conf").read_text()
        # 4 workers with 7 writers and 20 readers, and 20 to spare.
        assert "max_connections = '128'" in config
        workers = workers_of(engine.pid)
        assert len(workers) == 4
        with idle_connections(engine.url, 8):
            assert [sockets_of(pid) for pid in workers] == [2] * 4

        senders = [Sender(engine.url, seed, base) for seed in range(4)]
        for sender in senders:
            sender.thread.join()
        assert [sender.problems for sender in senders] == [[]] * 4
        answered = sum((sender.answers for sender in senders), Counter())
        distinct = 2 * DEVICES * STEPS
        assert answered["stored"] == distinct
        assert answered["received"] == distinct + answered["duplicate"]

        stats = httpx.get(f"{engine.url}/v1/analytics/stats").json()
        for stream in ("meter", "vehicle"):
            assert stats[stream]["readings"] == DEVICES * STEPS
            assert stats[stream]["devices"] == DEVICES
        for device in range(DEVICES):
            answer = httpx.get(f"{engine.url}/v1/analytics/performance/W{device}").json()
            assert answer["totalAc"] == answer["totalDc"] == STEPS
        assert httpx.post(f"{engine.url}/v1/analytics/refresh").json()["bucketsRepaired"] == 0

        for _ in range(4):  # whichever worker answers
            counted = totals(engine.url)
            assert counted["readings_received_total"] == answered["received"]
            assert counted["readings_stored_total"] == distinct
            assert counted["readings_duplicate_total"] == answered["duplicate"]
            assert counted["ingest_requests_total"] == answered["requests"]
            assert counted["ack_seconds_count"] == answered["requests"]
            assert counted["queue_readings"] == 0
            assert counted["lag_seconds_count"] == 2 * counted["flush_seconds_count"]
            assert counted["build_info"] == 1
            # Of the database itself, one worker tells; of connections, each of its own.
            assert counted["history_partitions"] < 20
            assert counted["pool_connections"] >= 4
        assert engine.end(signal.SIGTERM) == 0
        assert not any(map(is_alive, workers))
        assert servers_of(folder) == []
        assert "everything acknowledged is on disk" in engine.log[-1]
        assert not [line for line in engine.log if "[error" in line or "Traceback" in line]


def test_a_killed_worker_comes_back_and_the_port_keeps_answering(folder: Path) -> None:
    with serving(folder, "--workers", "2") as engine:
        load = Load(engine.url, clients=4)
        time.sleep(1)
        before = totals(engine.url)["readings_stored_total"]
        killed = min(workers_of(engine.pid))
        os.kill(killed, signal.SIGKILL)
        for _ in range(20):
            assert httpx.get(f"{engine.url}/v1/health/live").is_success
        until(lambda: len(workers_of(engine.pid) - {killed}) == 2)
        # The clients of the other worker have gone on; those of this one lost their connection.
        load.stop()
        assert load.refused == []
        again = Load(engine.url, clients=4)
        time.sleep(1)
        again.stop()
        assert again.refused == []
        assert again.acknowledged
        assert totals(engine.url)["readings_stored_total"] > before > 0
        assert_holds(folder, engine.url, load.acknowledged + again.acknowledged)
        assert any("starting it again" in line and "-9" in line for line in engine.log)


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_is_replaced_without_a_failed_request(folder: Path) -> None:
    problems: list[str] = []
    stop = threading.Event()

    def ask(url: str) -> None:
        while not stop.is_set():
            try:
                if not httpx.get(f"{url}/v1/health", timeout=30).is_success:
                    problems.append("refused")
            except httpx.TransportError as error:
                problems.append(repr(error))

    with serving(folder, "--workers", "2") as engine:
        clients = [threading.Thread(target=ask, args=(engine.url,)) for _ in range(3)]
        for client in clients:
            client.start()
        before = workers_of(engine.pid)
        os.kill(min(before), signal.SIGTERM)
        until(lambda: not is_alive(min(before)))
        until(lambda: len(workers_of(engine.pid)) == 2)
        stop.set()
        for client in clients:
            client.join()
    assert problems == []


def test_a_stop_under_load_keeps_what_all_workers_acknowledged(folder: Path) -> None:
    engine = Process(folder, "--workers", "3")
    workers = workers_of(engine.pid)
    load = Load(engine.url)
    time.sleep(2)
    at = datetime.now(UTC).isoformat()
    body = json.dumps({"meterId": "slow", "kwhConsumedAc": 1, "timestamp": at}).encode()
    with socket.create_connection(("127.0.0.1", int(engine.url.rpartition(":")[2]))) as client:
        head = f"POST /v1/ingest HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body[:9])
        time.sleep(0.5)
        os.kill(engine.pid, signal.SIGTERM)
        time.sleep(0.5)
        client.sendall(body[9:])
        assert client.recv(4096).startswith(b"HTTP/1.1 201")
        load.acknowledged.append(("slow", at))
    assert engine.wait() == 0
    load.join()
    assert len(load.acknowledged) > 100
    assert load.refused == []
    assert not any(map(is_alive, workers))
    assert servers_of(folder) == []
    with serving(folder) as again:
        assert_holds(folder, again.url, load.acknowledged)


def test_workers_end_when_their_parent_is_killed(folder: Path) -> None:
    engine = Process(folder, "--workers", "2")
    workers = workers_of(engine.pid)
    counters = {path for pid in workers for path in counters_of(pid)}
    load = Load(engine.url)
    time.sleep(1)
    os.kill(engine.pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, workers)), seconds=15)
    engine.wait()
    load.join()
    assert load.refused == []
    with serving(folder, "--workers", "2") as again:
        assert_holds(folder, again.url, load.acknowledged)
    assert counters
    assert not any(path.parent.exists() for path in counters)


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_requests_under_way(folder: Path) -> None:
    engine = Process(folder, "--workers", "2", "--shutdown-grace", "60")
    workers = workers_of(engine.pid)
    with socket.create_connection(("127.0.0.1", int(engine.url.rpartition(":")[2]))) as client:
        client.sendall(b"POST /v1/ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        time.sleep(0.5)
        os.kill(engine.pid, signal.SIGTERM)
        time.sleep(1.5)
        assert engine.is_running
        began = time.monotonic()
        assert engine.end(signal.SIGTERM) == 0
        assert time.monotonic() - began < 15
    assert not any(map(is_alive, workers))


def test_a_port_in_use_and_a_password_stay_where_they_belong(folder: Path) -> None:
    with serving(folder, "--workers", "2") as engine:
        password = (folder / "wattstream-data" / "password").read_bytes().strip()
        for pid in {engine.pid, *workers_of(engine.pid)}:
            assert password not in Path(f"/proc/{pid}/cmdline").read_bytes()
        other = folder / "other"
        other.mkdir(mode=0o711)
        second = Process(other, "--workers", "2", "--port", engine.url.rpartition(":")[2])
        assert second.wait() == 1
        text = " ".join("".join(second.log).split())
        assert "WATTSTREAM_PORT" in text
        assert "Traceback" not in text
        assert servers_of(other) == []
