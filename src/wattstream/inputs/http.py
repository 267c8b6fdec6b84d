"""Readings over HTTP: two bare ASGI endpoints, the hot path of the engine.

Each is three steps: read the body, decode it (pure), hand it to the pipeline.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import numpy as np
import structlog
from prometheus_client import Counter

from wattstream.caller import caller
from wattstream.decode.encoding import decompress
from wattstream.decode.json import (
    Decoded,
    Part,
    decode_array,
    decode_lines,
    decode_one,
    decode_row,
)
from wattstream.decode.records import Limits, TakesLongError, chosen_rows
from wattstream.domain.access import Reach
from wattstream.domain.errors import (
    ConflictError,
    MalformedError,
    ReadingError,
    RequestError,
    TooLargeError,
    UnsupportedError,
    WattstreamError,
)
from wattstream.domain.readings import Rejection, Row, Stream, to_rows
from wattstream.domain.units import MICRO, rfc3339
from wattstream.inputs.held import HeldBytes, Share
from wattstream.pipeline.ingest import Ingest, Report
from wattstream.query.admission import Admission
from wattstream.query.reach import forbidden
from wattstream.replies import Reply, error_body, error_reply, internal_error
from wattstream.stats import Stats

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ONE_PATH = "/v1/ingest"
BATCH_PATH = "/v1/ingest/batch"
MAX_ERRORS = 100
# A body of this size is decoded in some ms; others do not wait for a larger one.
_AT_ONCE_BYTES = 1024**2
# What is beyond that in bodies is read so fast, all together: faster than it could be stored.
_LARGE_BYTES_S = 64 * 1024**2
_SHORTEST_PAUSE_S = 0.005
_TURN_S = 0.0002
_TURN_IN_C_S = 0.002  # where others have the interpreter meanwhile, and only lack the core
# Finding the words for one refused record takes as long as decoding a dozen.
_AT_ONCE_PATIENT = 200
_JSON = b"application/json"
_NO_HEADERS: dict[str, str] = {}
_JSON_TYPES = frozenset({"", "application/json", "text/json"})
_LINE_TYPES = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)
_UTF8 = frozenset({"utf-8", "utf8", '"utf-8"'})

_log = structlog.get_logger()
_encode = msgspec.json.encode


class _DisconnectedError(Exception):
    """The client left before its request was complete."""


class _Turns:
    """Lets other threads run for twice as long as its own has.

    One that asks for the interpreter gets it after 0.5 ms, and a request asks many times.
    """

    def __init__(self, turn_s: float) -> None:
        self._turn_s = turn_s
        self._began_s = math.inf  # at the first call: before that, it may have waited long

    def __call__(self) -> None:
        worked_s = time.perf_counter() - self._began_s
        if worked_s > self._turn_s:
            time.sleep(2 * worked_s)
        if not 0 <= worked_s <= self._turn_s:
            self._began_s = time.perf_counter()


class HttpInput:
    """The ASGI application of both ingest endpoints.

    Attributes:
        max_body_bytes: Largest body as it arrives.
        held: Bytes of the requests under way.
    """

    def __init__(
        self,
        ingest: Ingest,
        stats: Stats,
        clock_us: Callable[[], int],
        *,
        max_future_s: int,
        max_past_s: int,
        max_body_bytes: int,
        max_decoded_bytes: int,
        max_held_bytes: int,
        max_records: int,
        admission: Admission,
    ) -> None:
        self._admission = admission
        self._ingest = ingest
        self._clock_us = clock_us
        self._max_future_us = max_future_s * MICRO
        self._max_past_us = max_past_s * MICRO
        self.max_body_bytes = max_body_bytes
        self._max_decoded_bytes = max_decoded_bytes
        self._max_records = max_records
        self.held = HeldBytes(max_held_bytes)
        self._read_until_s = 0.0
        # One thread: a large body takes memory many times its size, so they take turns.
        self._large = ThreadPoolExecutor(1, "large-bodies")
        self._ack_seconds = stats.ack_seconds
        self._requests = stats.requests
        self._by_status: dict[int, Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to one of the two paths."""
        try:
            reply = await self.reply(self._answer(scope, receive))
        except _DisconnectedError:
            return
        headers = reply.raw_headers()
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def reply(self, answer: Awaitable[Reply]) -> Reply:
        """Return an answer, or the one for the error that it ends with; count it."""
        try:
            reply = await answer
        except _DisconnectedError:
            raise
        except WattstreamError as error:
            reply = error_reply(error)
        except Exception:  # noqa: BLE001 - the last line of defence, as in any server
            _log.exception("Ingest failed")
            reply = internal_error()
        self.count(reply.status)
        return reply

    def count(self, status: int, answers: int = 1) -> None:
        """Count answers of one status."""
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self._requests.labels(str(status))
        counter.inc(answers)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        if scope["method"] != "POST":
            message = f"{scope['path']} takes POST, got {scope['method']}"
            return Reply(405, {"Allow": "POST"}, error_body("method_not_allowed", message))
        headers = dict(scope["headers"])
        is_batch = scope["path"] == BATCH_PATH
        content_type = headers.get(b"content-type", b"")
        is_lines = is_ndjson(content_type, is_batch=is_batch)
        held = self.held.share()
        try:
            return await self._answer_body(headers, receive, held, is_batch, is_lines)
        finally:
            held.let_go()

    async def _answer_body(
        self,
        headers: dict[bytes, bytes],
        receive: Receive,
        held: Share,
        is_batch: bool,
        is_lines: bool,
    ) -> Reply:
        body = await self._body(headers, receive, held)
        started = time.perf_counter()
        try:
            if (encoding := headers.get(b"content-encoding")) is not None:
                body = await self._decompressed(body, encoding.decode("latin-1"))
                held.hold(len(body))
            reply = await (self._batch(body, is_lines) if is_batch else self._one(body))
        except MalformedError as error:
            rejection = Rejection(0, error.code, error.message, error.field, body)
            await self._ingest.keep(rejection)
            raise
        self._ack_seconds.observe(time.perf_counter() - started)
        return reply

    async def _body(self, headers: dict[bytes, bytes], receive: Receive, held: Share) -> bytes:
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body_bytes:
            raise self._too_large(f"got {int(length)}")
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _DisconnectedError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self.max_body_bytes:
                raise self._too_large("got more")
            if size > _AT_ONCE_BYTES:
                await self._pause(len(chunk))
            held.hold(len(chunk))
            chunks.append(chunk)
            if not message.get("more_body", False):
                if size <= _AT_ONCE_BYTES:
                    return b"".join(chunks)
                return await self._in_thread(b"".join, chunks)

    async def _pause(self, size: int) -> None:
        """Wait as long as it takes to read so many bytes of large bodies; TCP holds up the rest."""
        now_s = time.monotonic()
        self._read_until_s = max(self._read_until_s, now_s) + size / _LARGE_BYTES_S
        if self._read_until_s > now_s + _SHORTEST_PAUSE_S:
            await asyncio.sleep(self._read_until_s - now_s)

    async def _decompressed(self, body: bytes, encoding: str) -> bytes:
        """Decompress a body, in the thread where it turns out to be large."""
        try:
            return decompress(body, encoding, min(_AT_ONCE_BYTES, self._max_decoded_bytes))
        except TooLargeError:
            if self._max_decoded_bytes <= _AT_ONCE_BYTES:
                raise
        limit = self._max_decoded_bytes
        return await self._in_thread(decompress, body, encoding, limit, _Turns(_TURN_IN_C_S))

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Run what takes long, while others are answered."""
        return await asyncio.get_running_loop().run_in_executor(self._large, function, *arguments)

    def _too_large(self, got: str) -> TooLargeError:
        return TooLargeError(
            f"the body must be at most {self.max_body_bytes} bytes, {got}; send smaller batches"
        )

    def limits(self) -> Limits:
        """Return what a reading must keep to that arrives now."""
        now_us = self._clock_us()
        return Limits(now_us - self._max_past_us, now_us + self._max_future_us, self._max_records)

    async def _one(self, body: bytes) -> Reply:
        limits = self.limits()
        is_small = len(body) <= _AT_ONCE_BYTES
        row = decode_row(body, limits) if is_small else None
        if row is None:
            decoded = (
                decode_one(body, limits)
                if is_small
                else await self._in_thread(decode_one, body, limits)
            )
            if decoded.rejections:
                report = await self._ingest.write(decoded)
                raise as_error(report.rejections[0])
            (row,) = to_rows(decoded.parts[0].readings)
        reach = caller().reach
        if not reach.is_whole and row.device not in await self._admission.admitted(
            reach, row.stream, [row.device]
        ):
            await self._ingest.keep(_forbidden(0, row.stream, row.device, reach, body))
            raise forbidden(row.stream, row.device, reach)
        is_stored = await self._ingest.write_row(row, body)
        if isinstance(is_stored, Rejection):
            raise as_error(is_stored)
        return one_reply(row, is_stored=is_stored)

    async def _batch(self, body: bytes, is_lines: bool) -> Reply:
        decode = decode_lines if is_lines else decode_array
        limits = self.limits()
        decoded = None
        if len(body) <= _AT_ONCE_BYTES:
            with suppress(TakesLongError):
                decoded = decode(body, limits)
        if decoded is None:
            patient = limits._replace(max_patient=None, give_way=_Turns(_TURN_S))
            decoded = await self._in_thread(decode, body, patient)
        reach = caller().reach
        if not reach.is_whole:
            decoded = await self._within(decoded, reach)
        report = await self._ingest.write(decoded)
        return Reply(_batch_status(report), {}, _encode(_batch_body(report)))

    async def _within(self, decoded: Decoded, reach: Reach) -> Decoded:
        """Refuse the readings of devices that the key does not reach."""
        parts, refused = [], list(decoded.rejections)
        for part in decoded.parts:
            readings = part.readings
            seen = await self._admission.admitted(reach, readings.stream, readings.ids)
            if seen.issuperset(readings.ids):
                parts.append(part)
                continue
            is_seen = np.fromiter((name in seen for name in readings.ids), np.bool_, len(readings))
            refused += [
                _forbidden(index, readings.stream, readings.ids[row], reach, decoded.record(index))
                for row, index in zip(
                    np.flatnonzero(~is_seen).tolist(), part.index[~is_seen].tolist(), strict=True
                )
            ]
            if is_seen.any():
                parts.append(Part(chosen_rows(readings, is_seen), part.index[is_seen]))
        return replace(decoded, parts=parts, rejections=refused)


def one_reply(row: Row, *, is_stored: bool) -> Reply:
    """Return the answer to one reading that is committed, now or before."""
    answer = {
        "status": "ok",
        "type": row.stream.value,
        "id": row.device,
        "timestamp": rfc3339(row.at_us),
        "stored": is_stored,
    }
    if not is_stored:
        answer["duplicate"] = True
    return Reply(201 if is_stored else 200, _NO_HEADERS, _encode(answer))


def _forbidden(index: int, stream: Stream, device: str, reach: Reach, record: bytes) -> Rejection:
    error = forbidden(stream, device, reach)
    return Rejection(index, error.code, error.message, error.field, record, stream, device)


def _batch_status(report: Report) -> int:
    refused = len(report.rejections)
    if refused == report.received:
        return 422
    return 207 if refused else 201


def _batch_body(report: Report) -> dict[str, object]:
    return {
        "received": report.received,
        "stored": report.stored,
        "duplicates": report.duplicates,
        "rejected": len(report.rejections),
        "errors": [
            {"index": rejection.index, "code": rejection.code, "message": rejection.message}
            for rejection in report.rejections[:MAX_ERRORS]
        ],
    }


def as_error(rejection: Rejection) -> RequestError:
    """Return what is raised for a record that was refused and kept."""
    kind = ConflictError if rejection.code == "conflict" else ReadingError
    return kind(rejection.message, code=rejection.code, field=rejection.field)


def is_ndjson(content_type: bytes, *, is_batch: bool) -> bool:
    """Return whether a body is NDJSON by the header of its type, empty where there is none.

    Raises:
        UnsupportedError: It is neither that nor JSON in UTF-8.
    """
    if content_type == _JSON:
        return False
    name, _, parameters = content_type.decode("latin-1").partition(";")
    name = name.strip().lower()
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset" and value.strip().lower() not in _UTF8:
            raise UnsupportedError(f"the charset must be utf-8, got {value.strip()[:40]!r}")
    if name in _JSON_TYPES or name.endswith("+json"):
        return False
    if is_batch and name in _LINE_TYPES:
        return True
    allowed = "application/json" + (" or application/x-ndjson" if is_batch else "")
    raise UnsupportedError(
        f"Content-Type must be {allowed}, got {name[:60]!r}; "
        "with curl, add -H 'Content-Type: application/json'"
    )
