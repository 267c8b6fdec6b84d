"""What people who look at the pages cost the ingest of 20,000 devices.

Five pages are held by plain clients, which ask for all that the pages' scripts ask for and show
nothing: a browser on the same machine would be measured along with the engine.
"""

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from statistics import median

from wattstream.bench.beats import expect, received
from wattstream.bench.engine import Engine, make_database
from wattstream.bench.load import run_load
from wattstream.bench.memory import cpu_s
from wattstream.bench.payloads import DEVICES, Shape, moved, requests
from wattstream.bench.rows import Row
from wattstream.domain.errors import OperatorError
from wattstream.domain.units import MICRO
from wattstream.inputs.http import BATCH_PATH

LEAST_RATIO = 0.95
"""The rate with pages open, of that without."""

_PART = "viewers"
_CONNECTIONS = 16
_LISTED = 50  # devices of a page of the list
_SETTLE_S = 3.0
_TEMPLATE_MINUTES = 24


@dataclass(frozen=True, slots=True)
class Viewer:
    """What an open page asks for.

    Attributes:
        stream: The path of its events.
        asked: What it asks for besides, again and again; empty: nothing.
        every_s: How often.
    """

    stream: str
    asked: str = ""
    every_s: float = 60.0


def five_viewers(vehicles: Sequence[str], meters: Sequence[str]) -> list[Viewer]:
    """Return the pages fleet, vehicles, meters, a vehicle, and ingest; of the first ids given."""
    listed = {"vehicle": vehicles[:_LISTED], "meter": meters[:_LISTED]}
    lists = [
        Viewer("/v1/stream?" + "&".join([f"type={kind}", *(f"id={name}" for name in names)]))
        for kind, names in listed.items()
    ]
    history = f"/v1/history/vehicle?id={vehicles[0]}&resolution=15m&limit=10000"
    return [
        Viewer("/v1/stream?event=summary", "/pages/day.json"),
        *lists,
        Viewer(f"/v1/stream?type=vehicle&id={vehicles[0]}", history),
        Viewer("/v1/stream?event=summary", "/pages/ingest.json", 5.0),
    ]


@contextmanager
def watching(port: int, viewers: Sequence[Viewer]) -> Iterator[None]:
    """Hold pages open from a process of its own; all of them are by the time this is entered.

    Raises:
        OperatorError: The engine refused one, or ended its stream.
    """
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    process = context.Process(target=_watch_there, args=(there, stop, port, viewers), daemon=True)
    process.start()
    there.close()
    try:
        time.sleep(_SETTLE_S)
        yield
    finally:
        stop.set()
        received(here, process)


def _watch_there(answer: Connection, stop: Event, port: int, viewers: Sequence[Viewer]) -> None:
    failures: list[str] = []
    links: list[HTTPConnection] = []

    def guarded(act: Callable[[Viewer], None], viewer: Viewer) -> None:
        try:
            act(viewer)
        except (OperatorError, OSError, HTTPException) as error:
            if not stop.is_set():
                failures.append(f"{viewer.stream[:80]}: {error}")

    def listen(viewer: Viewer) -> None:
        link = HTTPConnection("127.0.0.1", port)
        link.request("GET", viewer.stream)
        links.append(link)
        reply = link.getresponse()
        expect(viewer.stream, reply.status, b"")
        while reply.read1(1 << 16):
            pass
        raise OperatorError("its stream ended")

    def ask(viewer: Viewer) -> None:
        while not stop.is_set():
            link = HTTPConnection("127.0.0.1", port)  # an idle one is closed before long
            link.request("GET", viewer.asked)
            reply = link.getresponse()
            expect(viewer.asked, reply.status, reply.read())
            link.close()
            stop.wait(viewer.every_s)

    threads = [threading.Thread(target=guarded, args=(listen, each)) for each in viewers]
    threads += [
        threading.Thread(target=guarded, args=(ask, each)) for each in viewers if each.asked
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    for link in links:
        if link.sock is not None:
            link.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
    for thread in threads:
        thread.join()
    answer.send(OperatorError(f"A page was not served: {failures[0]}") if failures else None)


def measure_viewers(
    conninfo: str,
    postmaster_pid: int,
    start_engine: Callable[[str], AbstractContextManager[Engine]],
    on_row: Callable[[Row], None],
    *,
    rounds: int = 5,
    minutes: int = 48,
    devices: int = DEVICES,
) -> float:
    """Measure ingest at full speed with five pages open and without, in turns.

    Args:
        conninfo: A PostgreSQL server of this machine, as superuser.
        postmaster_pid: Its first process.
        start_engine: Runs an engine on a database.
        on_row: Called with each result.
        rounds: How often each is measured.
        minutes: Simulated minutes of each measurement, a multiple of 24.
        devices: Meters, and as many vehicles; each sends one reading a simulated minute.

    Returns:
        The rate with pages open, of that without in the same round: the median of the rounds.
    """
    shape = Shape(devices=devices)
    template = requests(shape, 0, _TEMPLATE_MINUTES, BATCH_PATH)
    vehicles, meters = ([f"{kind}{n:06d}" for n in range(_LISTED)] for kind in "VM")
    rates: dict[bool, list[float]] = {False: [], True: []}
    costs_us: dict[bool, list[float]] = {False: [], True: []}
    next_s = int(time.time()) // 60 * 60 - 60 * minutes * (2 * rounds + 1)
    with start_engine(make_database(conninfo, "wattstream_viewers")) as engine:

        def load() -> tuple[float, float]:
            """Return readings a second, and µs of the engine's and PostgreSQL's CPU each."""
            nonlocal next_s
            built = []
            for _ in range(minutes // _TEMPLATE_MINUTES):
                built += moved(template, _TEMPLATE_MINUTES, next_s)
                next_s += 60 * _TEMPLATE_MINUTES
            before_s = cpu_s(engine.pid, postmaster_pid)
            outcome = run_load(engine.port, built, _CONNECTIONS)
            taken_s = cpu_s(engine.pid, postmaster_pid) - before_s
            return outcome.rate, MICRO * taken_s / outcome.readings

        load()  # devices, partitions and caches are there before anything is timed
        for number in range(rounds):
            for is_watched in (False, True) if number % 2 == 0 else (True, False):
                if is_watched:
                    with watching(engine.port, five_viewers(vehicles, meters)):
                        rate, cost_us = load()
                else:
                    rate, cost_us = load()
                rates[is_watched].append(rate)
                costs_us[is_watched].append(cost_us)
    # A machine is faster at one time than at another: what ran one after the other is compared.
    ratio = median(a / b for a, b in zip(rates[True], rates[False], strict=True))
    # What pages cost depends on time, not on readings: it weighs less where ingest is slow.
    costs = {is_watched: median(each) for is_watched, each in costs_us.items()}
    more_ms = (costs[True] - costs[False]) * median(rates[True]) / 1000
    more = f", {more_ms:.0f} ms a second more"
    for is_watched, case in ((False, "no page open"), (True, "five pages open")):
        slowest, fastest = min(rates[is_watched]), max(rates[is_watched])
        on_row(
            Row(
                _PART,
                f"{2 * devices:,} devices, arrays of 5,000, {case}",
                median(rates[is_watched]),
                ratio if is_watched else None,
                note=f"median of {rounds}, {slowest:,.0f} to {fastest:,.0f}; engine and PostgreSQL "
                f"{costs[is_watched]:.2f} µs of CPU a reading{more if is_watched else ''}",
            )
        )
    return ratio
