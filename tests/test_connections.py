"""What a client may cost: sizes, time, open connections; each with an answer that says so."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from conftest import Server, serving_on
from wattstream.connection import (
    ANSWER_PATIENCE_S,
    MIN_BYTES_PER_S,
    Connection,
    ConnectionGuard,
    ConnectionLimits,
)
from wattstream.writes import JoinedWrites, Outbox

HEAD = b"POST /v1/ingest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LIVE = b"GET /v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


async def _silent(scope: object, receive: object, send: object) -> None:
    await asyncio.Event().wait()


class _Transport:
    """What of a transport a connection uses while its client reads slowly."""

    unsent = 10_000_000
    is_aborted = False

    def is_closing(self) -> bool:
        return self.is_aborted

    def get_extra_info(self, name: str, default: object = None) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.is_aborted = True


@pytest.fixture(scope="module")
def strict(embedded: Server) -> Iterator[str]:
    """An engine that has little patience and few places."""
    flags = ("--header-timeout", "2s", "--body-timeout", "5s", "--idle-timeout", "3s")
    with serving_on(embedded.make_database(), *flags, "--max-connections", "20") as engine:
        yield engine.url


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Return everything up to the end of the connection."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def assert_refused(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    error = json.loads(body)["error"]
    assert error["code"] == code
    assert len(error["message"]) > 20


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 70_000,
        b"GET / HTTP/1.1\r\nCookie: " + b"a" * 70_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(9000)),
        b"GET / HTTP/1.1\r\nCookie: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
    ids=["line", "header", "headers", "whole"],
)
def test_large_headers_are_431(strict: str, head: bytes) -> None:
    with connected(strict) as connection:
        connection.sendall(head)
        assert_refused(read_all(connection), 431, "headers_too_large")


def test_headers_below_the_bound_are_read(strict: str) -> None:
    answer = httpx.get(f"{strict}/v1/health/live", headers={"X-Long": "a" * 60_000})
    assert answer.status_code == 200


@pytest.mark.parametrize("end", [b"0\r\nX: ", b"1;"], ids=["trailer", "extension"])
def test_trailers_and_extensions_of_a_chunked_body_are_bounded(strict: str, end: bytes) -> None:
    with connected(strict) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n" + end)
        for _ in range(4):
            connection.sendall(b"a" * 30_000)
            time.sleep(0.05)
        assert_refused(read_all(connection), 431, "headers_too_large")


def test_slow_headers_are_408(strict: str) -> None:
    with connected(strict) as connection:
        connection.sendall(HEAD)
        assert_refused(read_all(connection), 408, "request_timeout")


def test_a_slow_body_is_408_and_nothing_of_it_is_taken(strict: str) -> None:
    with connected(strict) as connection:
        connection.sendall(HEAD + b'Content-Length: 200\r\n\r\n{"meterId":')
        assert_refused(read_all(connection), 408, "request_timeout")


def test_a_connection_without_requests_is_closed(strict: str) -> None:
    with connected(strict) as connection:
        assert read_all(connection) == b""
    with connected(strict) as connection:
        connection.sendall(LIVE)
        assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_up_to_a_bound(strict: str) -> None:
    with connected(strict) as connection:
        connection.sendall(LIVE * 100)
        assert read_all(connection).count(b'{"status":"alive"}') == 100
    with connected(strict) as connection:
        connection.sendall(LIVE * 5000)
        assert_refused(read_all(connection), 400, "too_many_pipelined")


def test_connections_beyond_the_bound_are_503_and_those_before_them_go_on(strict: str) -> None:
    with httpx.Client(base_url=strict) as client:
        assert client.get("/v1/health/live").status_code == 200
        held = [socket.create_connection(client.base_url.netloc.split(b":")) for _ in range(19)]
        try:
            with connected(strict) as connection:
                answer = read_all(connection)
            assert_refused(answer, 503, "too_many_connections")
            assert b"\r\nRetry-After: 5\r\n" in answer
            assert client.get("/v1/health/live").status_code == 200
        finally:
            for each in held:
                each.close()


def test_a_body_that_nobody_wants_is_not_taken_for_ever(strict: str) -> None:
    with connected(strict) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        sent = 0
        with suppress(OSError):  # it is reset
            while sent < 1_000_000_000:
                sent += connection.send(bytes(65_536))
        assert sent < 200_000_000


@pytest.mark.parametrize("is_chunked", [False, True])
def test_other_endpoints_take_small_bodies_only(strict: str, is_chunked: bool) -> None:
    body = b'{"fleet": "' + b"x" * 1_100_000 + b'"}'
    content = iter([body[:600_000], body[600_000:]]) if is_chunked else body
    answer = httpx.put(
        f"{strict}/v1/devices/meter/A",
        content=content,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_a_body_after_an_upgrade_is_no_request_of_its_own(strict: str) -> None:
    inner = b"POST /v1/ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    for parts in (lambda head: [head + inner], lambda head: [head, inner]):
        for header in (b"Content-Length: %d" % len(inner), b"Transfer-Encoding: chunked"):
            with connected(strict) as connection:
                head = HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + header + b"\r\n\r\n"
                for part in parts(head):
                    with suppress(OSError):
                        connection.sendall(part)
                    time.sleep(0.05)
                assert_refused(read_all(connection), 400, "upgrade_with_body")


def test_a_trailer_may_end_the_connection(strict: str) -> None:
    with connected(strict) as connection:
        body = b"2\r\n{}\r\n0\r\nConnection: close\r\n\r\n"
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert b"\r\nconnection: close\r\n" in answer


def test_what_is_no_http_fills_no_log(conninfo: str) -> None:
    with serving_on(conninfo) as engine:
        for _ in range(50):
            with connected(engine.url) as connection:
                connection.sendall(b"\x16\x03\x01\x02\x00garbage\r\n\r\n")
                assert_refused(read_all(connection), 400, "malformed_request")
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
            assert httpx.get(f"{engine.url}/v1/health/live", headers=upgrade).status_code == 200
        engine.process.terminate()
        assert engine.process.stderr is not None
        log = engine.process.stderr.read()
    assert len(log.splitlines()) < 10, log


def test_a_client_that_does_not_read_is_dropped_and_a_slow_one_is_not() -> None:
    """By looks instead of seconds."""
    guard = ConnectionGuard(ConnectionLimits(connections=9, head_s=9, body_s=9, idle_s=9))

    async def is_dropped(taken_bytes: int) -> bool:
        transport = _Transport()
        connection = Connection(
            config=uvicorn.Config(_silent, lifespan="off", log_config=None, ws="none"),
            server_state=ServerState(),
            app_state={},
            guard=guard,
        )
        connection.connection_made(transport)  # type: ignore[arg-type]
        connection.data_received(LIVE)
        connection.pause_writing()
        for _ in range(2 * ANSWER_PATIENCE_S):
            connection.look()
            transport.unsent -= taken_bytes
        connection.connection_lost(ConnectionAbortedError())
        return transport.is_aborted

    assert asyncio.run(is_dropped(0))
    assert asyncio.run(is_dropped(MIN_BYTES_PER_S // 2))
    assert not asyncio.run(is_dropped(2 * MIN_BYTES_PER_S))


class _Written(asyncio.Transport):
    """What was written to a connection, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.has_ended = False

    def is_closing(self) -> bool:
        return self.has_ended

    def abort(self) -> None:
        self.has_ended = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.writes.append(b"closed")
        self.has_ended = True


HEAD_OF_2 = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


def test_an_answer_is_one_write_wherever_its_body_is_short() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    long = bytes(100_000)

    async def main() -> None:
        written = _Written()
        joined = JoinedWrites(written, Outbox())
        for data in (HEAD_OF_2, b"{}", chunked, b"2\r\n{}\r\n", HEAD_OF_2, long):
            joined.write(data)
        assert written.writes == [
            HEAD_OF_2 + b"{}", chunked, b"2\r\n{}\r\n", HEAD_OF_2, long
        ]  # fmt: skip
        written.writes.clear()
        joined.write(HEAD_OF_2)
        joined.flush()
        joined.flush()
        joined.write(HEAD_OF_2)
        assert written.writes == []
        joined.close()
        assert written.writes == [2 * HEAD_OF_2, b"closed"]

    asyncio.run(main())


def test_answers_of_one_turn_are_sent_together_after_it() -> None:
    async def main() -> None:
        outbox = Outbox()
        written = [_Written() for _ in range(3)]
        joined = [JoinedWrites(one, outbox) for one in written]
        for _ in range(2):
            for one in joined:
                one.write(HEAD_OF_2)
                one.write(b"{}")
        assert not any(one.writes for one in written)
        joined[0].close()
        joined[2].abort()
        await asyncio.sleep(0)
        answers = 2 * (HEAD_OF_2 + b"{}")
        assert [one.writes for one in written] == [[answers, b"closed"], [answers], []]
        joined[1].write(HEAD_OF_2)
        joined[1].write(b"{}")
        await asyncio.sleep(0)
        assert written[1].writes == [answers, HEAD_OF_2 + b"{}"]

    asyncio.run(main())
