"""Heartbeats of single devices, evenly paced, from a process of their own."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import msgspec

from wattstream.bench.history import external_id, system_clock_us
from wattstream.domain.errors import OperatorError
from wattstream.domain.units import rfc3339
from wattstream.inputs.http import ONE_PATH

BEATS_A_MINUTE = 20_000
"""Single readings, each a request."""
_BEAT_CONNECTIONS = 64
_JSON = {"Content-Type": "application/json"}
_SETTLE_S = 2.0  # they run for so long before anything is timed


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds to each answer, ascending; how long they took together; requests sent again."""

    each_s: list[float]
    total_s: float
    again: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.each_s) / self.total_s

    def at(self, quantile: float) -> float:
        """Return a quantile of the seconds to an answer."""
        return self.each_s[int(quantile * (len(self.each_s) - 1))]


def expect(path: str, status: int, body: bytes) -> None:
    """Check that an answer is a 2xx, or raise OperatorError."""
    if not 200 <= status < 300:
        raise OperatorError(f"{path} was answered with {status}: {body[:300]!r}")


@contextmanager
def beats(port: int, pairs: int) -> Iterator[list[Times]]:
    """Send heartbeats, evenly paced; provide a list that says, afterwards, how it went."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    process = context.Process(target=_beat_there, args=(there, stop, port, pairs), daemon=True)
    process.start()
    there.close()
    taken: list[Times] = []
    try:
        time.sleep(_SETTLE_S)
        yield taken
    finally:
        stop.set()
        taken.append(received(here, process))


def _beat_there(answer: Connection, stop: Event, port: int, pairs: int) -> None:
    each_s: list[float] = []
    failures: list[Exception] = []
    again: list[int] = []
    started = time.perf_counter()

    def send(link: HTTPConnection, number: int) -> None:
        link.request("POST", ONE_PATH, _beat(number, pairs), _JSON)
        reply = link.getresponse()
        expect(ONE_PATH, reply.status, reply.read())

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
        answer.send(Times(sorted(each_s), total_s, len(again)))


def _beat(number: int, pairs: int) -> bytes:
    """Return a reading of now; a pair's meter and vehicle take turns, each once a minute."""
    device, at = external_id(number // 2 % pairs), rfc3339(system_clock_us())
    if number % 2:
        values: dict[str, object] = {"kwhDeliveredDc": 0.1, "soc": 50.5, "batteryTemp": 24.5}
        return msgspec.json.encode({"vehicleId": device, "timestamp": at, **values})
    values = {"kwhConsumedAc": 0.11, "voltage": 230.1}
    return msgspec.json.encode({"meterId": device, "timestamp": at, **values})


def received(here: Connection, process: multiprocessing.process.BaseProcess) -> Times:
    """Return what a process sends as it ends, or raise it."""
    try:
        outcome = here.recv()
    except EOFError as error:
        raise OperatorError("A process of the benchmark ended early") from error
    process.join()
    if isinstance(outcome, OperatorError):
        raise outcome
    return outcome  # type: ignore[no-any-return]
