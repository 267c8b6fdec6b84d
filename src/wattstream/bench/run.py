"""The parts of the benchmark, on an embedded PostgreSQL and engines of its own."""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psycopg

from wattstream.bench.answers import QUICK_SIZES, ROUNDS, SIZES, measure_answers
from wattstream.bench.beats import BEATS_A_MINUTE, beats
from wattstream.bench.costs import measure_costs
from wattstream.bench.detection import FULL, QUICK, SEEDS, Score, measure_detection
from wattstream.bench.engine import Engine, empty_server, make_database, run_engine
from wattstream.bench.export import QUICK_ROWS, ROWS, measure_export
from wattstream.bench.guarded import measure_keys
from wattstream.bench.load import Outcome, run_load, together
from wattstream.bench.memory import sampled
from wattstream.bench.payloads import DEVICES, Request, Shape, moved, requests
from wattstream.bench.reference import RUNS, copy_once, copy_rate
from wattstream.bench.rows import Row
from wattstream.bench.viewers import measure_viewers
from wattstream.bench.wrk import Singles, is_installed, run_wrk
from wattstream.domain.errors import OperatorError
from wattstream.domain.units import MICRO, rfc3339
from wattstream.inputs.http import BATCH_PATH
from wattstream.store.embedded import EmbeddedPostgres
from wattstream.store.postgres import migrate

__all__ = ["DETECTION", "PARTS", "USUAL", "Bench", "Row", "Score", "description"]


class _Case(NamedTuple):
    """What is sent to compare its rate with the reference."""

    part: str
    shape: Shape
    connections: int
    words: str


_CASES = [
    _Case("batch", Shape(), 4, "JSON arrays of 5,000"),
    _Case("batch", Shape(), 16, "JSON arrays of 5,000"),
    _Case("forms", Shape(ndjson=True), 16, "NDJSON of 5,000"),
    _Case("forms", Shape(compress=True), 16, "gzip of 5,000"),
    _Case("forms", Shape(per_request=500), 16, "JSON arrays of 500"),
    _Case("disorder", Shape(late_share=0.1), 16, "10 % late"),
    _Case("disorder", Shape(duplicate_share=0.1), 16, "10 % sent twice"),
]
USUAL = (
    *("batch", "forms", "disorder", "backlog", "registers", "single"),
    *("mixed", "million", "keys", "costs", "answers", "export", "viewers", "memory"),
)
DETECTION = "detection"
PARTS = (*USUAL, DETECTION)
"""What can be measured; the last does not measure speed, and runs only where it is asked for."""
_LOG_FILES, _QUICK_LOG_FILES = 320, 48  # of 16 MiB
_TEMPLATE_MINUTES = 24
_LOADS = "wattstream_loads"
_SETTLE_S = 20.0
_SINGLES = (64, 256, 1024)
_WRK_RUNS, _WRK_S = 3, 8  # long enough that opening 1,024 connections is little of it
_VACUUMS = "SELECT FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' LIMIT 1"
_REGISTERS = """
UPDATE {stream}_live SET energy_mode = 1, version = version + 1
WHERE device_id IN (SELECT device_id FROM devices WHERE external_id LIKE '{prefix}%%')
"""


class Bench:
    """One run; `on_row` and `on_score` are called with each result as it comes."""

    def __init__(
        self, *, quick: bool, on_row: Callable[[Row], None], on_score: Callable[[Score], None]
    ) -> None:
        self._is_quick = quick
        self._minutes = 6 if quick else 24
        self._seconds = 4 if quick else 10
        self._on_row = on_row
        self._on_score = on_score
        self._next_s = int(time.time()) // 60 * 60 - 300 * 86400
        self._copy = 0.0

    def run(self, parts: tuple[str, ...]) -> None:
        """Measure some parts.

        Raises:
            OperatorError: This machine lacks what a part needs, a server does not start, or an
                answer was wrong.
        """
        if "single" in parts and not is_installed():
            raise OperatorError(
                "The part `single` needs wrk: apt-get install wrk, or choose --only"
            )
        for part in {"export", "memory", "viewers"} & set(parts):
            if not Path("/proc/self/smaps_rollup").exists():
                raise OperatorError(f"The part `{part}` needs Linux; choose others with --only")
        folder = Path(tempfile.mkdtemp(prefix="wattstream-bench-"))
        folder.chmod(0o711)
        server = EmbeddedPostgres(folder)
        try:
            server.start()
            conninfo = server.superuser_conninfo  # parts make databases, and read the log's place
            migrate(conninfo)
            if set(parts) - {DETECTION}:
                self._speed(parts, server, conninfo, folder)
            if DETECTION in parts:
                size, seeds = (QUICK, SEEDS[:1]) if self._is_quick else (FULL, SEEDS)
                measure_detection(conninfo, size, seeds, self._on_score)
        finally:
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)

    def _speed(
        self, parts: tuple[str, ...], server: EmbeddedPostgres, conninfo: str, folder: Path
    ) -> None:
        _make_log_files(conninfo, _QUICK_LOG_FILES if self._is_quick else _LOG_FILES)
        self._copy = copy_rate(conninfo)
        case = "COPY, one connection, 10,000 rows a commit"
        self._on_row(Row("reference", case, self._copy, None))
        two = copy_rate(conninfo, 2)
        case, note = "the same, two connections at once", "what two cores do of one's work"
        self._on_row(Row("reference", case, two, two / self._copy, note=note))
        # Gone before the next parts, which neither vacuum it nor look after its million devices.
        loads = make_database(conninfo, _LOADS)
        with run_engine(loads) as engine:
            self._measure(parts, engine, loads, folder)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {_LOADS} WITH (FORCE)".encode())
        if "costs" in parts:
            self._costs(conninfo)
        if "answers" in parts:
            sizes = QUICK_SIZES if self._is_quick else SIZES
            rounds = 1 if self._is_quick else ROUNDS
            measure_answers(conninfo, run_engine, sizes, self._seconds, self._on_row, rounds=rounds)
        if "export" in parts:
            rows = QUICK_ROWS if self._is_quick else ROWS
            measure_export(conninfo, run_engine, rows, self._on_row)
        if "viewers" in parts:
            assert server.pid is not None  # noqa: S101 - it runs
            rounds = 3 if self._is_quick else 7
            measure_viewers(conninfo, server.pid, run_engine, self._on_row, rounds=rounds)
        if "keys" in parts:
            rounds = 2 if self._is_quick else 5
            measure_keys(conninfo, run_engine, self._copy, self._on_row, rounds=rounds)
        if "memory" in parts:
            with run_engine(conninfo) as engine:
                self._memory(engine, server)

    def _measure(self, parts: tuple[str, ...], engine: Engine, conninfo: str, folder: Path) -> None:
        # Devices, partitions and caches are there before anything is timed.
        run_load(engine.port, self._requests(Shape(), 2), 4)
        for case in _CASES:
            if case.part in parts:
                self._in_turns(engine, conninfo, case, self._minutes)
        if "backlog" in parts:
            self._backlog(engine, Shape(devices=DEVICES // 2, prefix="B"), "devices")
            shape = Shape(devices=DEVICES // 2, prefix="C", is_register=True)
            self._make_registers(engine, conninfo, shape)
            self._backlog(engine, shape, "registers")
        if "registers" in parts:
            shape = Shape(prefix="R", is_register=True)
            self._make_registers(engine, conninfo, shape)
            case = _Case("registers", shape, 16, "register devices")
            self._in_turns(engine, conninfo, case, self._minutes)
        if "single" in parts:
            self._singles(engine, folder)
        if "mixed" in parts:
            self._mixed(engine)
        if "million" in parts:
            self._million(engine, conninfo)

    def _requests(self, shape: Shape, minutes: int) -> list[Request]:
        built = requests(shape, self._next_s, minutes, BATCH_PATH)
        self._next_s += 60 * minutes
        return built

    def _in_turns(self, engine: Engine, conninfo: str, case: _Case, minutes: int) -> None:
        """Send some loads, with runs of the reference before, between and after them.

        The machine may be half as fast a moment later, so both are measured at the same time.
        """
        _settle(conninfo)
        copies = [copy_once(conninfo)]
        outcomes = []
        for _ in range(1 if self._is_quick else RUNS - 1):
            built = self._requests(case.shape, minutes)
            outcomes.append(run_load(engine.port, built, case.connections))
            _settle(conninfo)
            copies.append(copy_once(conninfo))
        copy = statistics.median(copies)
        words = f"{case.words}, {case.connections} connections"
        note = f"COPY in turns {copy:,.0f}/s"
        self._loaded(case.part, words, together(outcomes), copy, note)

    def _loaded(self, part: str, case: str, outcome: Outcome, copy: float, note: str) -> None:
        acks = outcome.ack_s
        self._on_row(
            Row(
                part,
                case,
                outcome.rate,
                outcome.rate / copy,
                1000 * acks[len(acks) // 2],
                1000 * acks[int(0.99 * (len(acks) - 1))],
                f"{note}; load generator {outcome.cpu_share:.0%} of a core",
            )
        )

    def _make_registers(self, engine: Engine, conninfo: str, shape: Shape) -> None:
        run_load(engine.port, self._requests(shape, 1), 4)
        with psycopg.connect(conninfo) as connection:
            for stream in ("meter", "vehicle"):
                sql = _REGISTERS.format(stream=stream, prefix=shape.prefix)
                connection.execute(sql.encode())

    def _backlog(self, engine: Engine, shape: Shape, what: str) -> None:
        """Send a day of 10,000 devices in order, and another one newest first."""
        blocks = (2 if self._is_quick else 24) * 60 // _TEMPLATE_MINUTES
        block_s = 60 * _TEMPLATE_MINUTES
        seconds = []
        for step, order in ((1, "in order"), (-1, "newest first")):
            first_s = self._next_s
            self._next_s += block_s * blocks
            outcomes = []
            for block in range(blocks)[::step]:
                start_s = first_s + block_s * block
                built = requests(shape, start_s, _TEMPLATE_MINUTES, BATCH_PATH)
                outcomes.append(run_load(engine.port, built[::step], 16))
            seconds.append(sum(outcome.seconds for outcome in outcomes))
            rate = sum(outcome.readings for outcome in outcomes) / seconds[-1]
            note = f"{seconds[-1] / seconds[0]:.2f} times as long as in order"
            case = f"{blocks * block_s // 3600} h of {DEVICES:,} {what}, {order}"
            self._on_row(Row("backlog", case, rate, rate / self._copy, note=note))

    def _million(self, engine: Engine, conninfo: str) -> None:
        devices = DEVICES if self._is_quick else 500_000
        shape = Shape(devices=devices, prefix="L")
        run_load(engine.port, self._requests(shape, 1), 4)
        case = _Case("million", shape, 16, f"{2 * devices:,} devices, arrays of 5,000")
        self._in_turns(engine, conninfo, case, 1)

    def _singles(self, engine: Engine, folder: Path) -> None:
        """Send readings one by one, in turns with a server that answers nothing."""
        empty: dict[int, list[Singles]] = {connections: [] for connections in _SINGLES}
        found: dict[int, list[Singles]] = {connections: [] for connections in _SINGLES}
        for _ in range(1 if self._is_quick else _WRK_RUNS):
            for connections in _SINGLES:
                with empty_server() as port:
                    empty[connections].append(run_wrk(port, connections, _WRK_S, "x", folder))
                start = rfc3339(self._next_s * MICRO).removesuffix("Z")
                self._next_s += 60
                found[connections].append(run_wrk(engine.port, connections, _WRK_S, start, folder))
        for connections in _SINGLES:
            failures = sum(one.failures for one in found[connections])
            reference = None
            for case, taken, note in (
                ("empty 201", empty[connections], ""),
                ("one reading a request", found[connections], f"{failures} failures"),
            ):
                rate = statistics.median(one.rate for one in taken)
                self._on_row(
                    Row(
                        "single",
                        f"{case}, {connections} connections",
                        rate,
                        rate / reference if reference else None,
                        statistics.median(one.p50_ms for one in taken),
                        statistics.median(one.p99_ms for one in taken),
                        note,
                    )
                )
                reference = rate

    def _mixed(self, engine: Engine) -> None:
        built = self._requests(Shape(), self._minutes)
        with beats(engine.port, DEVICES) as beaten:
            outcome = run_load(engine.port, built, 16)
        case = "arrays of 5,000 beside heartbeats, 16 connections"
        self._loaded("mixed", case, outcome, self._copy, f"COPY before {self._copy:,.0f}/s")
        self._on_row(
            Row(
                "mixed",
                f"heartbeats beside them, {BEATS_A_MINUTE:,} a minute",
                beaten[0].rate,
                None,
                1000 * beaten[0].at(0.5),
                1000 * beaten[0].at(0.99),
                "timed from when due",
            )
        )

    def _costs(self, conninfo: str) -> None:
        database = make_database(conninfo, "wattstream_costs")
        built = self._requests(Shape(), 2 * self._minutes)
        measure_costs(database, built, 2 * DEVICES, self._on_row)

    def _memory(self, engine: Engine, server: EmbeddedPostgres) -> None:
        """Saturate an engine for ten minutes; its memory at the end is that of the beginning."""
        seconds = 30 if self._is_quick else 600
        started = time.monotonic()
        assert server.pid is not None  # noqa: S101 - it runs
        with sampled(engine.pid, server.pid) as samples:
            template = requests(Shape(), 0, _TEMPLATE_MINUTES, BATCH_PATH)
            outcomes = []
            while time.monotonic() - started < seconds:
                built = moved(template, _TEMPLATE_MINUTES, self._next_s)
                self._next_s += 60 * _TEMPLATE_MINUTES
                outcomes.append(run_load(engine.port, built, 16))
        rate = sum(done.readings for done in outcomes) / sum(done.seconds for done in outcomes)
        for name, taken in (("engine", samples.engine), ("database", samples.database)):
            first, last = taken[: len(taken) // 10], taken[-len(taken) // 10 :]
            note = f"peak {max(taken):.0f} MiB; first tenth of the time up to {max(first):.0f}, "
            note += f"last tenth up to {max(last):.0f}"
            self._on_row(Row("memory", f"{name}, {seconds} s saturated", rate, None, note=note))


def _settle(conninfo: str) -> None:
    """Let the server end what a load leaves behind, so that the reference does not pay for it."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        until_s = time.monotonic() + _SETTLE_S
        while connection.execute(_VACUUMS).fetchone() and time.monotonic() < until_s:
            time.sleep(0.1)


def _make_log_files(conninfo: str, files: int) -> None:
    """Make files of the write-ahead log ahead, as a server that has run for a while has them.

    A new one is filled with zeros in the middle of a commit, one that is used again is not.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET min_wal_size = '5GB'")
        connection.execute("SELECT pg_reload_conf()")
        for _ in range(files):
            connection.execute("SELECT pg_logical_emit_message(true, 'bench', '')")
            connection.execute("SELECT pg_switch_wal()")
        connection.execute("CHECKPOINT")


def description() -> str:
    """Return what one simulated minute holds."""
    return f"{DEVICES:,} meters and {DEVICES:,} vehicles, a reading each a simulated minute"
