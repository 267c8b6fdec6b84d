"""How fast an engine answers over a growing history, idle and while readings arrive."""

import math
import multiprocessing
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection

import msgspec

from wattstream.bench.beats import Times, beats, expect, received
from wattstream.bench.engine import Engine, make_database
from wattstream.bench.history import external_id, grow, system_clock_us
from wattstream.bench.payloads import DEVICES
from wattstream.bench.rows import Row
from wattstream.domain.errors import OperatorError
from wattstream.domain.units import DAY_US, MICRO, rfc3339

SIZES = (1_000_000, 10_000_000, 100_000_000)
"""Rows of history at which answers are measured."""
QUICK_SIZES = (200_000, 1_000_000, 5_000_000)

ROUNDS = 3
"""How often each size has its turn."""

_PART = "answers"
_BEAT = "a heartbeat sent"
_DATABASE = "wattstream_answers"
_FIRST_LOOK_S = 5.0  # an engine that starts looks after all devices for a second or two
_WARM_UP = 120  # each connection of the pool prepares a statement when it is asked again


@dataclass(frozen=True, slots=True)
class _Question:
    """A GET request.

    Attributes:
        name: As rows call it.
        path: With `{id}`, and `{start}` and `{end}`, 24 h up to now.
        least: Requests that its p99 needs.
    """

    name: str
    path: str
    least: int


_Taken = defaultdict[tuple[str, str], list[Times]]
"""How long answers took, a round each, by question and label."""

_QUESTIONS = (
    _Question("performance", "/v1/analytics/performance/{id}", 500),
    _Question("status", "/v1/ingest/status/vehicle/{id}", 500),
    _Question("stats", "/v1/analytics/stats", 200),
    _Question("alerts", "/v1/analytics/alerts", 100),
    _Question("fleet", "/v1/analytics/fleet", 100),
    _Question("a day of history", "/v1/history/vehicle/{id}?start={start}&end={end}", 100),
)


def measure_answers(
    conninfo: str,
    start_engine: Callable[[str], AbstractContextManager[Engine]],
    sizes: Sequence[int],
    seconds: float,
    on_row: Callable[[Row], None],
    *,
    pairs: int = DEVICES,
    asked: float = 1.0,
    rounds: int = ROUNDS,
) -> None:
    """Measure answers at each size of history, in turns, each in a database made for it.

    One request at a time, over one kept connection, from a process of its own, for random
    devices. Figures are medians of the rounds. A ratio is the p99 against that of the same
    answer at the smallest size: the machine may be half as fast some minutes later, so all
    sizes are measured in each round.

    Args:
        conninfo: A PostgreSQL server of this machine, as superuser.
        start_engine: Runs an engine on a database.
        sizes: Rows of history, ascending. Each device sends one a minute, so with 10,000
            pairs the last 24 h are not full yet below 28.8 million rows.
        seconds: Least time for each answer of all rounds; slow ones take longer, for their p99.
        on_row: Called with each result, at the end.
        pairs: Meters, and as many vehicles.
        asked: Share of the requests that a p99 needs; below 1 it is none, and comes sooner.
        rounds: How often each size has its turn.

    Raises:
        OperatorError: The disk is too small, or an answer was wrong.
    """
    databases = {rows: make_database(conninfo, f"{_DATABASE}_{rows}") for rows in sizes}
    for rows in reversed(sizes):
        grow(databases[rows], pairs, rows)
    questions = [replace(each, least=math.ceil(asked * each.least / rounds)) for each in _QUESTIONS]
    taken: dict[int, _Taken] = {rows: defaultdict(list) for rows in sizes}
    for _ in range(rounds):
        for rows in sizes:
            grow(databases[rows], pairs, rows)  # the minutes of the turns before
            with start_engine(databases[rows]) as engine:
                time.sleep(_FIRST_LOOK_S)
                if not taken[rows]:  # later, the load's readings are there as well
                    _check_answer(engine.port, pairs, rows)
                _look(engine.port, pairs, questions, seconds / rounds, taken[rows])
    for rows in sizes:
        span = f"{rows / (2 * pairs) / 60:.1f} h of history"
        for (question, label), times in taken[rows].items():
            p99_ms = _median_ms(times, 0.99)
            is_first = rows == sizes[0]
            first_ms = _median_ms(taken[sizes[0]][question, label], 0.99)
            notes = [] if is_first else [f"p99 against {_millions(sizes[0])} rows"]
            notes.append(span)
            if question == _BEAT:
                notes.append(_pace(times))
            on_row(
                Row(
                    _PART,
                    f"{question}, {_millions(rows)} rows, {label}",
                    statistics.median(each.rate for each in times),
                    None if is_first else p99_ms / first_ms,
                    _median_ms(times, 0.5),
                    p99_ms,
                    "; ".join(notes),
                )
            )


def _look(
    port: int, pairs: int, questions: Sequence[_Question], seconds: float, taken: _Taken
) -> None:
    """Ask everything, idle and with load, and add how long it took."""
    for question in questions:
        taken[question.name, "idle"].append(_ask(port, pairs, question, seconds))
    with beats(port, pairs) as beaten:
        for question in questions:
            taken[question.name, "with load"].append(_ask(port, pairs, question, seconds))
    taken[_BEAT, "the load itself"] += beaten


def _median_ms(times: Sequence[Times], quantile: float) -> float:
    return 1000 * statistics.median(each.at(quantile) for each in times)


def _pace(times: Sequence[Times]) -> str:
    rate = 60 * statistics.median(each.rate for each in times)
    pace = f"{rate:,.0f} a minute came through, timed from when due"
    again = sum(each.again for each in times)
    return f"{pace}, {again} sent again over a new connection" if again else pace


def _millions(rows: int) -> str:
    return f"{rows / MICRO:g} million"


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


def _check_answer(port: int, pairs: int, rows: int) -> None:
    """Check that an answer has the readings that were written, so that it is worth timing."""
    expected = min(rows / (2 * pairs), DAY_US / (60 * MICRO))
    link = HTTPConnection("127.0.0.1", port)
    body = _get(link, f"/v1/analytics/performance/{external_id(pairs // 2)}")[1]
    link.close()
    held = msgspec.json.decode(body)["readings"]
    if not all(0.9 * expected <= held[kind] <= 1.5 * expected for kind in ("vehicle", "meter")):
        raise OperatorError(f"The engine counts {held} where {expected:.0f} each were written")


def _ask(port: int, pairs: int, question: _Question, seconds: float) -> Times:
    """Ask for some seconds, one request at a time, in a process of its own."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(
        target=_ask_there, args=(there, port, pairs, question, seconds), daemon=True
    )
    process.start()
    there.close()
    return received(here, process)


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
            expect(path, status, body)
        answer.send(Times(sorted(each_s), sum(each_s)))
    except (OperatorError, OSError, HTTPException) as error:
        answer.send(OperatorError(f"{question.name}: {error}"))
