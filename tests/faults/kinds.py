"""The faults: each acts on a running system under load, and leaves it mendable."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import psycopg

from faults.fleet import key_of, records
from faults.load import FIRST_DAY, Ledger
from faults.system import TOPOLOGIES, System, until, workers_of

_DAY_MS = 86_400_000
_EXTERNAL = ("proxied", "pair")


@dataclass
class Scene:
    """What a fault may use.

    Attributes:
        seen: What the faults brought about, counted.
        recoveries_s: From the database's return to the next 2xx.
    """

    system: System
    ledger: Ledger
    rng: random.Random
    seen: Counter[str]
    recoveries_s: list[float]
    outage_s: float = 3.0

    def mend(self) -> None:
        """Start what does not run, and wait for an acknowledgement of what is sent from now on."""
        self.system.start_database()
        began = time.monotonic()
        self.system.restart()
        until(lambda: self.ledger.acknowledged_s > began, "a request is acknowledged again")
        for engine in self.system.engines:
            until(engine.is_well, f"{engine.url} is well")


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        topologies: Where it makes sense.
        is_slow: Whether it takes more than some seconds.
    """

    act: Callable[[Scene], None]
    topologies: tuple[str, ...] = TOPOLOGIES
    is_slow: bool = False


# ── Processes ────────────────────────────────────────────────────────────────────────────────


def _engine_killed(scene: Scene) -> None:
    scene.rng.choice(scene.system.engines).end(signal.SIGKILL)


def _engine_stopped(scene: Scene) -> None:
    scene.rng.choice(scene.system.engines).end(signal.SIGTERM)


def _worker_killed(scene: Scene) -> None:
    workers = workers_of(scene.system.engines[0].pid)
    os.kill(scene.rng.choice(workers), signal.SIGKILL)


def _database_ends(number: signal.Signals) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        pid = scene.system.postmaster()
        os.kill(pid, number)
        # A postmaster that was killed is a zombie until its parent looks.
        until(lambda: _has_ended(pid), "the postmaster ends")

    return act


def _has_ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _database_away(scene: Scene) -> None:
    """The server is gone for a while; clients hear 503, and the engine goes on by itself."""
    server, answers = scene.system.server, scene.ledger.answers
    assert server is not None
    refused = answers["503"]
    os.kill(scene.system.postmaster(), signal.SIGINT)
    time.sleep(scene.outage_s)
    assert answers["503"] > refused, "nobody was told that the database is away"
    scene.system.start_database()
    began = time.monotonic()
    until(lambda: scene.ledger.acknowledged_s > began, "a request is acknowledged again")
    scene.recoveries_s.append(time.monotonic() - began)


def _backend_killed(scene: Scene) -> None:
    with suppress(psycopg.OperationalError):
        pids = scene.system.backends("wattstream %lane")
        os.kill(scene.rng.choice(pids), signal.SIGKILL)


def _sessions_terminated(scene: Scene) -> None:
    for _ in range(scene.rng.randint(2, 8)):
        with scene.system.connection() as connection:
            for pid in scene.system.backends("wattstream %"):
                if scene.rng.random() < 0.5:
                    connection.execute("SELECT pg_terminate_backend(%s)", [pid])
                    scene.seen["sessions terminated"] += 1
        time.sleep(scene.rng.uniform(0, 0.4))


# ── Connections ──────────────────────────────────────────────────────────────────────────────


def _connection_cut(scene: Scene) -> None:
    proxy = scene.system.proxy
    assert proxy is not None
    before = proxy.cuts
    for _ in range(scene.rng.randint(2, 5)):
        proxy.cut(1, scene.rng.choice([0, 500, 3000, 10_000]))
        with suppress(AssertionError):  # none of the flushes was that large
            until(lambda: not proxy.waits, "a flush is cut", 2)
    proxy.cut(0, 0)
    scene.seen["connections cut in a flush"] += proxy.cuts - before


def _answer_lost(scene: Scene) -> None:
    proxy = scene.system.proxy
    assert proxy is not None
    before = proxy.lost
    for _ in range(scene.rng.randint(2, 5)):
        proxy.lose_answers(scene.rng.randint(1, 3))
        until(lambda: not proxy.waits, "an answer to a commit is lost")
    scene.seen["answers to a commit lost"] += proxy.lost - before


# ── Other sessions of the database ───────────────────────────────────────────────────────────


def _foreign_locks(scene: Scene) -> None:
    """Sessions lock live rows one by one in odd orders: somebody is in a circle."""
    for _ in range(scene.rng.randint(3, 8)):
        table = scene.rng.choice(["meter_live", "vehicle_live"])
        with scene.system.connection() as connection:
            keys = [key for (key,) in connection.execute(f"SELECT device_id FROM {table}")]
            scene.rng.shuffle(keys)
            try:
                with connection.transaction():
                    for key in keys[: scene.rng.randint(2, 12)]:
                        connection.execute(
                            f"SELECT FROM {table} WHERE device_id = %s FOR UPDATE", [key]
                        )
                        time.sleep(scene.rng.uniform(0, 0.1))
            except psycopg.errors.DeadlockDetected:
                scene.seen["deadlocks that the other session lost"] += 1


def _lock_timeout(scene: Scene) -> None:
    """A session holds a live row for longer than any flush waits."""
    table = scene.rng.choice(["meter_live", "vehicle_live"])
    with scene.system.connection() as connection, connection.transaction():
        connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        time.sleep(11)


def _partition_missing(scene: Scene) -> None:
    """Days lose their partition under the engine: one detached with readings, one dropped."""
    number = scene.seen["partitions detached"]
    device = 900 + number
    day_ms = (FIRST_DAY - 1 - number % FIRST_DAY) * _DAY_MS
    _deliver(scene, device, [day_ms + 1000 * i for i in range(20)])
    day = datetime.fromtimestamp(scene.ledger.base_us / 1e6, UTC) + timedelta(milliseconds=day_ms)
    with scene.system.connection() as connection:
        for stream in ("meter", "vehicle"):
            name = f"{stream}_history_{day:%Y%m%d}"
            connection.execute(f"ALTER TABLE {stream}_history DETACH PARTITION {name}")
    scene.seen["partitions detached"] += 1
    _deliver(scene, device, [day_ms + 1000 * i for i in range(40)])
    ahead = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for days in (1, 2):
        day = ahead + timedelta(days=days)
        if not _is_empty(scene, f"{day:%Y%m%d}"):
            continue
        with scene.system.connection() as connection:
            for stream in ("meter", "vehicle"):
                connection.execute(f"DROP TABLE {stream}_history_{day:%Y%m%d}")
        scene.seen["partitions dropped"] += 1
        start_ms = (int(day.timestamp()) * 1_000_000 - scene.ledger.base_us) // 1000
        _deliver(scene, device + 50, [start_ms + 1000 * i for i in range(500)])
        return


def _is_empty(scene: Scene, day: str) -> bool:
    with scene.system.connection() as connection:
        query = "SELECT to_regclass(%s) IS NOT NULL"
        found = connection.execute(query, [f"meter_history_{day}"]).fetchone()
        if found is None or not found[0]:
            return False
        query = f"SELECT EXISTS (SELECT FROM meter_history_{day})"
        row = connection.execute(query.encode()).fetchone()
        return row is not None and not row[0]


def _deliver(scene: Scene, device: int, times_ms: list[int]) -> None:
    """Send readings of a device of either stream until they are taken."""
    keys = np.array([key_of(s, device, ms) for s in (0, 1) for ms in times_ms], np.int64)
    body = records(keys, scene.ledger.base_us, wrong=np.zeros(len(keys), np.bool_))
    scene.ledger.note_sent(keys)

    def is_taken() -> bool:
        try:
            url = scene.rng.choice(scene.system.urls())
            answer = httpx.post(f"{url}/v1/ingest/batch", json=body, timeout=60)
        except httpx.TransportError:
            return False
        if answer.status_code not in {201, 503}:
            scene.ledger.note_answer(str(answer.status_code), answer.text[:500])
        return answer.status_code == 201

    until(is_taken, "readings of a day without a partition are taken", 30)
    scene.ledger.note_acknowledged(keys)


# ── The machine ──────────────────────────────────────────────────────────────────────────────


def _clock_jumps(scene: Scene) -> None:
    """The engine's clock goes an hour back, a month ahead, and home again."""
    for hours in scene.rng.sample([-2, -1, 24, 30 * 24], 3):
        scene.system.move_clock(hours * 3_600_000_000)
        time.sleep(scene.rng.uniform(0.3, 1))
    scene.system.move_clock(0)


def _disk_full(scene: Scene) -> None:
    """Another program fills the disk of the data folder, and frees it later."""
    disk = scene.system.disk
    assert disk is not None
    ballast = disk / "ballast"
    refused = scene.ledger.answers["503"]
    try:
        with ballast.open("wb") as file:
            facts = os.statvfs(disk)
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, facts.f_bavail * facts.f_frsize)
            with suppress(OSError):
                while True:  # the last blocks, too
                    os.write(file.fileno(), bytes(4096))
        with suppress(AssertionError):
            until(lambda: scene.ledger.answers["503"] > refused + 3, "the disk is full", 20)
            scene.seen["disks full, with 503"] += 1
        time.sleep(scene.rng.uniform(0, 2))
    finally:
        ballast.unlink()


FAULTS = {
    "engine killed": Fault(_engine_killed),
    "engine stopped": Fault(_engine_stopped),
    "worker killed": Fault(_worker_killed, ("workers",)),
    "postgres killed": Fault(_database_ends(signal.SIGKILL)),
    "postgres stopped at once": Fault(_database_ends(signal.SIGQUIT)),
    "postgres away": Fault(_database_away, _EXTERNAL),
    "backend killed": Fault(_backend_killed),
    "sessions terminated": Fault(_sessions_terminated),
    "connection cut in a flush": Fault(_connection_cut, _EXTERNAL),
    "commit's answer lost": Fault(_answer_lost, _EXTERNAL),
    "foreign locks": Fault(_foreign_locks),
    "lock timeout": Fault(_lock_timeout, is_slow=True),
    "partition missing": Fault(_partition_missing),
    "clock jumps": Fault(_clock_jumps),
    "disk full": Fault(_disk_full, is_slow=True),
}
