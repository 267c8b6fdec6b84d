"""How fast a long history is taken away, and what memory that costs the engine; Linux tells."""

import multiprocessing
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from multiprocessing.connection import Connection
from urllib.parse import urlencode

import nanoarrow as na  # type: ignore[import-untyped]  # it has no types

from wattstream.bench.beats import expect, received
from wattstream.bench.engine import Engine, make_database
from wattstream.bench.history import external_id, grow, system_clock_us
from wattstream.bench.memory import resident_mib, watch_peak
from wattstream.bench.rows import Row
from wattstream.domain.errors import OperatorError
from wattstream.domain.readings import Stream
from wattstream.domain.units import DAY_US, MICRO, rfc3339

ROWS = 10_000_000
QUICK_ROWS = 1_000_000
MOST_MIB = 50 * 1e6 / 1024**2
"""An engine may take so much more memory while it streams: 50 MB."""

_PART = "export"
_PAIRS = 400  # their ids fit into a URL
_PIECE_BYTES = 1 << 18
_DAYS = 60


def measure_export(
    conninfo: str,
    start_engine: Callable[[str], AbstractContextManager[Engine]],
    rows: int,
    on_row: Callable[[Row], None],
    *,
    pairs: int = _PAIRS,
) -> None:
    """Take a whole history away, in each form, in a database made for it.

    One request a stream, of all its devices, read by a process of its own, which counts the
    rows. Memory is that before the first request to a new engine, and the highest while the
    answers are sent.

    Args:
        conninfo: A PostgreSQL server of this machine, as superuser.
        start_engine: Runs an engine on a database.
        rows: Of both streams together.
        on_row: Called with each result.
        pairs: Meters, and as many vehicles, at most 400.

    Raises:
        OperatorError: The disk is too small, or an answer was not whole.
    """
    database = make_database(conninfo, "wattstream_export")
    grow(database, pairs, rows)
    # Both ends lie whole minutes away from now, so nothing is held outside of them.
    now_us = system_clock_us()
    span = {"start": rfc3339(now_us - _DAYS * DAY_US), "end": rfc3339(now_us + 60 * MICRO)}
    query = urlencode({"id": [external_id(n) for n in range(pairs)], **span}, doseq=True)
    for form, media in (("CSV", "text/csv"), ("Arrow", "application/vnd.apache.arrow.stream")):
        with start_engine(database) as engine:
            before = resident_mib(engine.pid)
            watch_peak(engine.pid)
            started = time.perf_counter()
            found = [_take(engine.port, f"/v1/history/{kind}?{query}", media) for kind in Stream]
            seconds = time.perf_counter() - started
            peak = resident_mib(engine.pid, is_peak=True)
        taken, size = (sum(each) for each in zip(*found, strict=True))
        if not rows <= taken <= rows + 4 * pairs * len(Stream):
            raise OperatorError(f"{form} has {taken:,} rows where {rows:,} were written")
        note = f"engine {before:.0f} MiB before, peak {peak:.0f}: {peak - before:+.0f}"
        note += f" (limit {MOST_MIB:.0f}); {size / 1e6 / seconds:.0f} MB/s"
        on_row(Row(_PART, f"{taken:,} rows as {form}", taken / seconds, None, note=note))
        if peak - before > MOST_MIB:
            raise OperatorError(f"{form}: the engine's memory grew by {peak - before:.0f} MiB")


def _take(port: int, path: str, media: str) -> tuple[int, int]:
    """Return the rows and bytes of an answer, read in a process of its own."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_take_there, args=(there, port, path, media), daemon=True)
    process.start()
    there.close()
    return received(here, process)  # type: ignore[return-value]


def _take_there(answer: Connection, port: int, path: str, media: str) -> None:
    link = HTTPConnection("127.0.0.1", port)
    try:
        link.request("GET", path, headers={"Accept": media})
        reply = link.getresponse()
        if reply.status != 200:
            expect(path, reply.status, reply.read())
        counted = _Counted(reply)
        if media == "text/csv":
            rows = -1  # the header
            while piece := counted.read(_PIECE_BYTES):
                rows += piece.count(b"\n")
        else:
            with na.ArrayStream.from_readable(counted) as stream:
                rows = sum(len(batch) for batch in stream)
        answer.send((rows, counted.size))
    except (OperatorError, OSError, HTTPException) as error:
        answer.send(OperatorError(f"{media}: {error}"))


class _Counted:
    """An answer that counts its bytes as it is read."""

    def __init__(self, reply: HTTPResponse) -> None:
        self.size = 0
        self._reply = reply

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        piece = self._reply.read(size)
        self.size += len(piece)
        return piece

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer with the next bytes."""
        size = self._reply.readinto(buffer)
        self.size += size
        return size

    def close(self) -> None:
        """Leave the answer open; its connection ends with the process."""
