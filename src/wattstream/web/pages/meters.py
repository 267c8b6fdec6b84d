"""What the engine counts of itself, as a page shows it, and what it comes to."""

import math
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

_LATE_S = 300.0


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether ingest is healthy.

    Attributes:
        mood: good, warn, bad or none, as the style sheet knows them.
        word: What it is called.
        text: What that means.
    """

    mood: str
    word: str
    text: str


def verdict_of(work: Work, lag_p95_s: float | None) -> Verdict:
    """Return whether ingest is healthy.

    Args:
        work: What the engine counts.
        lag_p95_s: From measured to received, of 95 in 100 readings of the last minutes; None
            where none came.
    """
    failed = f"{work.failures:,} flushes were not committed since the engine started"
    if lag_p95_s is None and work.failures:
        return Verdict("bad", "failing", f"No reading is committed; {failed}. Its log says why.")
    if lag_p95_s is None:
        return Verdict("none", "quiet", "No reading came in the last five minutes.")
    if work.failures:
        text = f"Readings come in and are committed, but {failed}. Its log says why."
        return Verdict("warn", "recovered", text)
    if lag_p95_s > _LATE_S:
        text = "Readings come more than five minutes after they were measured."
        return Verdict("warn", "late", text)
    return Verdict("good", "healthy", "Readings come in and are committed.")


def work_of(text: str) -> Work:
    """Return the ingest from the text that Prometheus gets."""
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
