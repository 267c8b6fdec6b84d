"""No answer, no look and no flush scans history: plans touch a day or two, by primary key."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

from wattstream.domain.readings import KINDS, Readings, Stream
from wattstream.domain.units import BUCKET_US, DAY_US, MICRO, MINUTE_US, NEVER_US, bucket_floor
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.connections import session_sql
from wattstream.store.postgres.flush import FlushWriter

DAYS, DEVICES = 20, 50
NOW = 1_770_631_200 * MICRO


@pytest.fixture(scope="module")
def connection(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """A database with some weeks of history, its statistics made when it was half full."""
    conninfo = request.getfixturevalue("embedded").make_database()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(session_sql(writes=True))
        arrays.register(connection)
        for stream in Stream:
            writer = FlushWriter(stream)
            for half in (range(DAYS // 2), range(DAYS // 2, DAYS)):
                for day in half:
                    writer.write(connection, writer.prepare(day_of_readings(stream, day), NOW))
                if 0 in half:
                    connection.execute("ANALYZE")
        yield connection


def day_of_readings(stream: Stream, day: int) -> Readings:
    minutes = np.tile(np.arange(0, 1440, 10), DEVICES)
    n = len(minutes)
    return Readings(
        stream,
        [f"D{i // 144}" for i in range(n)],
        NOW - (DAYS - day) * DAY_US + minutes * 60 * MICRO,
        np.arange(n),
        np.full((n, len(KINDS[stream].fields)), 20.0),
    )


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def plan_of(
    connection: psycopg.Connection[Any], file: str, name: str, stream: Stream, /, **params: object
) -> list[dict[str, Any]]:
    statement = statements.load(file, stream)[name]
    row = connection.execute(b"EXPLAIN (FORMAT JSON) " + statement, params).fetchone()
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
    return list(nodes(plan[0]["Plan"]))


def keys(*values: int) -> arrays.PgArray:
    return arrays.PgArray(np.array(values, np.int32))


def times(*values: int) -> arrays.PgArray:
    return arrays.PgArray(np.array(values), times=True)


def minutes(*values: int) -> arrays.PgArray:
    return arrays.PgArray((np.array(values) // MINUTE_US).astype(np.int32))


BUCKET = bucket_floor(NOW - 3 * 3600 * MICRO)
BOUNDS = {
    "first_at": arrays.time_param(BUCKET),
    "last_at": arrays.time_param(BUCKET + BUCKET_US),
}
RANGE = {
    "start_at": arrays.time_param(BUCKET),
    "end_at": arrays.time_param(BUCKET + BUCKET_US),
}
EDGES = {
    "left_at": arrays.time_param(BUCKET),
    "left_end_at": arrays.time_param(BUCKET + BUCKET_US),
    "right_at": arrays.time_param(NEVER_US),
    "right_end_at": arrays.time_param(NEVER_US),
    "left_minutes": arrays.minutes_param(BUCKET),
    "right_minutes": arrays.minutes_param(None),
}
FOUND = {
    "now": arrays.time_param(NOW), "silent": 3.0, "pattern": "%D1%", "shown": "all", "within": None
}  # fmt: skip
REJECTED = {
    "after": 0, "code": None, "of_stream": None, "device": "D1",
    "start_at": arrays.time_param(0), "end_at": arrays.time_param(NOW), "limit": 9,
}  # fmt: skip
CASES: list[tuple[str, str, dict[str, object]]] = [
    ("answers", "latest", {"device_id": 1}),
    ("answers", "window", {"device_id": 1, **RANGE, **EDGES}),
    ("answers", "span", {"device_id": 1, "bucket_at": RANGE["start_at"], **RANGE}),
    (
        "answers",
        "sums_within",
        {"device_id": keys(1, 2), "start_at": times(BUCKET, 0), "end_at": times(NOW, NOW)},
    ),
    (
        "answers",
        "bucket_readings",
        {"device_id": keys(1, 2), "bucket_at": times(BUCKET, BUCKET), **BOUNDS},
    ),
    ("answers", "bucket_carry", {"device_id": keys(1, 2), "bucket_at": times(BUCKET, BUCKET)}),
    ("answers", "newest", {}),
    ("fleet", "versions", {}),
    ("fleet", "links", {}),
    ("fleet", "twins", {}),
    ("fleet", "days", {"device_id": keys(1, 2, 3)}),
    (
        "fleet",
        "closed",
        {"device_id": keys(1, 2), "start_at": times(BUCKET, 0), "end_at": times(NOW, NOW)},
    ),
    ("answers", "device_count", {}),
    ("answers", "days", {}),
    ("answers", "rejection_count", {}),
    (
        "series",
        "reach",
        {"device_id": 1, "bucket_at": RANGE["start_at"], "end_at": RANGE["end_at"], "limit": 9},
    ),
    (
        "series",
        "readings",
        {
            "device_id": 1, "minutes": arrays.minutes_param(BUCKET), "bucket_at": RANGE["start_at"],
            **RANGE, "limit": 9,
        },
    ),
    ("series", "quarters", {"device_id": 1, **RANGE, "limit": 9}),
    ("registry", "labelled", {}),
    ("registry", "device", {"external_id": "D1"}),
    ("registry", "block_keys", {"ids": ["D1", "D2"]}),
    ("registry", "devices", {"after": "", "limit": 10}),
    ("flush", "lock", {"block": keys(8, 9, 10)}),
    ("flush", "live", {"device_id": keys(1, 2, 3)}),
    (
        "flush",
        "existing",
        {"device_id": keys(1, 2), "minute": minutes(BUCKET, BUCKET),
         "measured_at": times(BUCKET, BUCKET), **BOUNDS},
    ),
    ("recompute", "neighbours", {"device_id": keys(1), "bucket_at": times(BUCKET)}),
    ("recompute", "raw_buckets", {"device_id": keys(1), "bucket_at": times(BUCKET), **BOUNDS}),
    ("recompute", "raw_range", {"device_id": keys(1, 2), **RANGE}),
    ("recompute", "closed_range", {"device_id": keys(1, 2), **RANGE}),
    ("rules", "pending_of", {"device_id": keys(1, 2)}),
    ("rules", "closed_counts", {"device_id": 1, "start_at": RANGE["start_at"]}),
    ("falls", "held", {"device_id": keys(1), "first_at": times(BUCKET), "last_at": times(NOW)}),
    ("falls", "list", {"device_id": 1, "after": RANGE["start_at"], "limit": 9}),
    ("links", "of_vehicle", {"external_id": "D1", "same_id": True}),
    ("links", "overlapped", {"meter_id": 1, "link_id": 0, **RANGE}),
    ("rejections", "list", REJECTED),
    ("rejections", "list_newest", {**REJECTED, "after": 2**62}),
    ("rejections", "counts", {}),
    ("alerts", "list", {"before": 2**62, "state": "open", "kind": None, "stream": None,
                        "device": "D1", "limit": 9}),
    ("view", "versions", {}),
    ("view", "live_keyed", {"device_id": keys(1, 2)}),
    ("view", "live_named", {"ids": ["D1", "D2"]}),
    ("view", "search", {**FOUND, "sort": "energy", "sign": -1, "limit": 9, "offset": 0}),
    ("view", "search_count", FOUND),
    ("view", "reported", FOUND),
    ("view", "tallies", {"within": None}),
    ("view", "quarter_sums", {**RANGE, "within": None}),
    ("view", "search_count", {**FOUND, "within": keys(1, 2)}),
    ("view", "reported", {**FOUND, "within": keys(1, 2)}),
    ("view", "quarter_sums", {**RANGE, "within": keys(1, 2)}),
    ("registry", "reached", {"fleet": "north", "pattern": "D%"}),
    ("registry", "of_fleet", {"fleet": "north", "ids": ["D1", "D2"]}),
    ("watch", "live_states", {}),
    ("watch", "quarter_hours", RANGE),
]  # fmt: skip


@pytest.mark.parametrize("stream", Stream)
@pytest.mark.parametrize(
    ("file", "name", "params"), CASES, ids=[f"{file}-{name}" for file, name, _ in CASES]
)
def test_history_and_rollups_are_read_by_key_and_day(
    connection: psycopg.Connection[Any],
    file: str,
    name: str,
    params: dict[str, object],
    stream: Stream,
) -> None:
    plan = plan_of(connection, file, name, stream, **params)
    large = [
        node
        for node in plan
        if "_history" in node.get("Relation Name", "") or "_rollup" in node.get("Relation Name", "")
    ]
    partitions = {node["Relation Name"] for node in large if "_history" in node["Relation Name"]}
    assert len(partitions) <= 2
    for node in large:
        assert node["Node Type"] in ("Index Scan", "Index Only Scan"), node
        assert "device_id" in node["Index Cond"], node
        if "_history" in node["Relation Name"]:
            assert "minute" in node["Index Cond"], node
    # What else grows with time has an index for every question too.
    for node in plan:
        if node.get("Relation Name") in ("register_events", "rejections", "alerts"):
            assert node["Node Type"] in ("Index Scan", "Index Only Scan"), node
    if name in ("closed_counts", "quarter_sums", "quarter_hours"):
        assert large
    if name in (
        "window",
        "existing",
        "raw_buckets",
        "raw_range",
        "bucket_readings",
        "readings",
        "span",
    ):
        assert partitions


@pytest.mark.parametrize("stream", Stream)
def test_readings_are_looked_up_one_by_one_whatever_the_statistics_say(
    connection: psycopg.Connection[Any], stream: Stream
) -> None:
    at = np.arange(NOW - DAY_US, NOW, 10 * 60 * MICRO)
    plan = plan_of(
        connection,
        "flush",
        "existing",
        stream,
        device_id=keys(*([1] * len(at))),
        minute=minutes(*at),
        measured_at=times(*at),
        first_at=arrays.time_param(int(at[0])),
        last_at=arrays.time_param(int(at[-1])),
    )
    (loop,) = (node for node in plan if node["Node Type"] == "Nested Loop")
    assert loop["Plans"][0]["Node Type"] == "Function Scan"
