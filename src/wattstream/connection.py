"""One HTTP connection, and what a client may cost: size of headers, time, open connections.

No request has a timer of its own. Once a second a `ConnectionGuard` looks at every connection and
counts how long it has been waiting for its client; what a client sends within one piece, as nearly
all do, costs a comparison.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wattstream.replies import error_body
from wattstream.writes import JoinedWrites, Outbox

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers; of trailers or chunk extensions between two bytes of a body."""
MAX_PIPELINED = 128
"""Requests of one connection that wait for the answer to an earlier one."""
MIN_BYTES_PER_S = 1024
"""What a client must send of a body, and take of an answer."""
BODY_PATIENCE_S = 10
ANSWER_PATIENCE_S = 30
"""How long a client may be slower than that."""
# A client that does not read before it has sent its body gets to its answer up to this size; who
# closes earlier resets the connection, and the answer is lost.
_MAX_DISCARDED_BYTES = 32 * 1024**2
_DISCARD_S = 5
_LEAVE_S = 10
_LOOK_EVERY_S = 1.0
_AT_ONCE = 500
_REPORT_EVERY_S = 60

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may cost a process.

    Attributes:
        connections: Open at once.
        head_s: From the first byte of a request, or the start of a connection, to the end of
            its headers.
        body_s: From there to the end of its body.
        idle_s: Between an answer and the next request.
    """

    connections: int
    head_s: int
    body_s: int
    idle_s: int


class _Refusal(NamedTuple):
    status: str
    code: str
    message: str
    headers: str = ""


_MALFORMED = _Refusal(
    "400 Bad Request", "malformed_request", "the request's line or headers are not HTTP"
)
_HEAD_TOO_LARGE = _Refusal(
    "431 Request Header Fields Too Large",
    "headers_too_large",
    f"the request's line and headers must be at most {MAX_HEAD_BYTES} bytes together; ask for "
    "fewer things at once, or send fewer cookies",
)
_PIPELINED = _Refusal(
    "400 Bad Request",
    "too_many_pipelined",
    f"at most {MAX_PIPELINED} requests of a connection may wait for an answer; read the answers",
)
_UPGRADE = _Refusal(
    "400 Bad Request",
    "upgrade_with_body",
    "this engine speaks HTTP/1.1 only, and cannot read a request with both Upgrade and a body; "
    "send it without Upgrade (Java: HttpClient.Version.HTTP_1_1)",
)
_OF_A_BODY = {b"content-length", b"transfer-encoding"}


class Wait(Enum):
    """What a connection waits for."""

    ENGINE = auto()
    FIRST = auto()
    REQUEST = auto()
    HEAD = auto()
    BODY = auto()
    UNWANTED_BODY = auto()
    READER = auto()
    END = auto()


_SLOW_S = {Wait.BODY: BODY_PATIENCE_S, Wait.READER: ANSWER_PATIENCE_S}


class ConnectionGuard:
    """Watches the connections of one process.

    Attributes:
        limits: What clients may cost.
        patience_s: How long a connection may wait, by what for.
        refused: Connections ended for their clients' doing, by code, since the last report.
        outbox: Their answers of one turn of the event loop.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.refused: Counter[str] = Counter()
        self.outbox = Outbox()
        self.too_many = _Refusal(
            "503 Service Unavailable",
            "too_many_connections",
            f"this engine has {limits.connections} connections open and takes no more; try again "
            "later, and send many requests over one connection",
            "Retry-After: 5\r\n",
        )
        self.patience_s = {
            Wait.FIRST: limits.head_s,
            Wait.REQUEST: limits.idle_s,
            Wait.HEAD: limits.head_s,
            Wait.BODY: limits.body_s,
            Wait.UNWANTED_BODY: _DISCARD_S,
            Wait.END: _LEAVE_S,
        }
        self._refusals = {
            Wait.HEAD: _slow(
                f"the request's line and headers must be there within {limits.head_s} s; send again"
            ),
            Wait.BODY: _slow(
                f"the body must bring {MIN_BYTES_PER_S} bytes a second and be there within "
                f"{limits.body_s} s; send smaller batches"
            ),
        }

    def end(self, connection: "Connection", wait: Wait) -> None:
        """End a connection that waited too long for its client."""
        refusal = self._refusals.get(wait)
        if refusal is not None:
            connection.refuse(refusal)
            return
        if wait not in {Wait.FIRST, Wait.REQUEST, Wait.END}:
            self.refused[wait.name.lower()] += 1
        connection.leave()

    async def watch(self, connections: "set[Any]") -> None:
        """Look at every connection once a second, for ever."""
        looks = 0
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for number, connection in enumerate(tuple(connections), 1):
                try:
                    connection.look()
                except Exception:  # noqa: BLE001 - one connection must not end the watch
                    _log.exception("A connection cannot be watched")
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)  # requests are not held up by very many connections
            looks += 1
            if looks % _REPORT_EVERY_S == 0 and self.refused:
                _log.warning("Connections were ended", **self.refused)
                self.refused.clear()


def _slow(message: str) -> _Refusal:
    return _Refusal("408 Request Timeout", "request_timeout", message)


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with bounds, and with errors in the form that every error has."""

    transport: JoinedWrites
    # None before the first request.
    cycle: Any
    scope: Any

    def __init__(self, *arguments: Any, guard: ConnectionGuard, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._guard = guard
        self._refusal: _Refusal | None = None
        self._piece_bytes = 0
        # Since the head began, or the last byte of the body.
        self._overhead_bytes = 0
        # Of requests that did not come in one piece.
        self._received_bytes = 0
        self._wait = Wait.ENGINE
        self._waited_s = self._slow_s = 0
        self._waits_with: object = None
        self._mark_bytes = 0

    # ── From the transport ───────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or answer that there is no room."""
        super().connection_made(JoinedWrites(transport, self._guard.outbox))
        if len(self.connections) > self._guard.limits.connections:
            self.refuse(self._guard.too_many)

    def data_received(self, data: bytes) -> None:
        """Take a piece of what the client sends."""
        self._piece_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing else is spoken here; the request gets its answer. A body was not read.
            if any(name in _OF_A_BODY and value != b"0" for name, value in self.headers):
                self.refuse(_UPGRADE)
            return
        except httptools.HttpParserError:
            self.refuse(self._refusal or _MALFORMED)
            return
        if not self._is_whole():
            self._note_incomplete()

    def _is_whole(self) -> bool:
        """Return whether what was sent so far ends with a request, parsed to its end."""
        cycle = self.cycle
        return cycle is not None and cycle.scope is self.scope and not cycle.more_body

    def _note_incomplete(self) -> None:
        self._received_bytes += self._piece_bytes
        self._overhead_bytes += self._piece_bytes
        if self._overhead_bytes > MAX_HEAD_BYTES:
            self.refuse(_HEAD_TOO_LARGE)
        elif self._is_answered_early() and self._received_bytes > _MAX_DISCARDED_BYTES:
            self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Go on with an answer: the client took enough of it."""
        super().resume_writing()
        self._wait = Wait.ENGINE

    # ── From the parser ──────────────────────────────────────────────────────────────────

    def on_headers_complete(self) -> None:
        """Begin a request, unless it is too large or one too many."""
        if self._overhead_bytes + self._piece_bytes > MAX_HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                self._stop_parsing(_HEAD_TOO_LARGE)
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            self._stop_parsing(_PIPELINED)
        # The rest of this piece is counted after it, and is not of the head.
        self._overhead_bytes = self._received_bytes = -self._piece_bytes

    def _stop_parsing(self, refusal: _Refusal) -> None:
        self._refusal = refusal
        raise ValueError(refusal.code)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body, or drop it where its request has its answer."""
        self._overhead_bytes = -self._piece_bytes
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request's body."""
        cycle = self.cycle
        cycle.more_body = False
        # A trailer may have said that the connection is to end.
        cycle.keep_alive = cycle.keep_alive and self.parser.should_keep_alive()
        if not cycle.response_complete:
            cycle.message_event.set()

    # ── From the application ─────────────────────────────────────────────────────────────

    def on_response_complete(self) -> None:
        """Go on with the next request; the guard sees to it where none comes."""
        self.server_state.total_requests += 1
        self.transport.flush()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.cycle.more_body:
            self._received_bytes = 0

    # ── From the guard ───────────────────────────────────────────────────────────────────

    def look(self) -> None:
        """Count a second of waiting for the client; end the connection where it is too long."""
        wait = self._waits_for()
        if wait is not self._wait or self._waits_with is not self.cycle:
            self._wait, self._waits_with = wait, self.cycle
            self._waited_s = self._slow_s = 0
            self._mark_bytes = self._progress()
            return
        self._waited_s += 1
        guard = self._guard
        slow_s = _SLOW_S.get(wait)
        if self._waited_s > guard.patience_s.get(wait, self._waited_s) or (
            slow_s is not None and self._is_slow(slow_s)
        ):
            guard.end(self, wait)

    def _waits_for(self) -> Wait:
        cycle = self.cycle
        if self.transport.is_closing():
            wait = Wait.END
        elif self.flow.write_paused:
            wait = Wait.READER
        elif self._is_answered_early():
            wait = Wait.UNWANTED_BODY
        elif self.flow.read_paused:
            wait = Wait.ENGINE
        elif self.scope is not None and (cycle is None or cycle.scope is not self.scope):
            wait = Wait.HEAD
        elif cycle is None:
            wait = Wait.FIRST
        elif cycle.response_complete:
            wait = Wait.REQUEST
        else:
            wait = Wait.BODY if cycle.more_body else Wait.ENGINE
        return wait

    def _is_answered_early(self) -> bool:
        """Whether the client still sends the body of a request that has its answer."""
        cycle = self.cycle
        return cycle is not None and cycle.response_complete and cycle.more_body

    def _progress(self) -> int:
        """Return what grows with what the client does, bytes."""
        if self._wait is Wait.READER:
            return -self.transport.get_write_buffer_size()
        return self._received_bytes

    def _is_slow(self, patience_s: int) -> bool:
        """Count a second without enough progress; return whether there were too many."""
        progress = self._progress()
        # What waits to be sent also grows, by the next part of an answer: the client took one.
        enough = MIN_BYTES_PER_S * patience_s
        if progress - self._mark_bytes >= enough or progress < self._mark_bytes:
            self._mark_bytes, self._slow_s = progress, 0
        else:
            self._slow_s += 1
        return self._slow_s > patience_s

    # ── Ends ─────────────────────────────────────────────────────────────────────────────

    def refuse(self, refusal: _Refusal) -> None:
        """Answer and close; where an answer is under way, only close."""
        cycle = self.cycle
        if cycle is None or not cycle.response_started or cycle.response_complete:
            body = error_body(refusal.code, refusal.message)
            head = (
                f"HTTP/1.1 {refusal.status}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n{refusal.headers}Connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self._guard.refused[refusal.code] += 1
        self.transport.close()

    def leave(self) -> None:
        """Close; what the client did not take of its answer is lost."""
        if self.transport.get_write_buffer_size() or self.transport.is_closing():
            self.transport.abort()
        else:
            self.transport.close()
