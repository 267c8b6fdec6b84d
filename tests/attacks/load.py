"""Clients as they should be: single readings, batches, answers; how long each request took."""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

SINGLES, BATCHES, ANSWERS = "single", "batch", "answer"
_SENDERS = {SINGLES: 8, BATCHES: 1, ANSWERS: 4}
_PAUSE_S = {SINGLES: 0.04, BATCHES: 0.2, ANSWERS: 0.04}
_BATCH = 500
_VEHICLES = 100


@dataclass
class Measured:
    """What the clients saw.

    Attributes:
        seconds: Of each request, by kind.
        failures: Answers other than 2xx, and connections that broke.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {k: [] for k in _SENDERS})
    failures: Counter[str] = field(default_factory=Counter)

    def p99_ms(self, kind: str) -> float:
        """Return the time within which 99 of 100 requests were answered."""
        ordered = sorted(self.seconds[kind])
        return 1000 * ordered[int(0.99 * (len(ordered) - 1))] if ordered else float("inf")


class Load:
    """A modest load on one engine, with connections that it keeps."""

    def __init__(self, port: int) -> None:
        self._port = port

    # One clock for all loads, so that no reading is sent twice: 1,000 a second, or 4,500 of each
    # device in a quarter-hour, which takes 9,000.
    _times_us = itertools.count(time.time_ns() // 1000 - 3600 * 10**6, 1000)

    async def run(self, seconds: float) -> Measured:
        """Send for some time; return how it went. Vehicles must be known: `introduce`."""
        measured = Measured()
        until = time.monotonic() + seconds
        await asyncio.gather(
            *(
                self._client(kind, until, measured)
                for kind, count in _SENDERS.items()
                for _ in range(count)
            )
        )
        return measured

    async def introduce(self) -> None:
        """Send a reading of each vehicle, so that there is something to ask for."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for number in range(_VEHICLES):
            reading = self._reading()
            at = reading["timestamp"]
            body = {"vehicleId": f"V-{number}", "kwhDeliveredDc": 0.4, "timestamp": at}
            writer.write(_post("/v1/ingest", body))
            status, answer = await _answer(reader)
            assert status == 201, f"a reading before the attack got {status}: {answer}"
        writer.close()

    async def _client(self, kind: str, until: float, measured: Measured) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.sleep(random.uniform(0, _PAUSE_S[kind]))
        while time.monotonic() < until:
            request = self._request(kind)
            began = time.perf_counter()
            try:
                async with asyncio.timeout(30):
                    writer.write(request)
                    status, _ = await _answer(reader)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                measured.failures[f"{kind} {type(error).__name__}"] += 1
                writer.transport.abort()
                with suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            else:
                measured.seconds[kind].append(time.perf_counter() - began)
                if status // 100 != 2:
                    measured.failures[f"{kind} {status}"] += 1
            await asyncio.sleep(random.uniform(0.5, 1.5) * _PAUSE_S[kind])
        writer.close()

    def _request(self, kind: str) -> bytes:
        if kind == ANSWERS:
            path = f"/v1/analytics/performance/V-{random.randrange(_VEHICLES)}"
            return f"GET {path} HTTP/1.1\r\nHost: e\r\n\r\n".encode()
        if kind == SINGLES:
            return _post("/v1/ingest", self._reading())
        return _post("/v1/ingest/batch", [self._reading() for _ in range(_BATCH)])

    def _reading(self) -> dict[str, object]:
        at_us = next(self._times_us)
        at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at_us // 10**6))}"
        at += f".{at_us % 10**6:06d}Z"
        name = f"V-{random.randrange(_VEHICLES)}"
        if random.random() < 0.5:
            return {"meterId": name, "kwhConsumedAc": 0.5, "voltage": 230, "timestamp": at}
        return {"vehicleId": name, "kwhDeliveredDc": 0.4, "soc": 50, "timestamp": at}


def _post(path: str, body: object) -> bytes:
    text = json.dumps(body)
    return (
        f"POST {path} HTTP/1.1\r\nHost: e\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\n\r\n{text}"
    ).encode()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
    return int(head[9:12]), await reader.readexactly(length)
