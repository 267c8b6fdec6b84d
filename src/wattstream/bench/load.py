"""A load generator that costs next to nothing: bytes made ahead, plain sockets, own process."""

import multiprocessing
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

from wattstream.bench.payloads import Request
from wattstream.domain.errors import OperatorError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load came to.

    Attributes:
        readings: Readings that got a 2xx.
        seconds: From the first byte to the last answer.
        cpu_share: CPU seconds of the generator a second.
        ack_s: Seconds to the answer of each request, ascending.
    """

    readings: int
    seconds: float
    cpu_share: float
    ack_s: list[float]

    @property
    def rate(self) -> float:
        """Readings a second."""
        return self.readings / self.seconds


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """Return what loads came to that ran one after the other."""
    seconds = sum(outcome.seconds for outcome in outcomes)
    return Outcome(
        sum(outcome.readings for outcome in outcomes),
        seconds,
        sum(outcome.cpu_share * outcome.seconds for outcome in outcomes) / seconds,
        sorted(chain.from_iterable(outcome.ack_s for outcome in outcomes)),
    )


def run_load(
    port: int, requests: Sequence[Request], connections: int, stop: Event | None = None
) -> Outcome:
    """Send requests over some connections, each waiting for its answer before the next.

    Args:
        port: Of the engine.
        requests: What is sent, once.
        connections: How many at once.
        stop: Set at the end; once somebody else has set it, no more is sent.

    Raises:
        OperatorError: An answer was no 2xx; the message holds the first.
    """
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_generate, args=(there, port, requests, connections, stop))
    process.start()
    there.close()
    outcome, failure = here.recv()
    process.join()
    if failure:
        raise OperatorError(f"The benchmark got an answer that is no 2xx: {failure}")
    return outcome  # type: ignore[no-any-return]


def _generate(
    answer: Connection,
    port: int,
    requests: Sequence[Request],
    connections: int,
    stop: Event | None,
) -> None:
    queue = iter(requests)
    lock = threading.Lock()
    acks: list[float] = []
    failures: list[str] = []
    done = [0]

    def client() -> None:
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not failures:
                with lock:
                    request = next(queue, None)
                if request is None or (stop is not None and stop.is_set()):
                    return
                sent = time.perf_counter()
                link.sendall(request.data)
                reply = _read(link)
                acks.append(time.perf_counter() - sent)
                if reply.startswith(b"HTTP/1.1 2") and not reply.startswith(b"HTTP/1.1 207"):
                    with lock:
                        done[0] += request.readings
                else:
                    failures.append(reply[:300].decode(errors="replace"))

    threads = [threading.Thread(target=client) for _ in range(connections)]
    started, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if stop is not None:
        stop.set()
    share = (time.process_time() - cpu) / seconds
    answer.send((Outcome(done[0], seconds, share, sorted(acks)), "".join(failures[:1])))


def _read(link: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(link)
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line[15:])
    while len(body) < length:
        body += _received(link)
    return head + b"\r\n\r\n" + body


def _received(link: socket.socket) -> bytes:
    part = link.recv(65536)
    if not part:
        raise ConnectionError("the engine closed the connection")
    return part
