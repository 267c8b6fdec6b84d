"""What the engine counts of itself, in Prometheus form.

The rule: readings received = stored + duplicates + rejected, always.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_READINGS = (1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 200_000)


class Stats:
    """The counters of one engine; every name starts with `wattstream_`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
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
        self.queue = Gauge(
            "wattstream_queue_readings",
            "Readings that wait for a commit.",
            ["stream"],
            registry=self.registry,
        )
        self.flush_seconds = self._histogram(
            "flush_seconds", "From the start of a flush to its commit.", _SECONDS, "stream"
        )
        self.flush_readings = self._histogram(
            "flush_readings", "Readings of a flush.", _READINGS, "stream"
        )
        self.ack_seconds = self._histogram(
            "ack_seconds", "From a request's last byte to its answer.", _SECONDS
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"wattstream_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"wattstream_{name}", text, labels, buckets=buckets, registry=self.registry
        )
