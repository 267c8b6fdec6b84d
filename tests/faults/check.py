"""Whether a database holds what it must: plain SQL and plain Python, nothing of the engine.

Everything is read in one snapshot. Only the last step asks the engine, for its own opinion.
"""

from typing import Any

import httpx
import numpy as np
import psycopg

from faults.fleet import (
    ABSENT,
    DEVICES,
    MODULUS_UKWH,
    REGISTERS,
    STREAMS,
    Keys,
    Values,
    key_of,
    values,
)
from faults.load import Ledger
from truth import Judged, Rules, judge

_BUCKET_US = 900_000_000
_ATTEMPTS = 3
_KINDS = {"rollover": 1, "dip": 2, "reset": 3}
_FIELDS = {
    "meter": {"voltage": "voltage_v"},
    "vehicle": {"soc": "soc_percent", "battery_temp": "battery_temp_c"},
}
# A row of PostgreSQL's binary COPY: the number of columns, then each with its length before it.
_TYPES = (">i8", ">i8", ">i8", ">f8", ">f8")
_ROW = np.dtype(
    [("columns", ">i2")]
    + [
        field
        for i, kind in enumerate(_TYPES)
        for field in ((f"length{i}", ">i4"), (f"value{i}", kind))
    ]
)

_HISTORY = """
COPY (
    SELECT substr(external_id, 3)::int8, (extract(epoch FROM measured_at) * 1000000)::int8,
        energy_ukwh, {first}, {second}
    FROM {stream}_history JOIN devices USING (device_id)
) TO STDOUT (FORMAT binary)
"""
# Quarter-hours of history against those that are kept; of registers, all but the energy.
_BUCKETS = """
SELECT count(*) FROM (
    SELECT device_id, date_bin('15 min', measured_at, '2000-01-01') AS bucket_at,
        CASE WHEN energy_mode = 0 THEN sum(h.energy_ukwh) END AS energy_ukwh,
        count(*) AS readings, {of_history}
    FROM {stream}_history AS h JOIN {stream}_live AS l USING (device_id)
    GROUP BY device_id, energy_mode, bucket_at_of(measured_at)
) AS a FULL JOIN (
    SELECT device_id, r.bucket_at, CASE WHEN energy_mode = 0
        THEN r.energy_ukwh + r.suspect_ukwh END AS energy_ukwh, r.readings, {of_rollup}
    FROM {stream}_rollup AS r JOIN {stream}_live AS l USING (device_id)
    UNION ALL
    SELECT device_id, bucket_at, CASE WHEN energy_mode = 0
        THEN energy_ukwh + suspect_ukwh END, readings, {of_live}
    FROM {stream}_live WHERE readings > 0
) AS b USING (device_id, bucket_at)
WHERE (a.energy_ukwh, a.readings, {a}) IS DISTINCT FROM (b.energy_ukwh, b.readings, {b})
""".replace("bucket_at_of(measured_at)", "date_bin('15 min', measured_at, '2000-01-01')")
# The newest reading of each device against its live row.
_NEWEST = """
SELECT count(*) FROM {stream}_live AS l LEFT JOIN (
    SELECT DISTINCT ON (device_id) * FROM {stream}_history ORDER BY device_id, measured_at DESC
) AS h USING (device_id)
WHERE (coalesce(h.measured_at, '-infinity'), coalesce(h.energy_ukwh, 0), {h})
    IS DISTINCT FROM (last_at, last_ukwh, {l})
"""
_DAY_SUMS = """
SELECT count(*) FROM {stream}_live AS l LEFT JOIN LATERAL (
    SELECT coalesce(sum(r.energy_ukwh), 0) AS energy, coalesce(sum(r.suspect_ukwh), 0) AS suspect,
        coalesce(sum(r.readings), 0) AS readings, {sums}
    FROM {stream}_rollup AS r WHERE r.device_id = l.device_id
        AND r.bucket_at >= l.bucket_at - interval '23:45' AND r.bucket_at < l.bucket_at
) AS d ON true
WHERE (day_energy_ukwh, day_suspect_ukwh, day_readings, {day})
    IS DISTINCT FROM (d.energy, d.suspect, d.readings, {d})
"""
_KEYS = """
SELECT count(*) FROM {stream}_history
WHERE minute <> floor(extract(epoch FROM measured_at) / 60)
"""
_COUNTS = """
SELECT count(*) FROM (
    SELECT (measured_at AT TIME ZONE 'UTC')::date AS day, count(*) AS readings,
        min(measured_at) AS first_at, max(measured_at) AS last_at
    FROM {stream}_history GROUP BY 1
) AS a FULL JOIN (
    SELECT day, sum(readings) AS readings, min(first_at) AS first_at, max(last_at) AS last_at
    FROM history_days WHERE stream = '{stream}' GROUP BY 1
) AS b USING (day)
WHERE (a.readings, a.first_at, a.last_at) IS DISTINCT FROM (b.readings, b.first_at, b.last_at)
"""
# Registers: what is kept by quarter-hour, and the falls; judged in Python.
_REGISTER = """
SELECT (extract(epoch FROM bucket_at) * 1000000)::int8, energy_ukwh, suspect_ukwh
FROM (SELECT device_id, bucket_at, energy_ukwh, suspect_ukwh FROM {stream}_rollup
    UNION ALL SELECT device_id, bucket_at, energy_ukwh, suspect_ukwh FROM {stream}_live
    WHERE readings > 0) AS b
JOIN devices USING (device_id) WHERE stream = '{stream}' AND external_id = %s ORDER BY 1
"""
_FALLS = """
SELECT (extract(epoch FROM fell_at) * 1000000)::int8, kind FROM register_events
JOIN devices USING (device_id) WHERE stream = %s AND external_id = %s ORDER BY 1
"""


def check(conninfo: str, ledger: Ledger, url: str) -> tuple[int, list[str]]:
    """Compare a database at rest with what clients remember.

    Returns:
        How many readings it holds, and every mismatch in words; none is what is promised.
    """
    sent, acknowledged = ledger.sent(), ledger.acknowledged()
    problems = []
    held_keys = []
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute("SET LOCAL work_mem = '64MB'")
        for number, stream in enumerate(STREAMS):
            held, kept = _held(connection, number, stream, ledger.base_us)
            held_keys.append(held)
            if not _alike(kept, values(held)):
                problems.append(f"{stream}: a reading has other values than were sent")
            problems += _mismatches(connection, stream)
            problems += _register_mismatches(connection, number, stream, held, ledger.base_us)
    held = np.concatenate(held_keys)
    for what, keys in (
        ("acknowledged and lost", np.setdiff1d(acknowledged, held)),
        ("never sent and there", np.setdiff1d(held, sent)),
    ):
        if len(keys):
            problems.append(f"{len(keys)} readings {what}, such as {keys[:3].tolist()}")
    if len(np.unique(held)) != len(held):
        problems.append(f"{len(held) - len(np.unique(held))} readings are there twice")
    opinion = _recomputed(url)
    if opinion:
        problems.append(f"the engine's own recomputation: {opinion}")
    return len(held), problems


def _recomputed(url: str) -> str:
    """Let the engine recompute everything; return what it says where it repaired anything."""
    answers = []
    for _ in range(_ATTEMPTS):
        answers.append(
            httpx.post(
                f"{url}/v1/analytics/refresh",
                params={"start": "2000-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z"},
                timeout=300,
            )
        )
        # A connection that was idle while the database went away is found dead by its next use.
        if answers[-1].status_code != 503:
            break
    if answers[-1].is_success and answers[-1].json()["bucketsRepaired"] == 0:
        return ""
    return answers[-1].text


def _held(
    connection: psycopg.Connection[Any], number: int, stream: str, base_us: int
) -> tuple[Keys, Values]:
    """Return the keys of all readings held, and their values."""
    columns = [f"coalesce({column}, {ABSENT})" for column in _FIELDS[stream].values()]
    columns += [f"{ABSENT}::float8"] * (2 - len(columns))
    statement = _HISTORY.format(stream=stream, first=columns[0], second=columns[1])
    with connection.cursor().copy(statement.encode()) as copy:
        data = b"".join(copy)
    # A header of 19 bytes and an end of 2; every row has the same length.
    rows = np.frombuffer(data, _ROW, offset=19, count=(len(data) - 21) // _ROW.itemsize)
    at_ms, rest = np.divmod(rows["value1"].astype(np.int64) - base_us, 1000)
    if rest.any():
        raise AssertionError("a time is not one that was sent")
    keys = key_of(number, rows["value0"].astype(np.int64), at_ms)
    kept = Values(
        rows["value2"].astype(np.int64), rows["value3"].astype(float), rows["value4"].astype(float)
    )
    return keys, kept


def _alike(a: Values, b: Values) -> bool:
    return all(
        np.array_equal(x, y)
        for x, y in (
            (a.energy_ukwh, b.energy_ukwh),
            (a.first, b.first),
            (a.second, b.second),
        )
    )


def _mismatches(connection: psycopg.Connection[Any], stream: str) -> list[str]:
    fields = _FIELDS[stream]

    def each(form: str) -> str:
        return ", ".join(form.format(name=name, column=column) for name, column in fields.items())

    sums = "coalesce(sum(round({column} * 1e6)), 0) AS {name}_sum, count({column}) AS {name}_count"
    kept = "{name}_sum_micro AS {name}_sum, {name}_count"
    statements = {
        "quarter-hours differ from history": _BUCKETS.format(
            stream=stream,
            of_history=each(sums.replace("{column}", "h.{column}")),
            of_rollup=each("r.{name}_sum_micro AS {name}_sum, r.{name}_count"),
            of_live=each(kept),
            a=each("a.{name}_sum, a.{name}_count"),
            b=each("b.{name}_sum, b.{name}_count"),
        ),
        "live rows are not the newest reading": _NEWEST.format(
            stream=stream, h=each("h.{column}"), l=each("l.{column}")
        ),
        "live rows have wrong sums of their day": _DAY_SUMS.format(
            stream=stream,
            sums=each(
                "coalesce(sum(r.{name}_sum_micro), 0) AS {name}_sum,"
                " coalesce(sum(r.{name}_count), 0) AS {name}_count"
            ),
            day=each("day_{name}_sum_micro, day_{name}_count"),
            d=each("d.{name}_sum, d.{name}_count"),
        ),
        "days are counted wrong": _COUNTS.format(stream=stream),
        "keys of history name another minute": _KEYS.format(stream=stream),
    }
    found = []
    for what, statement in statements.items():
        (count,) = connection.execute(statement.encode()).fetchone() or (0,)
        if count:
            found.append(f"{stream}: {count} {what}")
    return found


def _register_mismatches(
    connection: psycopg.Connection[Any], number: int, stream: str, held: Keys, base_us: int
) -> list[str]:
    found = []
    for device in range(min(REGISTERS, DEVICES)):
        first, last = key_of(number, device, 0), key_of(number, device + 1, 0)
        keys = np.sort(held[(held >= first) & (held < last)])
        times = ((keys - first) * 1000 + base_us).tolist()
        rules = Rules(is_register=True, modulus=modulus_of(device))
        energy = values(keys).energy_ukwh.tolist()
        judged = judge(rules, list(zip(times, energy, strict=True)))
        name = f"T-{device}"
        kept = connection.execute(_REGISTER.format(stream=stream).encode(), [name]).fetchall()
        if kept != _by_bucket(judged):
            found.append(f"{stream} {name}: quarter-hours differ from the readings' rules")
        falls = connection.execute(_FALLS, [stream, name]).fetchall()
        if falls != [(one.at, _KINDS[one.fall]) for one in judged if one.fall]:
            found.append(f"{stream} {name}: falls differ from the readings' rules")
    return found


def modulus_of(device: int) -> int | None:
    """Return where a register begins again by its rules: every other one has none."""
    return MODULUS_UKWH if device % 2 else None


def _by_bucket(judged: list[Judged]) -> list[tuple[int, int, int]]:
    sums: dict[int, list[int]] = {}
    for one in judged:
        bucket = sums.setdefault(one.at // _BUCKET_US * _BUCKET_US, [0, 0])
        bucket[0] += one.counted
        bucket[1] += one.suspect
    return [(at, counted, suspect) for at, (counted, suspect) in sorted(sums.items())]
