"""What the engine counts of itself, in Prometheus form.

The rule: readings received = stored + duplicates + rejected, always.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

import wattstream
from wattstream.domain.alerts import AlertKind
from wattstream.domain.readings import Stream

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LAG_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600, 21_600, 86_400, 604_800)
_READINGS = (1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 200_000)


@dataclass(frozen=True, slots=True)
class Shared:
    """Counters that several processes add up in the files of a folder.

    The files bear the number of their worker, not its process id: one that is started again
    counts on from where the one before it was killed, and the files do not become more.
    """

    folder: Path
    number: int

    def use(self) -> None:
        """Let every counter that this process makes from now on be a shared one."""
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self.folder)
        values.ValueClass = values.MultiProcessValue(lambda: self.number)  # type: ignore[no-untyped-call]

    def forget_gauges(self) -> None:
        """Take out what a worker that has ended no longer has: the readings in its queue."""
        mark_process_dead(self.number, str(self.folder))  # type: ignore[no-untyped-call]


class Stats:
    """The counters of one engine; every name starts with `wattstream_`.

    Args:
        shared: Where the engine is one of several workers; None where it is alone.
    """

    def __init__(self, shared: Shared | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = self._shown = CollectorRegistry()
        if shared is not None:
            shared.use()
            self._shown = CollectorRegistry()
            MultiProcessCollector(self._shown, str(shared.folder))  # type: ignore[no-untyped-call]
        self.received = self._counter("readings_received", "Readings in answered requests.")
        self.stored = self._counter("readings_stored", "Readings stored.", "stream")
        self.duplicates = self._counter(
            "readings_duplicate", "Readings that were there already.", "stream"
        )
        self.rejected = self._counter("readings_rejected", "Readings refused.", "code")
        self.requests = self._counter("ingest_requests", "Ingest requests by status.", "status")
        self.flush_failures = self._counter(
            "flush_failures", "Flushes that were not committed.", "stream"
        )
        self.queue = self._gauge("queue_readings", "Readings that wait for a commit.", "stream")
        self.alerts_open = self._gauge(
            "alerts_open", "Alerts that are not resolved, as the last look found them.", "kind"
        )
        self._pool = self._gauge(
            "pool_connections", "Database connections that answer queries.", "state"
        )
        self._pool_waiting = self._gauge(
            "pool_waiting_requests", "Requests that wait for a database connection."
        )
        self._partitions = self._gauge(
            "history_partitions", "Daily partitions of history.", "stream"
        )
        self._database_bytes = self._gauge("database_size_bytes", "Size of the database on disk.")
        build = Gauge(
            "wattstream_build_info",
            "What runs; always 1.",
            ["version", "python"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        build.labels(wattstream.__version__, platform.python_version()).set(1)
        self.flush_seconds = self._histogram(
            "flush_seconds", "From the start of a flush to its commit.", _SECONDS, "stream"
        )
        self.flush_stage_seconds = self._histogram(
            "flush_stage_seconds", "Parts of a flush's time.", _SECONDS, "stream", "stage"
        )
        self.flush_readings = self._histogram(
            "flush_readings", "Readings of a flush.", _READINGS, "stream"
        )
        self.lag_seconds = self._histogram(
            "lag_seconds",
            "From when a reading of a flush was measured to its commit.",
            _LAG_SECONDS,
            "stream",
            "reading",
        )
        self.ack_seconds = self._histogram(
            "ack_seconds", "From a request's last byte to its answer.", _SECONDS
        )

    def show_alerts(self, counts: Mapping[AlertKind, int]) -> None:
        """Show how many alerts of each kind are open."""
        for kind, count in counts.items():
            self.alerts_open.labels(kind).set(count)

    def show_pool(self, *, busy: int, idle: int, waiting: int) -> None:
        """Show this engine's connections that answer, and how many requests wait for one."""
        self._pool.labels("busy").set(busy)
        self._pool.labels("idle").set(idle)
        self._pool_waiting.set(waiting)

    def show_database(self, size_bytes: int, partitions: Mapping[Stream, int]) -> None:
        """Show what the database holds; by one engine for all workers."""
        self._database_bytes.set(size_bytes)
        for stream, count in partitions.items():
            self._partitions.labels(stream).set(count)

    def text(self) -> bytes:
        """Return all of it as Prometheus text: of all workers, where there are several."""
        return generate_latest(self._shown)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"wattstream_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Return a gauge that is the sum over all workers that live."""
        return Gauge(
            f"wattstream_{name}",
            text,
            labels,
            registry=self.registry,
            multiprocess_mode="livesum",
        )

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"wattstream_{name}", text, labels, buckets=buckets, registry=self.registry
        )
