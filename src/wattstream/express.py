"""A connection with an express way, for requests that need neither parser nor application.

Most of what a small request costs is finding out, anew, what its line and headers mean, and a task
that waits for the answer. Who implements `Express` knows a head again, byte for byte, and answers
from a callback. Anything else takes the ordinary way of `Connection`.
"""

from collections.abc import MutableMapping
from typing import Any, Protocol

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from wattstream.connection import Connection
from wattstream.log import new_request_id
from wattstream.replies import Answer, Reply

_log = structlog.get_logger()


class Express(Protocol):
    """What answers requests on the express way."""

    def known(self, request: bytes) -> Any:
        """Return what the head of a request says; None unless it is known and all is there."""

    def take(self, head: Any, request: bytes, answer: Answer) -> bool:
        """Take a request, to call `answer` once, later; return whether it was taken."""

    def learn(self, request: bytes, scope: MutableMapping[str, Any]) -> None:
        """Remember the head of a whole request as it was parsed, if others may follow it."""


class _NobodyWaits:
    def set(self) -> None:
        """Do nothing."""


class _Expressed:
    """A request on the express way; for the protocol, what its cycle is for any other."""

    __slots__ = ("connection", "disconnected", "keep_alive", "response_complete", "scope")

    more_body = response_started = False
    message_event = _NobodyWaits()

    def __init__(self, connection: "ExpressConnection") -> None:
        self.connection = connection
        self.scope = connection.scope
        self.keep_alive = True
        self.disconnected = self.response_complete = False

    def answer(self, reply: Reply) -> None:
        """End it."""
        self.response_complete = True
        connection = self.connection
        if self.disconnected or connection.transport.is_closing():
            return
        try:
            connection.send_express(reply, keep_alive=self.keep_alive)
        except Exception:  # noqa: BLE001 - others wait behind it for their answers
            _log.exception("A request could not be answered")
            connection.transport.abort()


class ExpressConnection(Connection):
    """A connection that asks `express` first, wherever a request may begin."""

    def __init__(self, *arguments: Any, express: Express, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._express = express
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
        elif (head := self._express.known(data)) is None or not self._took(head, data):
            super().data_received(data)
            if self._is_whole() and self.cycle.keep_alive and not self.pipeline:
                self._express.learn(data, self.scope)

    def _is_between_requests(self) -> bool:
        cycle = self.cycle
        return self.scope is None or (self._is_whole() and cycle.response_complete)

    def _took(self, head: Any, request: bytes) -> bool:
        if self.flow.write_paused or self.transport.is_closing():
            return False
        cycle = _Expressed(self)
        try:
            is_taken = self._express.take(head, request, cycle.answer)
        except Exception:  # noqa: BLE001 - the ordinary way has an answer to it
            _log.exception("A request could not take the express way")
            return False
        if is_taken:
            self.cycle = cycle
        return is_taken

    def send_express(self, reply: Reply, *, keep_alive: bool) -> None:
        """Send an answer, then go on with what came meanwhile."""
        self._send(reply, keep_alive=keep_alive)
        self.on_response_complete()
        later, self._later = self._later, []
        for data in later:
            self.data_received(data)

    def _send(self, reply: Reply, *, keep_alive: bool) -> None:
        parts = [STATUS_LINE[reply.status]]
        for name, value in (*self.server_state.default_headers, *reply.raw_headers()):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"x-request-id: ", new_request_id(), b"\r\n")
        if not keep_alive:
            parts.append(b"connection: close\r\n")
        parts += (b"\r\n", reply.body)
        self.transport.write_answer(b"".join(parts))
        if not keep_alive:
            self.transport.close()
