"""A connection with an express way, for requests that need neither parser nor application.

Most of what a small request costs is finding out, anew, what its line and headers mean, and a task
that waits for the answer. A client repeats itself: on its connection, a head that came before, byte
for byte, means what it meant then. Anything else takes the ordinary way of `Connection`.
"""

from collections.abc import MutableMapping
from typing import Any, NamedTuple, Protocol

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from wattstream.connection import Connection
from wattstream.replies import Answer, Reply

_END = b"\r\n\r\n"
_MAX_HEAD_BYTES = 1024
# Of one connection: bodies of some lengths have heads of their own.
_MAX_HEADS = 8

_log = structlog.get_logger()


class Express(Protocol):
    """What answers requests on the express way."""

    def meaning(self, scope: MutableMapping[str, Any], body_size: int) -> Any:
        """Return what `take` is to know of requests with this head; None: they are not taken.

        Args:
            scope: Of a request as it was parsed.
            body_size: What came after its head, bytes.
        """

    def take(self, meaning: Any, body: bytes, answer: Answer) -> bool:
        """Take a request, to call `answer` once, later; return whether it was taken."""


class _Head(NamedTuple):
    body_at: int
    request_size: int
    meaning: Any


class _NobodyWaits:
    def set(self) -> None:
        """Do nothing."""


class _Expressed:
    """A request on the express way; for the protocol, what its cycle is for any other."""

    __slots__ = ("_connection", "disconnected", "keep_alive", "response_complete", "scope")

    more_body = response_started = False
    message_event = _NobodyWaits()

    def __init__(self, connection: "ExpressConnection") -> None:
        self._connection: ExpressConnection | None = connection
        self.scope = connection.scope
        self.keep_alive = True
        self.disconnected = self.response_complete = False

    def answer(self, reply: Reply, request_id: bytes) -> None:
        """End it."""
        # The connection holds its last request: a circle would be left to the collector.
        connection, self._connection = self._connection, None
        self.response_complete = True
        if connection is None or self.disconnected or connection.transport.is_closing():
            return
        try:
            connection.end_express(reply, request_id, keep_alive=self.keep_alive)
        except Exception:  # noqa: BLE001 - it ends this connection, and nothing else
            _log.exception("A request could not be answered", request_id=request_id.decode())
            connection.transport.abort()


class ExpressConnection(Connection):
    """A connection that asks `express` first, wherever a request may begin."""

    def __init__(self, *arguments: Any, express: Express, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._express = express
        self._heads: dict[bytes, _Head] = {}
        # What came while a request was on the express way.
        self._later: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        """Take a piece of what the client sends."""
        cycle = self.cycle
        if type(cycle) is _Expressed and not cycle.response_complete:
            self._later.append(data)
            self.flow.pause_reading()
        elif not self._is_between_requests():
            super().data_received(data)
        elif not self._took(data):
            before = self.scope
            super().data_received(data)
            if self.scope is not before and self._is_whole() and not self.pipeline:
                self._learn(data)

    def _is_between_requests(self) -> bool:
        cycle = self.cycle
        return self.scope is None or (self._is_whole() and cycle.response_complete)

    def _took(self, request: bytes) -> bool:
        head = self._heads.get(request[: request.find(_END, 0, _MAX_HEAD_BYTES) + len(_END)])
        if head is None or head.request_size != len(request):
            return False
        if self.flow.write_paused or self.transport.is_closing():
            return False
        cycle = _Expressed(self)
        try:
            is_taken = self._express.take(head.meaning, request[head.body_at :], cycle.answer)
        except Exception:  # noqa: BLE001 - the ordinary way has an answer to it
            _log.exception("A request could not take the express way")
            return False
        if is_taken:
            self.cycle = cycle
        return is_taken

    def _learn(self, request: bytes) -> None:
        """Remember the head of a request that was parsed: it is all of a piece."""
        body_at = request.find(_END, 0, _MAX_HEAD_BYTES) + len(_END)
        if body_at < len(_END) or not self.cycle.keep_alive:
            return
        meaning = self._express.meaning(self.scope, len(request) - body_at)
        if meaning is None:
            return
        if len(self._heads) >= _MAX_HEADS:
            del self._heads[next(iter(self._heads))]
        self._heads[request[:body_at]] = _Head(body_at, len(request), meaning)

    def end_express(self, reply: Reply, request_id: bytes, *, keep_alive: bool) -> None:
        """Send an answer, then go on with what came meanwhile."""
        parts = [STATUS_LINE[reply.status]]
        for name, value in self.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (reply.header_lines(), b"x-request-id: ", request_id, b"\r\n")
        if not keep_alive:
            parts.append(b"connection: close\r\n")
        parts += (b"\r\n", reply.body)
        self.transport.write_answer(b"".join(parts))
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()
        later, self._later = self._later, []
        for data in later:
            if not self.transport.is_closing():
                self.data_received(data)
