"""The parts of the benchmark, on an embedded PostgreSQL and engines of its own."""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wattstream.bench.answers import QUICK_SIZES, SIZES, measure_answers
from wattstream.bench.load import run_load
from wattstream.bench.payloads import DEVICES, Request, Shape, requests
from wattstream.bench.reference import copy_rate
from wattstream.bench.rows import Row
from wattstream.bench.wrk import is_installed, run_wrk
from wattstream.domain.errors import OperatorError
from wattstream.domain.units import MICRO, rfc3339
from wattstream.inputs.http import BATCH_PATH
from wattstream.settings import PREFIX
from wattstream.store.embedded import EmbeddedPostgres
from wattstream.store.postgres import migrate

__all__ = ["PARTS", "Bench", "Row", "description"]

PARTS = ("batch", "forms", "disorder", "single", "answers")
_EMPTY = """
import asyncio, uvicorn, uvloop
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b""})
config = uvicorn.Config(app, port=PORT, loop="none", http="httptools", ws="none", lifespan="off",
                        log_level="error", access_log=False)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(uvicorn.Server(config).serve())
"""


class Bench:
    """One run; `on_row` is called with each result as it comes."""

    def __init__(self, *, quick: bool, on_row: Callable[[Row], None]) -> None:
        self._minutes = 6 if quick else 24
        self._seconds = 4 if quick else 10
        self._sizes = QUICK_SIZES if quick else SIZES
        self._on_row = on_row
        self._next_s = 0

    def run(self, parts: tuple[str, ...]) -> None:
        """Measure some parts.

        Raises:
            OperatorError: A server does not start, or an answer was wrong.
        """
        folder = Path(tempfile.mkdtemp(prefix="wattstream-bench-"))
        folder.chmod(0o711)
        server = EmbeddedPostgres(folder)
        try:
            conninfo = server.start()
            migrate(conninfo)
            self._next_s = int(time.time()) // 60 * 60 - 300 * 86400
            copy = copy_rate(conninfo)
            self._on_row(Row("reference", "COPY, one connection, 10,000 rows a commit", copy, None))
            with _engine(conninfo) as port:
                # Devices, partitions and caches are there before anything is timed.
                run_load(port, self._requests(Shape(), 2), 4)
                for part, shape, connections, case in _CASES:
                    if part in parts:
                        self._load(part, port, shape, connections, case, copy)
                if "single" in parts:
                    self._singles(port, folder)
            if "answers" in parts:
                measure_answers(conninfo, _engine, self._sizes, self._seconds, self._on_row)
        finally:
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)

    def _requests(self, shape: Shape, minutes: int) -> list[Request]:
        built = requests(shape, self._next_s, minutes, BATCH_PATH)
        self._next_s += 60 * minutes
        return built

    def _load(  # noqa: PLR0917
        self, part: str, port: int, shape: Shape, connections: int, case: str, copy: float
    ) -> None:
        outcome = run_load(port, self._requests(shape, self._minutes), connections)
        acks = outcome.ack_s
        self._on_row(
            Row(
                part,
                f"{case}, {connections} connections",
                outcome.rate,
                outcome.rate / copy,
                1000 * acks[len(acks) // 2],
                1000 * acks[int(0.99 * (len(acks) - 1))],
                f"load generator {outcome.cpu_share:.0%} of a core",
            )
        )

    def _singles(self, port: int, folder: Path) -> None:
        if not is_installed():
            raise OperatorError("The part `single` needs wrk: apt-get install wrk, or --only batch")
        for connections in (64, 256, 1024):
            with _empty_server() as empty_port:
                empty = run_wrk(empty_port, connections, self._seconds, "x", folder)
            self._on_row(
                Row("single", f"empty 201, {connections} connections", empty.rate, None,
                    empty.p50_ms, empty.p99_ms)
            )  # fmt: skip
            start = rfc3339(self._next_s * MICRO).removesuffix("Z")
            self._next_s += 60
            found = run_wrk(port, connections, self._seconds, start, folder)
            self._on_row(
                Row(
                    "single",
                    f"one reading a request, {connections} connections",
                    found.rate,
                    found.rate / empty.rate,
                    found.p50_ms,
                    found.p99_ms,
                    f"{found.failures} failures" if found.failures else "",
                )
            )


_CASES = [
    ("batch", Shape(), 4, "JSON arrays of 5,000"),
    ("batch", Shape(), 16, "JSON arrays of 5,000"),
    ("forms", Shape(ndjson=True), 16, "NDJSON of 5,000"),
    ("forms", Shape(compress=True), 16, "gzip of 5,000"),
    ("forms", Shape(per_request=500), 16, "JSON arrays of 500"),
    ("disorder", Shape(late_share=0.1), 16, "10 % late"),
    ("disorder", Shape(duplicate_share=0.1), 16, "10 % sent twice"),
]


@contextmanager
def _engine(conninfo: str) -> Iterator[int]:
    """Run `wattstream serve` on the database; provide its port."""
    command = [sys.executable, "-m", "wattstream", "serve", "--port", "0"]
    environ = {f"{PREFIX}DATABASE_URL": conninfo, f"{PREFIX}LOG_LEVEL": "error"}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stderr is not None  # noqa: S101 - it was asked for
        log = []
        for line in process.stderr:
            log.append(line)
            if match := re.search(r"ready: http://[\d.]+:(\d+)", line):
                break
        else:
            raise OperatorError("The engine did not start:\n" + "".join(log))
        try:
            yield int(match[1])
        finally:
            process.terminate()
            process.stderr.read()
            process.wait()


@contextmanager
def _empty_server() -> Iterator[int]:
    """Run the same HTTP server with an application that reads the body and answers 201."""
    port = 20_000 + int(time.time() * 1000) % 30_000
    command = [sys.executable, "-c", _EMPTY.replace("PORT", str(port))]
    process = subprocess.Popen(command)  # noqa: S603
    try:
        time.sleep(1)
        yield port
    finally:
        process.terminate()
        process.wait()


def description() -> str:
    """Return what one simulated minute holds."""
    return f"{DEVICES:,} meters and {DEVICES:,} vehicles, a reading each a simulated minute"
