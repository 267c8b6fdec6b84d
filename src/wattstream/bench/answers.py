"""How fast an engine answers over a growing history, idle and while readings arrive."""

import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import msgspec
import psycopg

from wattstream.bench.history import external_id, grow, system_clock_us
from wattstream.bench.payloads import DEVICES
from wattstream.bench.rows import Row
from wattstream.domain.errors import OperatorError
from wattstream.domain.units import DAY_US, MICRO, rfc3339
from wattstream.inputs.http import ONE_PATH
from wattstream.store.postgres import migrate

SIZES = (1_000_000, 10_000_000, 100_000_000)
"""Rows of history at which answers are measured."""
QUICK_SIZES = (200_000, 1_000_000, 5_000_000)
BEATS_A_MINUTE = 20_000
"""The load beside the answers: single readings, each a request."""

_PART = "answers"
_DATABASE = "wattstream_answers"
_BEAT_CONNECTIONS = 16
_JSON = {"Content-Type": "application/json"}
_WARM_UP = 20
_SETTLE_S = 2.0  # the load runs for so long before anything is timed


@dataclass(frozen=True, slots=True)
class _Question:
    """A GET request.

    Attributes:
        name: As rows call it.
        path: With `{id}`, and `{start}` and `{end}`, 24 h up to now.
        least: Requests that its p99 needs.
        is_optional: Whether an engine may not know it yet.
    """

    name: str
    path: str
    least: int
    is_optional: bool = False


_QUESTIONS = (
    _Question("performance", "/v1/analytics/performance/{id}", 500),
    _Question("status", "/v1/ingest/status/vehicle/{id}", 500),
    _Question("stats", "/v1/analytics/stats", 200),
    _Question("alerts", "/v1/analytics/alerts", 100),
    _Question("fleet", "/v1/analytics/fleet", 100, is_optional=True),
    _Question(
        "a day of history",
        "/v1/history/vehicle/{id}?start={start}&end={end}",
        200,
        is_optional=True,
    ),
)


def measure_answers(
    conninfo: str,
    start_engine: Callable[[str], AbstractContextManager[int]],
    sizes: Sequence[int],
    seconds: float,
    on_row: Callable[[Row], None],
    *,
    pairs: int = DEVICES,
) -> None:
    """Measure answers at each size of history, in a database made for it.

    One request at a time, over one kept connection, from a process of its own, for random
    devices. A ratio is the p99 against that of the same answer at the smallest size.

    Args:
        conninfo: A PostgreSQL server of this machine, as superuser.
        start_engine: Runs an engine on a database, provides its port.
        sizes: Rows of history, ascending. Each device sends one a minute, so with 10,000
            pairs the last 24 h are not full yet below 28.8 million rows.
        seconds: Least time for each answer; slow ones take longer, for their p99.
        on_row: Called with each result.
        pairs: Meters, and as many vehicles.

    Raises:
        OperatorError: The disk is too small, or an answer was wrong.
    """
    database = _make_database(conninfo)
    smallest: dict[str, float] = {}

    def note(question: str, label: str, rows: int, taken: "_Times", detail: str) -> None:
        p99_ms = 1000 * taken.at(0.99)
        first_ms = smallest.setdefault(f"{question}, {label}", p99_ms)
        against = f"p99 against {_millions(sizes[0])} rows" if rows != sizes[0] else ""
        span = f"{rows / (2 * pairs) / 60:.1f} h of history"
        on_row(
            Row(
                _PART,
                f"{question}, {_millions(rows)} rows, {label}",
                taken.rate,
                p99_ms / first_ms if rows != sizes[0] else None,
                1000 * taken.at(0.5),
                p99_ms,
                "; ".join(filter(None, (against, span, detail))),
            )
        )

    for rows in sizes:
        grow(database, pairs, rows)
        with start_engine(database) as port:
            known = [question for question in _QUESTIONS if _is_known(port, question)]
            _check_answer(port, pairs, rows)
            for question in known:
                note(question.name, "idle", rows, _ask(port, pairs, question, seconds), "")
            with _beats(port, pairs) as beats:
                for question in known:
                    note(question.name, "with load", rows, _ask(port, pairs, question, seconds), "")
            pace = f"{60 * beats[0].rate:,.0f} a minute came through, timed from when due"
            if beats[0].again:
                pace += f", {beats[0].again} sent again over a new connection"
            note("a heartbeat sent", "the load itself", rows, beats[0], pace)


def _make_database(conninfo: str) -> str:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {_DATABASE}".encode())
    database = psycopg.conninfo.make_conninfo(conninfo, dbname=_DATABASE)
    migrate(database)
    return database


def _millions(rows: int) -> str:
    return f"{rows / MICRO:g} million"


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds to each answer, ascending; how long they took together; requests sent again."""

    each_s: list[float]
    total_s: float
    again: int = 0

    @property
    def rate(self) -> float:
        return len(self.each_s) / self.total_s

    def at(self, quantile: float) -> float:
        return self.each_s[int(quantile * (len(self.each_s) - 1))]


def _path(question: _Question, pairs: int, rng: random.Random) -> str:
    now_us = system_clock_us()
    return question.path.format(
        id=external_id(rng.randrange(pairs)),
        start=rfc3339(now_us - DAY_US),
        end=rfc3339(now_us),
    )


def _get(link: HTTPConnection, path: str) -> tuple[int, bytes]:
    link.request("GET", path)
    reply = link.getresponse()
    return reply.status, reply.read()


def _is_known(port: int, question: _Question) -> bool:
    """Return whether the engine has that endpoint; it answers 404 where not."""
    link = HTTPConnection("127.0.0.1", port)
    status, body = _get(link, _path(question, 1, random.Random(0)))  # noqa: S311 - a benchmark repeats
    link.close()
    if status == 404 and question.is_optional:
        return False
    _expect(question.path, status, body)
    return True


def _check_answer(port: int, pairs: int, rows: int) -> None:
    """Check that an answer has the readings that were written, so that it is worth timing."""
    expected = min(rows / (2 * pairs), DAY_US / (60 * MICRO))
    link = HTTPConnection("127.0.0.1", port)
    body = _get(link, f"/v1/analytics/performance/{external_id(pairs // 2)}")[1]
    link.close()
    held = msgspec.json.decode(body)["readings"]
    if not all(0.9 * expected <= held[kind] <= 1.5 * expected for kind in ("vehicle", "meter")):
        raise OperatorError(f"The engine counts {held} where {expected:.0f} each were written")


def _expect(path: str, status: int, body: bytes) -> None:
    if not 200 <= status < 300:
        raise OperatorError(f"{path} was answered with {status}: {body[:300]!r}")


def _ask(port: int, pairs: int, question: _Question, seconds: float) -> _Times:
    """Ask for some seconds, one request at a time, in a process of its own."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(
        target=_ask_there, args=(there, port, pairs, question, seconds), daemon=True
    )
    process.start()
    there.close()
    return _received(here, process)


def _ask_there(
    answer: Connection, port: int, pairs: int, question: _Question, seconds: float
) -> None:
    rng = random.Random(question.name)  # noqa: S311 - a benchmark repeats
    link = HTTPConnection("127.0.0.1", port)
    each_s: list[float] = []
    try:
        for _ in range(_WARM_UP):
            _get(link, _path(question, pairs, rng))
        started = time.perf_counter()
        while len(each_s) < question.least or time.perf_counter() - started < seconds:
            path = _path(question, pairs, rng)
            sent = time.perf_counter()
            status, body = _get(link, path)
            each_s.append(time.perf_counter() - sent)
            _expect(path, status, body)
        answer.send(_Times(sorted(each_s), sum(each_s)))
    except (OperatorError, OSError, HTTPException) as error:
        answer.send(OperatorError(f"{question.name}: {error}"))


@contextmanager
def _beats(port: int, pairs: int) -> Iterator[list[_Times]]:
    """Send heartbeats, evenly paced; provide a list that says, afterwards, how it went."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    process = context.Process(target=_beat_there, args=(there, stop, port, pairs), daemon=True)
    process.start()
    there.close()
    taken: list[_Times] = []
    try:
        time.sleep(_SETTLE_S)
        yield taken
    finally:
        stop.set()
        taken.append(_received(here, process))


def _beat_there(answer: Connection, stop: Event, port: int, pairs: int) -> None:
    each_s: list[float] = []
    failures: list[Exception] = []
    again: list[int] = []
    started = time.perf_counter()

    def send(link: HTTPConnection, number: int) -> None:
        link.request("POST", ONE_PATH, _beat(number, pairs), _JSON)
        reply = link.getresponse()
        _expect(ONE_PATH, reply.status, reply.read())

    def client(first: int) -> None:
        link = HTTPConnection("127.0.0.1", port)
        number = first
        try:
            while not failures and not stop.is_set():
                due = started + number * 60 / BEATS_A_MINUTE
                time.sleep(max(0.0, due - time.perf_counter()))
                try:
                    send(link, number)
                except (ConnectionError, HTTPException):
                    # An engine may close a kept connection at any time; devices send again.
                    link.close()
                    again.append(number)
                    send(link, number)
                # From when it was due: a stall of the engine counts for all that wait for it.
                each_s.append(time.perf_counter() - due)
                number += _BEAT_CONNECTIONS
        except (OperatorError, OSError, HTTPException) as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(_BEAT_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total_s = time.perf_counter() - started
    if failures:
        answer.send(OperatorError(f"The load beside the answers failed: {failures[0]}"))
    else:
        answer.send(_Times(sorted(each_s), total_s, len(again)))


def _beat(number: int, pairs: int) -> bytes:
    """Return a reading of now; a pair's meter and vehicle take turns, each once a minute."""
    device, at = external_id(number // 2 % pairs), rfc3339(system_clock_us())
    if number % 2:
        values: dict[str, object] = {"kwhDeliveredDc": 0.1, "soc": 50.5, "batteryTemp": 24.5}
        return msgspec.json.encode({"vehicleId": device, "timestamp": at, **values})
    values = {"kwhConsumedAc": 0.11, "voltage": 230.1}
    return msgspec.json.encode({"meterId": device, "timestamp": at, **values})


def _received(here: Connection, process: multiprocessing.process.BaseProcess) -> _Times:
    """Return what a process sends as it ends, or raise it."""
    try:
        outcome = here.recv()
    except EOFError as error:
        raise OperatorError("A process of the benchmark ended early") from error
    process.join()
    if isinstance(outcome, OperatorError):
        raise outcome
    return outcome  # type: ignore[no-any-return]
