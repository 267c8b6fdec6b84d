"""Single readings on the express way: a request whose head came before, byte for byte.

Devices repeat themselves: only the body of a heartbeat differs from the one before. A reading that
is in order is decoded where it arrives, and answered where its flush is committed. Whatever is the
least bit unusual takes the ordinary way: every rule has one place.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

from wattstream.caller import Caller, asked_by
from wattstream.decode.json import decode_row
from wattstream.domain.errors import UnsupportedError, WattstreamError
from wattstream.domain.readings import Rejection, Row, Stream
from wattstream.inputs.http import ONE_PATH, HttpInput, as_error, is_ndjson, one_reply
from wattstream.pipeline.ingest import Ingest
from wattstream.pipeline.single import Single
from wattstream.replies import Answer, Reply, error_reply
from wattstream.stats import Stats

_END = b"\r\n\r\n"
_MAX_HEAD_BYTES = 1024
_MAX_BODY_BYTES = 4096
_MAX_HEADS = 4096
# What more than the body may depend on, and what is of one request alone.
_DECIDING = frozenset(
    {
        b"content-encoding",
        b"cookie",
        b"expect",
        b"origin",
        b"sec-fetch-site",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    }
)


class Head(NamedTuple):
    """What a request's line and headers say.

    Attributes:
        body_at: Where the body begins.
        size: Of the whole request, bytes.
        authorization: What was sent as such, or None.
    """

    body_at: int
    size: int
    authorization: bytes | None


class _Taken(Single):
    """A reading on the express way."""

    __slots__ = ("_answer", "_caller", "_input", "_started_s")

    def __init__(
        self, input_: "ExpressInput", row: Row, record: bytes, caller: Caller, answer: Answer
    ) -> None:
        super().__init__(row, record)
        self._input = input_
        self._caller = caller
        self._answer = answer
        self._started_s = time.perf_counter()

    def settle(self, *, is_stored: bool) -> None:
        self._input.count(self.row.stream, time.perf_counter() - self._started_s, is_stored)
        self._end(one_reply(self.row, is_stored=is_stored))

    def reject(self, rejection: Rejection) -> None:
        self._input.keep(rejection, self._caller, self._end)

    def fail(self, error: WattstreamError) -> None:
        reply = error_reply(error)
        self._input.ordinary.count(reply.status)
        self._end(reply)

    def _end(self, reply: Reply) -> None:
        self._input.ordinary.let_go(len(self.record))
        self._answer(reply)


class ExpressInput:
    """Takes single readings that came whole, in one piece, with a head that is known.

    Attributes:
        ordinary: The ordinary way.
    """

    def __init__(
        self,
        ordinary: HttpInput,
        ingest: Ingest,
        stats: Stats,
        writer: Callable[[bytes | None], Caller | None],
    ) -> None:
        """Take readings.

        Args:
            ordinary: The ordinary way.
            ingest: Where readings go.
            stats: Counts answers.
            writer: Who may write any device with an Authorization header; None: perhaps nobody.
        """
        self.ordinary = ordinary
        self._ingest = ingest
        self._writer = writer
        self._ack_seconds = stats.ack_seconds
        self._heads: dict[bytes, Head] = {}
        self._counts: Counter[tuple[Stream, bool]] = Counter()
        self._keeping: set[asyncio.Task[None]] = set()

    def known(self, request: bytes) -> Head | None:
        """Return what the head of a request says; None unless it is known and all is there."""
        head = self._heads.get(request[: request.find(_END, 0, _MAX_HEAD_BYTES) + len(_END)])
        return head if head is not None and head.size == len(request) else None

    def learn(self, request: bytes, scope: MutableMapping[str, Any]) -> None:
        """Remember the head of a whole request that was parsed, where it is of a single reading."""
        if scope["path"] != ONE_PATH or scope["method"] != "POST":
            return
        body_at = request.find(_END, 0, _MAX_HEAD_BYTES) + len(_END)
        size = len(request) - body_at
        headers = dict(scope["headers"])
        is_plain = (
            body_at >= len(_END)
            and size <= min(_MAX_BODY_BYTES, self.ordinary.max_body_bytes)
            and headers.get(b"content-length") == str(size).encode()
            and len(headers) == len(scope["headers"])
            and _DECIDING.isdisjoint(headers)
        )
        if not is_plain or not _is_json(headers.get(b"content-type", b"")):
            return
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        authorization = headers.get(b"authorization")
        self._heads[request[:body_at]] = Head(body_at, len(request), authorization)

    def take(self, head: Head, request: bytes, answer: Answer) -> bool:
        """Take a reading, to be answered once it is committed; return whether it was taken."""
        body = request[head.body_at :]
        row = decode_row(body, self.ordinary.limits())
        if row is None or not self._ingest.has_room(row.stream):
            return False
        caller = self._writer(head.authorization)
        if caller is None or not self.ordinary.try_hold(len(body)):
            return False
        self._ingest.queue_row(_Taken(self, row, body, caller, answer))
        return True

    def count(self, stream: Stream, ack_s: float, is_stored: bool) -> None:
        """Count a reading that is committed; those of one turn of the event loop together."""
        if not self._counts:
            asyncio.get_running_loop().call_soon(self._count)  # before the answers are sent
        self._counts[stream, is_stored] += 1
        self._ack_seconds.observe(ack_s)

    def _count(self) -> None:
        for (stream, is_stored), count in self._counts.items():
            self._ingest.count_rows(stream, count, is_stored=is_stored)
            self.ordinary.count(201 if is_stored else 200, count)
        self._counts.clear()

    def keep(self, rejection: Rejection, caller: Caller, answer: Answer) -> None:
        """Keep a reading that is refused, then answer why."""
        task = asyncio.create_task(self._keep(rejection, caller, answer))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep(self, rejection: Rejection, caller: Caller, answer: Answer) -> None:
        async def kept() -> Reply:
            await self._ingest.keep(rejection)
            raise as_error(rejection)

        with asked_by(caller):
            answer(await self.ordinary.reply(kept()))


def _is_json(content_type: bytes) -> bool:
    try:
        return not is_ndjson(content_type, is_batch=False)
    except UnsupportedError:
        return False
