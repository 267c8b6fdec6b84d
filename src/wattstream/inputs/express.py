"""Single readings on the express way: decoded where they arrive, answered from their flush.

Whatever is the least bit unusual in head or reading takes the ordinary way, where each rule has its
place.
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
from wattstream.log import begin_request, new_request_id
from wattstream.pipeline.ingest import Ingest
from wattstream.pipeline.single import Single
from wattstream.replies import Answer, Reply, error_reply
from wattstream.stats import Stats

_MAX_BODY_BYTES = 4096
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


class Sender(NamedTuple):
    """What a head says of who sends readings with it.

    Attributes:
        authorization: The header of that name, or None.
    """

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

    def _end(self, reply: Reply, request_id: bytes | None = None) -> None:
        self._input.ordinary.held.let_go(len(self.record))
        self._answer(reply, request_id or new_request_id())


class ExpressInput:
    """Takes single readings.

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
        self._counts: Counter[tuple[Stream, bool]] = Counter()
        self._keeping: set[asyncio.Task[None]] = set()

    def meaning(self, scope: MutableMapping[str, Any], body_size: int) -> Sender | None:
        """Return who sends readings with a head; None unless it is one of single readings."""
        if scope["path"] != ONE_PATH or scope["method"] != "POST":
            return None
        headers = dict(scope["headers"])
        is_plain = (
            body_size <= min(_MAX_BODY_BYTES, self.ordinary.max_body_bytes)
            and headers.get(b"content-length") == str(body_size).encode()
            and len(headers) == len(scope["headers"])
            and _DECIDING.isdisjoint(headers)
            and _is_json(headers.get(b"content-type", b""))
        )
        return Sender(headers.get(b"authorization")) if is_plain else None

    def take(self, sender: Sender, body: bytes, answer: Answer) -> bool:
        """Take a reading, to be answered once it is committed; return whether it was taken."""
        row = decode_row(body, self.ordinary.limits())
        if row is None or not self._ingest.has_room(row.stream):
            return False
        if not self.ordinary.held.try_hold(len(body)):
            return False
        caller = self._writer(sender.authorization)
        if caller is None:
            self.ordinary.held.let_go(len(body))
            return False
        self._ingest.queue_row(_Taken(self, row, body, caller, answer))
        return True

    def count(self, stream: Stream, ack_s: float, is_stored: bool) -> None:
        """Count a reading that is committed; those of one turn of the event loop together."""
        if not self._counts:
            asyncio.get_running_loop().call_soon(self._count)
        self._counts[stream, is_stored] += 1
        self._ack_seconds.observe(ack_s)

    def _count(self) -> None:
        counts, self._counts = self._counts, Counter()
        for (stream, is_stored), count in counts.items():
            self._ingest.count_rows(stream, count, is_stored=is_stored)
            self.ordinary.count(201 if is_stored else 200, count)

    def keep(self, rejection: Rejection, caller: Caller, answer: Answer) -> None:
        """Keep a reading that is refused, then answer why."""
        task = asyncio.create_task(self._keep(rejection, caller, answer))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep(self, rejection: Rejection, caller: Caller, answer: Answer) -> None:
        async def kept() -> Reply:
            await self._ingest.keep(rejection)
            raise as_error(rejection)

        request_id = begin_request(())
        with asked_by(caller):
            reply = await self.ordinary.reply(kept())
        answer(reply, request_id)


def _is_json(content_type: bytes) -> bool:
    try:
        return not is_ndjson(content_type, is_batch=False)
    except UnsupportedError:
        return False
