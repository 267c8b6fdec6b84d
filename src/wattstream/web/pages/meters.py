"""What the engine counts of itself, as a page shows it: read from the text that Prometheus gets."""

import math
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Work:
    """The ingest of this engine, or of all its workers together.

    Attributes:
        queue: Readings that wait for a commit.
        received: Readings in answered requests since the start.
        rejected: Those of them that were refused.
        failures: Flushes that were not committed since the start.
        ack_p95_s: 95 of 100 requests since the start were answered within this time; None
            before the first, infinite beyond the largest bucket.
    """

    queue: int
    received: int
    rejected: int
    failures: int
    ack_p95_s: float | None


def work_of(text: str) -> Work:
    """Return the ingest from its metrics."""
    sums: dict[str, float] = {}
    acks: list[tuple[float, float]] = []
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
            if sample.name == "wattstream_ack_seconds_bucket":
                acks.append((float(sample.labels["le"]), sample.value))

    def count(name: str) -> int:
        return int(sums.get(f"wattstream_{name}", 0))

    return Work(
        queue=count("queue_readings"),
        received=count("readings_received_total"),
        rejected=count("readings_rejected_total"),
        failures=count("flush_failures_total"),
        ack_p95_s=_within(acks, 0.95),
    )


def _within(buckets: list[tuple[float, float]], share: float) -> float | None:
    """Return the bound of the bucket that a share of all falls within."""
    total = max((count for _, count in buckets), default=0.0)
    if total == 0:
        return None
    return min((bound for bound, count in buckets if count >= share * total), default=math.inf)
