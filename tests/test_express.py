"""The express way of single readings: the same answers, and everything unusual goes around it."""

import asyncio
import gc
import json
import random
import re
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from conftest import Server
from wattstream.app import running, server_of
from wattstream.application import Application, clock_us
from wattstream.domain.access import WHOLE, Key, Reach, Scope, digest_of
from wattstream.domain.links import FOREVER_US
from wattstream.express import ExpressConnection
from wattstream.inputs.express import Sender
from wattstream.query.keyring import new_token
from wattstream.replies import Answer
from wattstream.server import bound_socket
from wattstream.settings import load
from wattstream.store.postgres.access import PostgresAccess
from wattstream.store.postgres.connections import Worker

NOW = datetime.now(UTC).replace(microsecond=0)
JSON = "Content-Type: application/json"
Json = dict[str, Any]
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Return the event loop that `wattstream serve` runs on."""
    return "asyncio", {"use_uvloop": True}


class Counting:
    """Counts what takes the express way of an application."""

    def __init__(self, application: Application) -> None:
        express = application.express
        assert express is not None
        self._express = express
        self.meaning = express.meaning
        self.taken = 0

    def take(self, sender: Sender, body: bytes, answer: Answer) -> bool:
        is_taken = self._express.take(sender, body, answer)
        self.taken += is_taken
        return is_taken


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    json: Json


class Client:
    """One connection, by the byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> Answered:
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 20)).decode()
        line, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
        body = await self._reader.readexactly(int(headers["content-length"]))
        return Answered(int(line.split()[1]), headers, json.loads(body))

    async def ask(self, data: bytes) -> Answered:
        await self.send(data)
        return await self.answer()

    async def is_ended(self) -> bool:
        return await asyncio.wait_for(self._reader.read(1), 20) == b""

    async def leave(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@dataclass
class Served:
    """An engine in this process behind a real socket."""

    conninfo: str
    port: int
    express: Counting | None
    connections: set[Any]
    stop: asyncio.Event

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            yield client
        finally:
            await client.leave()

    @property
    def taken(self) -> int:
        assert self.express is not None
        return self.express.taken

    async def get(self, path: str, token: str | None = None) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            return await client.get(path, headers=headers)

    async def metrics(self) -> dict[str, float]:
        text = (await self.get("/metrics")).text
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name.removeprefix("wattstream_"): float(value) for name, value in lines}


@asynccontextmanager
async def serving(
    server: Server, *, has_express: bool = True, **flags: object
) -> AsyncIterator[Served]:
    conninfo = server.make_database()
    settings = load({"alert_interval": 0, **flags}, {})
    async with running(settings, conninfo) as application:
        express = Counting(application) if has_express else None
        application.express = express  # type: ignore[assignment]
        listener = bound_socket("127.0.0.1", 0)
        listener.listen()
        http = server_of(settings, application, None)
        stop = asyncio.Event()
        work = asyncio.create_task(http.serve([listener]))
        while not http.started:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.01)

        async def end() -> None:
            await stop.wait()
            http.should_exit = True

        ending = asyncio.create_task(end())
        try:
            port = listener.getsockname()[1]
            yield Served(conninfo, port, express, http.server_state.connections, stop)
        finally:
            stop.set()
            await ending
            await asyncio.wait_for(work, 30)
            listener.close()


@asynccontextmanager
async def under_way(engine: Served, client: Client, seconds: float) -> AsyncIterator[None]:
    """Send a reading after a first, by the express way; it is not committed in here."""
    await client.ask(post(meter(0)))
    with psycopg.connect(engine.conninfo) as holder:
        holder.execute("SELECT FROM meter_live FOR UPDATE")
        await client.send(post(meter(seconds)))
        await asyncio.sleep(0.1)
        assert engine.taken == 1
        yield
        holder.rollback()


def at(seconds: float = 0) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def meter(seconds: float = 0, **changes: object) -> Json:
    record = {"meterId": "M1", "kwhConsumedAc": 0.25, "voltage": 230.5, "timestamp": at(seconds)}
    return {name: value for name, value in (record | changes).items() if value is not None}


def post(
    record: object,
    *headers: str,
    path: str = "/v1/ingest",
    version: str = "1.1",
    kind: str = JSON,
) -> bytes:
    body = record if isinstance(record, bytes) else json.dumps(record).encode()
    lines = (f"POST {path} HTTP/{version}", "Host: x", kind, f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, *headers, "", "")).encode() + body


BODY = json.dumps(meter()).encode()


def as_shown(answer: Answered) -> tuple[int, list[str], Json]:
    """Return what two answers to the same request have in common."""
    headers = answer.headers | {"date": "", "x-request-id": ""}
    return answer.status, [f"{name}: {value}" for name, value in headers.items()], answer.json


async def test_a_head_that_came_before_is_known_and_the_answer_is_the_same(
    embedded: Server,
) -> None:
    async with serving(embedded) as engine, engine.client() as client:
        first = await client.ask(post(meter(0)))
        assert engine.taken == 0
        second = await client.ask(post(meter(60)))
        assert engine.taken == 1
        async with engine.client() as other:
            third = await other.ask(post(meter(120, meterId="M2")))
        assert engine.taken == 1, "the first of a connection goes the ordinary way"
        assert [each.json["timestamp"] for each in (first, second, third)] == [
            at(0),
            at(60),
            at(120),
        ]
        assert as_shown(second)[:2] == as_shown(first)[:2]
        assert second.json == first.json | {"timestamp": at(60)}
        ids = {each.headers["x-request-id"] for each in (first, second, third)}
        assert len(ids) == 3
        assert re.fullmatch(r"[0-9a-f]{10}-[0-9a-f]+", ids.pop())
        vehicle = {"vehicleId": "V1", "kwhDeliveredDc": 0.2, "soc": 50, "timestamp": at(0)}
        padded = json.dumps(vehicle).encode().ljust(len(json.dumps(meter())))
        answer = await client.ask(post(padded))
        assert (answer.status, answer.json["type"], engine.taken) == (201, "vehicle", 2)


async def test_repeated_and_contradicting_readings_are_told_and_counted_once(
    embedded: Server,
) -> None:
    async with serving(embedded) as engine, engine.client() as client:
        await client.ask(post(meter()))
        repeated = await client.ask(post(meter()))
        assert (repeated.status, repeated.json["duplicate"]) == (200, True)
        refused = await client.ask(post(meter(kwhConsumedAc=0.75)))
        assert engine.taken == 2
        assert refused.status == 409
        assert refused.json["error"]["code"] == "conflict"
        assert "kept kwhConsumedAc 0.25" in refused.json["error"]["message"]
        kept = (await engine.get("/v1/rejections")).json()["rejections"]
        assert [each["code"] for each in kept] == ["conflict"]
        assert json.loads(kept[0]["record"]) == meter(kwhConsumedAc=0.75)
        found = await engine.metrics()
        counted = {
            'readings_stored_total{stream="meter"}': 1,
            'readings_duplicate_total{stream="meter"}': 1,
            'readings_rejected_total{code="conflict"}': 1,
            "readings_received_total": 3,
            'ingest_requests_total{status="201"}': 1,
            'ingest_requests_total{status="200"}': 1,
            'ingest_requests_total{status="409"}': 1,
            'flush_readings_sum{stream="meter"}': 3,
            'queue_readings{stream="meter"}': 0,
        }
        assert {name: found[name] for name in counted} == counted
        assert found["ack_seconds_count"] == 2


async def test_a_bad_reading_with_a_known_head_goes_the_ordinary_way(embedded: Server) -> None:
    bad = {
        b"{": "malformed_json",
        b"[]": "not_an_object",
        b'{"meterId": "M1", "timestamp": "2026-02-09T10:00:00Z"}': "energy_missing",
        json.dumps(meter(voltage=-1)).encode(): "voltage_out_of_range",
        json.dumps(meter(timestamp="2099-01-01T00:00:00Z")).encode(): "timestamp_in_future",
        b'{"x": "\xff"}': "id_missing",
    }
    async with serving(embedded) as engine, engine.client() as client:
        for seconds in range(2):
            await client.ask(post(BODY.ljust(140).replace(at().encode(), at(seconds).encode())))
        assert engine.taken == 1
        for body, code in bad.items():
            for _ in range(2):
                answer = await client.ask(post(body.ljust(140)))
                assert answer.json["error"]["code"] == code
        assert engine.taken == 1
        kept = (await engine.get("/v1/rejections")).json()["rejections"]
        assert len(kept) == 2 * len(bad)


async def test_heads_that_say_anything_else_are_not_learned(embedded: Server) -> None:
    unusual = (
        (post(meter(), "X-Request-ID: mine"), 200),
        (post(meter(), "Content-Encoding: identity"), 200),
        (post(meter(), "Cookie: a=b"), 200),
        (post(meter(), "Origin: http://evil.example"), 403),
        (post(meter(), "Sec-Fetch-Site: cross-site"), 403),
        (post(meter(), JSON), 200),
        (post(meter(), kind="Content-Type: text/plain"), 415),
        (post(meter(), kind="Content-Type: application/x-ndjson"), 415),
        (post([meter()], path="/v1/ingest/batch"), 201),
        (post(meter(), path="/v1/ingests"), 404),
        (post(meter(), "Padding: " + "x" * 1024), 200),
        (post(BODY.ljust(5000)), 200),
    )
    async with serving(embedded) as engine, engine.client() as client:
        await client.ask(post(meter(0)))
        for request, status in unusual:
            for _ in range(2):
                assert (await client.ask(request)).status == status, request
        assert engine.taken == 0
        assert (await client.ask(post(meter(60)))).status == 201
        assert engine.taken == 1, "the connection still knows the way"


async def test_a_connection_that_is_to_end_ends(embedded: Server) -> None:
    async with serving(embedded) as engine:
        for request in 2 * [post(meter(), "Connection: close"), post(meter(), version="1.0")]:
            async with engine.client() as client:
                answer = await client.ask(request)
                assert answer.headers["connection"] == "close"
                assert await client.is_ended()
        assert engine.taken == 0


async def test_a_type_with_the_charset_of_json_is_known_too(embedded: Server) -> None:
    kind = "Content-Type: application/json; charset=utf-8"
    async with serving(embedded) as engine, engine.client() as client:
        for seconds in range(3):
            assert (await client.ask(post(meter(seconds), kind=kind))).status == 201
        assert engine.taken == 2


async def test_a_body_beyond_the_bound_is_413_every_time(embedded: Server) -> None:
    async with serving(embedded, max_body=100) as engine, engine.client() as client:
        large = post(json.dumps(meter()).encode().ljust(101))
        for _ in range(3):
            assert (await client.ask(large)).status == 413
        assert engine.taken == 0


async def test_what_comes_in_pieces_goes_the_ordinary_way(embedded: Server) -> None:
    async with serving(embedded) as engine, engine.client() as client:
        await client.ask(post(meter(0)))
        whole = post(meter(60))
        for cut in (1, 4, whole.index(b"\r\n\r\n") + 2, whole.index(b"{"), len(whole) - 1):
            await client.send(whole[:cut])
            await asyncio.sleep(0.03)
            assert (await client.ask(whole[cut:])).status in (200, 201)
        assert engine.taken == 0
        assert (await client.ask(whole)).json["duplicate"]
        assert engine.taken == 1


async def test_pipelined_requests_are_answered_in_their_order(embedded: Server) -> None:
    get = b"GET /v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(embedded) as engine, engine.client() as client:
        async with under_way(engine, client, 1):
            # More than a piece, the end of one request with the begin of another.
            rest = post(meter(2)) + get + post(meter(3)) + post(meter(4)) + get
            for part in (rest[:50], rest[50:-20], rest[-20:]):
                await client.send(part)
                await asyncio.sleep(0.05)
        answers = [await client.answer() for _ in range(6)]
        got = [each.json.get("timestamp", each.json["status"]) for each in answers]
        assert got == [at(1), at(2), "alive", at(3), at(4), "alive"]
        before = engine.taken
        await client.send(post(meter(5)))
        await client.send(post(meter(6)))
        assert [(await client.answer()).status for _ in range(2)] == [201, 201]
        assert (await client.ask(post(meter(7)))).status == 201
        assert engine.taken > before


async def test_a_client_that_leaves_has_its_reading_stored(embedded: Server) -> None:
    async with serving(embedded) as engine:
        async with engine.client() as client, under_way(engine, client, 60):
            await client.leave()
            await asyncio.sleep(0.1)
        async with engine.client() as client:
            assert (await client.ask(post(meter(60)))).json["duplicate"]
        assert (await engine.metrics())['readings_stored_total{stream="meter"}'] == 2


async def test_a_stop_lets_a_request_under_way_end(embedded: Server) -> None:
    async with serving(embedded) as engine, engine.client() as client:
        async with under_way(engine, client, 60):
            engine.stop.set()
            await asyncio.sleep(0.3)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (201, "close")
        assert await client.is_ended()


async def test_a_full_queue_is_503_and_what_was_taken_is_there(embedded: Server) -> None:
    async with serving(embedded, queue_readings=2, flush_readings=1) as engine:
        async with engine.client() as client:
            await client.ask(post(meter(0)))
        clients = [
            Client(*await asyncio.open_connection("127.0.0.1", engine.port)) for _ in range(9)
        ]
        with psycopg.connect(engine.conninfo) as holder:
            holder.execute("SELECT FROM meter_live FOR UPDATE")
            for number, client in enumerate(clients):
                await client.send(post(meter(60 + number)))
                await asyncio.sleep(0.05)
            holder.rollback()
        answers = [await client.answer() for client in clients]
        refused = [each for each in answers if each.status == 503]
        assert {each.status for each in answers} == {201, 503}
        assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        found = await engine.metrics()
        stored = sum(each.status == 201 for each in answers)
        assert found['readings_stored_total{stream="meter"}'] == 1 + stored
        for client in clients:
            await client.leave()


async def test_a_reading_that_is_not_committed_is_503_and_may_come_again(
    embedded: Server,
) -> None:
    async with serving(embedded) as engine, engine.client() as client:
        await client.ask(post(meter(0)))
        superuser = embedded.superuser(engine.conninfo)
        with psycopg.connect(superuser, autocommit=True) as holder:
            with holder.transaction():
                holder.execute("SELECT FROM meter_live FOR UPDATE")
                await client.send(post(meter(60)))
                await asyncio.sleep(0.1)
                assert engine.taken == 1
                holder.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND wait_event_type = 'Lock'"
                )
                answer = await client.answer()
            assert answer.status == 503
            assert answer.json["error"]["code"] == "database_unavailable"
            assert int(answer.headers["retry-after"]) >= 1
        for _ in range(50):
            again = await client.ask(post(meter(60)))
            if again.status != 503:
                break
            await asyncio.sleep(0.1)
        assert again.status == 201
        found = await engine.metrics()
        assert found['ingest_requests_total{status="503"}'] >= 1
        assert found['readings_stored_total{stream="meter"}'] == 2


async def test_bytes_under_way_are_held_no_longer_than_that(embedded: Server) -> None:
    async with serving(embedded, queue_bytes="1KiB") as engine, engine.client() as client:
        for seconds in range(60):
            assert (await client.ask(post(meter(seconds)))).status == 201
        assert engine.taken == 59


async def test_some_heads_of_a_connection_are_remembered(embedded: Server) -> None:
    async with serving(embedded) as engine, engine.client() as client:
        for _ in range(2):
            for number in range(8):
                await client.ask(post(meter(), f"X-Device: {number}"))
        assert engine.taken == 8
        for number in range(100, 200):
            await client.ask(post(meter(), f"X-Device: {number}"))
        (connection,) = engine.connections
        assert isinstance(connection, ExpressConnection)
        assert len(connection._heads) == 8
        async with engine.client() as other:
            await other.ask(post(meter(), "X-Device: 199"))
        assert engine.taken == 8, "one connection's heads are not another's"
        await client.ask(post(meter(), "X-Device: 199"))
        assert engine.taken == 9


async def test_empty_lines_between_requests_are_nothing(embedded: Server) -> None:
    """And never the head of a request, not where they are as many as one has bytes."""
    size = 140
    body = BODY.ljust(size)
    async with serving(embedded) as engine, engine.client() as client:
        for _ in range(2):
            await client.ask(post(body))
            for lines in (b"\r\n", b"\r\n" * 2, b"\r\n" * (size // 2 + 2)):
                await client.send(lines)
                await asyncio.sleep(0.05)
        assert (await client.ask(post(body))).json["duplicate"]
        assert engine.taken == 2
        await client.send(b"\r\n\r\n" + body)
        assert (await client.answer()).json["error"]["code"] == "malformed_request"
        assert engine.taken == 2


async def test_what_came_after_a_last_request_is_not_done(embedded: Server) -> None:
    async with serving(embedded) as engine, engine.client() as client:
        async with under_way(engine, client, 60):
            await client.send(post(meter(120)))
            await asyncio.sleep(0.1)
            engine.stop.set()
            await asyncio.sleep(0.3)
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.is_ended()
    with psycopg.connect(engine.conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM meter_history").fetchone() == (2,)


async def test_a_connection_that_ended_is_not_left_to_the_collector(embedded: Server) -> None:
    async with serving(embedded) as engine:
        gc.collect()
        gc.disable()
        try:
            async with engine.client() as client:
                for seconds in range(3):
                    await client.ask(post(meter(seconds)))
                assert engine.taken == 2
                gone = weakref.ref(next(iter(engine.connections)))
            for _ in range(100):
                if gone() is None:
                    break
                await asyncio.sleep(0.02)
            assert gone() is None
        finally:
            gc.enable()


class Keys:
    """Makes keys in an engine's database."""

    def __init__(self, conninfo: str) -> None:
        self._worker = Worker(conninfo, "test")
        self._store = PostgresAccess(self._worker)

    async def make(self, *scopes: Scope, reach: Reach = WHOLE, rate: float | None = None) -> str:
        token = new_token()
        key = Key(
            token.prefix,
            digest_of(token.secret),
            "of a test",
            frozenset(scopes),
            reach,
            clock_us(),
            FOREVER_US,
            requests_per_s=rate,
        )
        await self._store.add(key)
        return str(token)

    async def revoke(self, token: str) -> None:
        await self._store.revoke(token.split("_")[1], clock_us())

    async def close(self) -> None:
        await self._worker.close()


async def test_keys_are_asked_for_each_time(embedded: Server) -> None:
    async with serving(embedded) as engine, engine.client() as client:
        for seconds in range(2):  # while no key is needed
            assert (await client.ask(post(meter(seconds)))).status == 201
        assert engine.taken == 1
        keys = Keys(engine.conninfo)
        good = await keys.make(Scope.INGEST, Scope.READ)
        reader = await keys.make(Scope.READ)
        south = await keys.make(Scope.INGEST, reach=Reach(devices="south-*"))
        slow = await keys.make(Scope.INGEST, rate=0.2)
        for _ in range(50):
            if (await client.ask(post(meter(0)))).status == 401:
                break
            await asyncio.sleep(0.1)

        async def send(token: str, record: Json) -> tuple[int, bool]:
            before = engine.taken
            answer = await client.ask(post(record, f"Authorization: Bearer {token}"))
            return answer.status, engine.taken > before

        assert [await send(good, meter(60 + n)) for n in range(3)] == [
            (201, False), (201, True), (201, True)
        ]  # fmt: skip
        assert [await send(good, meter(60, voltage=1)) for _ in range(2)][1] == (409, True)
        kept = (await engine.get("/v1/rejections", good)).json()["rejections"]
        assert {each["key"] for each in kept} == {good.split("_")[1]}
        assert [await send(reader, meter(0)) for _ in range(3)] == [(403, False)] * 3
        assert [await send(south, meter(0)) for _ in range(3)] == [(403, False)] * 3
        south_1 = meter(0, meterId="south-1")
        assert [await send(south, south_1) for _ in range(2)] == [(201, False), (200, False)]
        assert [(await send(slow, meter(90)))[0] for _ in range(3)] == [201, 429, 429]
        assert [(await send("wattstream_no", meter(90)))[0] for _ in range(2)] == [401, 401]
        assert (await send(good, meter(60)))[1]
        await keys.revoke(good)
        for _ in range(50):
            status, is_taken = await send(good, meter(60))
            if status == 401:
                break
            await asyncio.sleep(0.1)
        assert (status, is_taken) == (401, False)
        assert await send(good, meter(60)) == (401, False)
        await keys.close()


_RECORDS = (
    *(meter(seconds) for seconds in range(5)),
    meter(1, kwhConsumedAc=0.5),
    meter(2, voltage=None),
    meter(3, voltage=-5),
    meter(4, meterId="a b"),
    meter(0, timestamp="2026-13-01T00:00:00Z"),
    {"vehicleId": "V1", "kwhDeliveredDc": 0.1, "soc": 5, "timestamp": at(0)},
    {"vehicleId": "V1", "meterId": "M1", "kwhDeliveredDc": 0.1, "timestamp": at(0)},
    [meter(0)],
    b"{",
    b'"\xff"',
    b"",
)
_HEADERS = ((), (), (), (), ("X-A: 1",), ("X-Request-ID: 7",), ("Content-Encoding: gzip",))


def _some_requests(chance: random.Random) -> list[tuple[bytes, int]]:
    """Return pieces of a connection, and how many requests end in each.

    They are mostly whole requests, some in parts, some together.
    """
    pieces: list[tuple[bytes, int]] = []
    for _ in range(60):
        record = chance.choice(_RECORDS)
        body = record if isinstance(record, bytes) else json.dumps(record).encode()
        if chance.random() < 0.8:
            body = body.ljust(140)
        request = post(body, *chance.choice(_HEADERS))
        if chance.random() < 0.05:
            request = b"GET /v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        if chance.random() < 0.05:
            request = b"\r\n" + request
        cut = chance.randrange(1, len(request))
        if chance.random() < 0.15:
            pieces += ((request[:cut], 0), (request[cut:], 1))
        elif pieces and chance.random() < 0.15:
            before, ends = pieces[-1]
            pieces[-1] = (before + request, ends + 1)
        else:
            pieces.append((request, 1))
    return pieces


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("seed", range(2))
async def test_any_requests_are_answered_as_without_the_express_way(
    embedded: Server, seed: int, *, waits: bool
) -> None:
    """By a client that waits for answers, and one that sends all it has."""
    found = []
    for has_express in (False, True):
        async with serving(embedded, has_express=has_express) as engine:
            chance = random.Random(seed)
            answers = []
            for _ in range(2):
                async with engine.client() as client:
                    pieces = _some_requests(chance)
                    due = 0
                    for piece, ends in pieces:
                        await client.send(piece)
                        await asyncio.sleep(0.002)
                        due += ends
                        while waits and due:
                            answers.append(as_shown(await client.answer()))
                            due -= 1
                    answers += [as_shown(await client.answer()) for _ in range(due)]
            metrics = await engine.metrics()
            kept = (await engine.get("/v1/rejections?limit=1000")).json()["rejections"]
            counted = {
                name: value
                for name, value in metrics.items()
                if name.startswith(("readings_", "ingest_requests_"))
            }
            found.append((answers, counted, [(each["code"], each["record"]) for each in kept]))
            if has_express and waits:
                assert engine.taken > 10
    assert found[0] == found[1]
