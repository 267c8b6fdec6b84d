"""Live states as server-sent events: told once they change, resumed, ended by a stop."""

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.types import Receive, Scope, Send

from conftest import Engine
from wattstream.connection import ConnectionLimits
from wattstream.query.changes import changed
from wattstream.server import HttpServer, bound_socket
from wattstream.store.view_port import Versions
from wattstream.web.stream import EventStream

Event = dict[str, Any]


def beat(url: str, vehicle: str, *, soc: float, seconds_ago: float = 0) -> None:
    at = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()
    record = {"vehicleId": vehicle, "kwhDeliveredDc": 0.1, "soc": soc, "timestamp": at}
    assert httpx.post(f"{url}/v1/ingest", json=record).status_code == 201


class Listening:
    """A stream read by a thread."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(url, headers), daemon=True)
        self._thread.start()
        assert self._is_open.wait(10)

    def _read(self, url: str, headers: dict[str, str] | None) -> None:
        try:
            with httpx.stream("GET", url, headers=headers, timeout=None) as answer:
                assert answer.headers["Content-Type"].startswith("text/event-stream")
                event: Event = {}
                for line in answer.iter_lines():
                    self._is_open.set()
                    name, _, value = line.partition(": ")
                    if line:
                        event[name] = json.loads(value) if name == "data" else value
                    else:
                        self.events += [event] if "data" in event else []
                        event = {}
        except httpx.RemoteProtocolError:
            pass
        self.ended.set()

    def wait_for(self, holds: Callable[[list[Event]], bool], timeout_s: float = 10) -> None:
        until = time.monotonic() + timeout_s
        while not holds(self.events):
            assert time.monotonic() < until, self.events
            time.sleep(0.02)

    def states(self) -> list[tuple[str, float]]:
        return [
            (event["data"]["vehicleId"], event["data"]["soc"])
            for event in self.events
            if event["event"] == "live"
        ]


def test_a_stream_tells_what_changes_of_what_is_wanted(engine: Engine) -> None:
    beat(engine.url, "EV-1", soc=10, seconds_ago=9)
    named = Listening(f"{engine.url}/v1/stream?type=vehicle&id=EV-1&id=nobody")
    named.wait_for(lambda _: named.states() == [("EV-1", 10)])  # begins with its state
    everything = Listening(f"{engine.url}/v1/stream")
    meters = Listening(f"{engine.url}/v1/stream?type=meter")
    beat(engine.url, "EV-2", soc=20)
    beat(engine.url, "EV-1", soc=11)
    named.wait_for(lambda _: named.states()[1:] == [("EV-1", 11)])
    everything.wait_for(lambda _: sorted(everything.states()) == [("EV-1", 11), ("EV-2", 20)])
    assert meters.events == []


def test_a_stream_tells_what_changes_right_after_it_was_opened(engine: Engine) -> None:
    beat(engine.url, "EV-1", soc=1, seconds_ago=9)
    Listening(f"{engine.url}/v1/stream?type=meter")  # so that somebody looks, at meters only
    beat(engine.url, "EV-2", soc=1, seconds_ago=9)
    opened = (("&id=EV-1", "EV-1"), ("", "EV-2"), ("&id=EV-1", "EV-1"))
    for number, (ids, vehicle) in enumerate(opened, 2):
        listening = Listening(f"{engine.url}/v1/stream?type=vehicle{ids}")
        beat(engine.url, vehicle, soc=number)
        listening.wait_for(lambda _: (vehicle, number) in listening.states())  # noqa: B023


def test_of_many_that_change_only_those_named_are_told(engine: Engine) -> None:
    named = [Listening(f"{engine.url}/v1/stream?id={name}&id=nobody") for name in ("V-3", "V-5")]
    now = datetime.now(UTC).isoformat()
    records = [{"vehicleId": f"V-{n}", "kwhDeliveredDc": 1, "timestamp": now} for n in range(99)]
    for record, soc in zip(records, range(99), strict=True):
        record["soc"] = soc
    assert httpx.post(f"{engine.url}/v1/ingest/batch", json=records).status_code == 201
    for listening, soc in zip(named, (3, 5), strict=True):
        listening.wait_for(lambda _: len(listening.states()) > 0)  # noqa: B023
        assert set(listening.states()) == {(f"V-{soc}", soc)}


def test_a_stream_of_named_devices_misses_nothing_when_others_come_and_go(engine: Engine) -> None:
    beat(engine.url, "EV-1", soc=0, seconds_ago=9)
    named = Listening(f"{engine.url}/v1/stream?id=EV-1")
    named.wait_for(lambda _: named.states() == [("EV-1", 0)])
    for soc in range(1, 7):
        with (
            httpx.stream("GET", f"{engine.url}/v1/stream", timeout=10) if soc % 2 else nullcontext()
        ):
            beat(engine.url, "EV-1", soc=soc)
            named.wait_for(lambda _: ("EV-1", soc) in named.states())  # noqa: B023
    told = [soc for _, soc in named.states()]
    assert told == sorted(told)  # twice perhaps, but never an older one


def test_a_stream_goes_on_where_it_was_left(engine: Engine) -> None:
    beat(engine.url, "EV-1", soc=1)
    first = Listening(f"{engine.url}/v1/stream?id=EV-1")
    first.wait_for(lambda _: first.states() == [("EV-1", 1)])
    number = first.events[-1]["id"]
    beat(engine.url, "EV-2", soc=2)
    again = Listening(f"{engine.url}/v1/stream", {"Last-Event-ID": number})
    again.wait_for(lambda _: ("EV-2", 2) in again.states())
    long_ago = Listening(f"{engine.url}/v1/stream", {"Last-Event-ID": "1"})
    long_ago.wait_for(lambda _: len(long_ago.states()) == 2)


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "9" * 19, "²"])
def test_an_id_that_no_stream_gave_is_refused(shared_engine: Engine, number: str) -> None:
    answer = httpx.get(f"{shared_engine.url}/v1/stream", headers={"Last-Event-ID": number.encode()})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "event_id_invalid"


def test_a_summary_counts(engine: Engine) -> None:
    listening = Listening(f"{engine.url}/v1/stream?event=summary")
    listening.wait_for(lambda events: len(events) == 1)
    beat(engine.url, "EV-1", soc=1)
    httpx.post(f"{engine.url}/v1/ingest", json={"vehicleId": "EV-1"})
    listening.wait_for(lambda events: events[-1]["data"]["readings"] == 1)
    listening.wait_for(lambda events: events[-1]["data"]["rejections"] == 1)
    assert listening.events[-1]["data"]["heartbeatsPerSecond"] > 0
    assert {event["event"] for event in listening.events} == {"summary"}


def test_streams_are_bounded_and_come_free_again(engine: Engine) -> None:
    @contextmanager
    def opened() -> Iterator[socket.socket]:
        host, port = engine.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in connection.recv(4096)
            yield connection

    held = [opened() for _ in range(200)]
    for each in held:
        each.__enter__()
    refused = httpx.get(f"{engine.url}/v1/stream")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_streams")
    assert refused.headers["Retry-After"]
    for each in held:
        each.__exit__(None, None, None)
    for _ in range(50):
        with httpx.stream("GET", f"{engine.url}/v1/stream") as answer:
            if answer.status_code == 200:
                break
        time.sleep(0.1)
    assert answer.status_code == 200


class OneStream:
    """An application whose only answer is a stream without end, big enough to fill any socket."""

    def __init__(self, slow_after_s: float) -> None:
        self.closed = threading.Event()
        self._slow_after_s = slow_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def parts() -> AsyncGenerator[bytes]:
            while True:
                yield b": nothing new\n\n" * 10_000
                await asyncio.sleep(0)

        opened = AsyncExitStack()
        opened.callback(self.closed.set)
        await EventStream(parts(), opened, slow_after_s=self._slow_after_s)(scope, receive, send)

    def end_streams(self) -> None:
        """Leave it to its client."""


@pytest.mark.parametrize("reads", [False, True])
def test_a_client_that_does_not_read_loses_its_stream(reads: bool) -> None:
    application = OneStream(slow_after_s=0.5)
    listener = bound_socket("127.0.0.1", 0)
    listener.listen()  # before the server is up
    limits = ConnectionLimits(connections=10, head_s=10, body_s=10, idle_s=10)
    server = HttpServer(application, grace_s=0, limits=limits)
    serving = threading.Thread(target=server.run, args=([listener],), daemon=True)
    serving.start()
    with socket.create_connection(listener.getsockname()) as client:
        client.settimeout(10)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in client.recv(4096)
        if reads:
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                assert client.recv(1 << 20)
            assert not application.closed.is_set()
        else:
            assert application.closed.wait(10)
            while part := client.recv(1 << 20):
                tail = part[-5:]
            assert tail != b"0\r\n\r\n"  # it does not look whole
    assert application.closed.wait(10)
    server.should_exit = True
    serving.join(10)
    assert not serving.is_alive()


def test_a_stop_ends_streams_at_once(engine: Engine) -> None:
    listening = [Listening(f"{engine.url}/v1/stream?event=summary&event=live") for _ in range(3)]
    started = time.monotonic()
    engine.process.send_signal(signal.SIGINT)
    assert engine.process.wait(timeout=20) == 0
    assert time.monotonic() - started < 15  # the grace for requests under way is 30 s
    assert all(each.ended.wait(5) for each in listening)


def test_rows_that_changed_are_those_with_another_version_and_new_ones() -> None:
    def versions(**of: int) -> Versions:
        keys = np.array([int(key[1:]) for key in of], np.int64)
        return Versions(keys, np.array(list(of.values()), np.int64), keys)

    before = versions(k3=30, k1=10, k2=20)
    assert changed(before, versions(k1=10, k2=21, k3=30, k9=1)).tolist() == [2, 9]
    assert changed(before, before).tolist() == []
    assert changed(versions(), before).tolist() == [3, 1, 2]
