"""How the benchmark scores alerts: sessions, delays, false alarms."""

import numpy as np
import pytest

from wattstream.bench.detection import HEALTHY, Score, Size, measure_detection
from wattstream.bench.sessions import Sessions
from wattstream.domain.alerts import AlertKind
from wattstream.domain.units import BUCKET_US

CHARGING = "..##..###....#.."


def sessions_of(*charging: str) -> Sessions:
    sessions = Sessions()
    for quarter, row in enumerate(zip(*charging, strict=True)):
        dc_ukwh = np.array([500_000 if mark == "#" else 0 for mark in row])
        sessions.add(quarter * BUCKET_US, dc_ukwh)
    return sessions


@pytest.mark.parametrize(
    ("since", "count", "end"),
    [
        (0, 1, 4),
        (0, 2, 9),
        (2, 2, 9),  # as the first begins
        (3.5, 2, 9),  # within the first
        (4, 1, 9),  # as the first ends
        (4, 2, 14),
        (8.9, 2, 14),
        (9, 2, None),
        (14, 1, None),
    ],
)
def test_a_session_under_way_is_the_first(since: float, count: int, end: int | None) -> None:
    sessions = sessions_of("." * len(CHARGING), CHARGING)
    found = sessions.end_us(1, int(since * BUCKET_US), count)
    assert found == (None if end is None else end * BUCKET_US)


def test_the_rarest_vehicle_tells_how_often_all_charge() -> None:
    day = CHARGING.ljust(96, ".")
    assert sessions_of(day * 2, "#.".ljust(96, ".") * 2).least_a_day() == 1
    assert sessions_of(day).least_a_day() == 3


@pytest.mark.parametrize(
    ("kind", "found", "is_met"),
    [("low_efficiency", 4, False), ("low_efficiency", 5, True), (HEALTHY, 5, True),
     (HEALTHY, 6, False)],
)  # fmt: skip
def test_a_score_is_met_from_above_or_below(kind: str, found: int, is_met: bool) -> None:
    score = Score(1, kind, 6, found, 5, None)
    assert score.is_met is is_met
    assert score.as_json()["is_met"] is is_met


@pytest.mark.slow
def test_faults_are_injected_found_and_scored(bench_conninfo: str) -> None:
    scores: list[Score] = []
    size = Size(12, 5, {AlertKind.LOW_EFFICIENCY: 4}, learning_days=1, last_days=3)
    measure_detection(bench_conninfo, size, [7], scores.append)
    assert [(score.kind, score.cases, score.found) for score in scores] == [
        ("low_efficiency", 4, 4),
        (HEALTHY, 8, 0),
    ]
