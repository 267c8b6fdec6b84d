"""The loader of named SQL statements.

A file holds statements, each after a line `-- name: …`. Placeholders in braces stand for
names and column lists that follow from a stream's shape.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

import numpy as np

from wattstream.domain.readings import KINDS, Stream
from wattstream.domain.register import RULE_COLUMNS
from wattstream.domain.rollup import (
    CARRY,
    DAY_BUCKETS,
    HOT_TIMES,
    WARM,
    bucket_columns,
    day_columns,
    hot_numbers,
    state_columns,
    sum_columns,
)
from wattstream.store.postgres.arrays import is_time

_FOLDER = resources.files("wattstream.store.postgres") / "sql"
_TYPES = {"int16": "int2", "int32": "int4", "int64": "int8", "float64": "float8"}


def migrations() -> list[tuple[int, str, str]]:
    """Return (number, name, SQL) of every migration, in order."""
    files = sorted((_FOLDER / "migrations").iterdir(), key=lambda file: file.name)
    return [
        (int(file.name[:4]), file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in files
        if file.name.endswith(".sql")
    ]


@cache
def load(file: str, stream: Stream | None = None) -> dict[str, bytes]:
    """Return the statements of `sql/<file>.sql` by name, filled in for a stream."""
    text = (_FOLDER / f"{file}.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], map(_comments_removed, parts[2::2]), strict=True))
    if stream is not None:
        names = _placeholders(stream)
        for name, body in found.items():  # a statement may stand in one after it, by its name
            found[name] = names[name] = body.strip().format_map(names)
    return {name: body.strip().encode() for name, body in found.items()}


def _comments_removed(body: str) -> str:
    return re.sub(r"^\s*--.*\n", "", body, flags=re.MULTILINE)


def _placeholders(stream: Stream) -> dict[str, str]:
    """Return what each placeholder of the files stands for."""
    kind = KINDS[stream]
    state, bucket = state_columns(stream), bucket_columns(stream)
    fields = [field.column for field in kind.fields]
    rules = [name for name, _ in RULE_COLUMNS]
    types = dict(state)
    warm = dict([*((name, types[name]) for name in WARM), *day_columns(stream)])
    state_names, bucket_names = [name for name, _ in state], [name for name, _ in bucket]
    live_names = ["device_id", *rules, *state_names]
    added = sum_columns(stream)
    sums = [name for name in sum_columns(stream) if name.endswith(("_micro", "_count"))]
    return {
        "stream": stream.value,
        "fields": ", ".join(fields),
        "field_rows": _rows(dict.fromkeys(fields, np.float64)),
        "field_nulls": ", ".join(f"nullif({name}, 'NaN') AS {name}" for name in fields),
        "field_aggregates": ", ".join(f"array_agg(coalesce({name}, 'NaN'))" for name in fields),
        "live_names": ", ".join(live_names),
        "live_aggregates": ", ".join(_aggregate(name, fields) for name in live_names),
        "rule_names": ", ".join(f"l.{name}" for name in rules),
        "rule_aggregates": ", ".join(f"array_agg({n})" for n in ("device_id", *rules, *CARRY)),
        "carry_names": ", ".join(CARRY),
        "carry_values": ", ".join(_carry(name) for name in CARRY),
        "state_rows": _rows(types),
        "state_assignments": ", ".join(_assignment(name, fields) for name in state_names),
        "hot_numbers": str(len(HOT_TIMES) + len(hot_numbers(stream))),
        "hot_fields": str(len(fields)),
        "warm_rows": _rows(warm),
        "warm_assignments": ", ".join(_assignment(name, fields) for name in WARM),
        "bucket_names": ", ".join(bucket_names),
        "bucket_rows": _rows(dict(bucket)),
        "bucket_values": ", ".join(_bucket_value(name) for name in bucket_names),
        "bucket_aggregates": ", ".join(_bucket_aggregate(name) for name in bucket_names),
        "bucket_replaced": ", ".join(
            f"{name} = excluded.{name}" for name in bucket_names if name != "bucket_at"
        ),
        "bucket_added": ", ".join(
            f"{name} = r.{name} + excluded.{name}" for name in sum_columns(stream)
        ),
        "day_changes": ", ".join(
            f"day_{name} = l.day_{name} + u.day_{name} - coalesce(x.{name}, 0)" for name in added
        ),
        "day_values": ", ".join(f"day_{name} = d.{name}" for name in added),
        # Of a column `bucket_at`, a bucket start.
        "minutes_of_bucket": "ARRAY(SELECT generate_series(m, m + 14)"
        " FROM (SELECT (extract(epoch FROM bucket_at) / 60)::int4 AS m) AS first_minute)",
        "day_length": f"interval '{DAY_BUCKETS * 15} minutes'",
        "day_columns": ", ".join(f"day_{name}" for name in added),
        "day_names": ", ".join(f"l.day_{name}" for name in added),
        "day_sums": ", ".join(f"d.{name}" for name in added),
        "bucket_sums": ", ".join(
            f"coalesce(sum(r.{name}), 0)::{_TYPES[types[name].__name__]} AS {name}"
            for name in added
        ),
        "closed_sums": ", ".join(f"coalesce(sum(r.{name}), 0)::int8 AS {name}" for name in added),
        "open_day_aggregates": ", ".join(
            f"array_agg(({name} + day_{name})::int8)" for name in added
        ),
        "sum_aggregates": ", ".join(f"array_agg({name})" for name in added),
        "sum_names": ", ".join(sum_columns(stream)),
        "measured_sums": "".join(f", coalesce(sum({name}), 0)::int8" for name in sums),
    }


def _rows(columns: Mapping[str, type]) -> str:
    """Return columns for a SELECT list that makes a row of each position of array parameters.

    There, unlike in FROM, PostgreSQL does not keep a copy of every column on the way.
    """
    return ", ".join(_unnested(name, scalar) for name, scalar in columns.items())


def _unnested(name: str, scalar: type) -> str:
    sql_type = "timestamptz" if is_time(name) else _TYPES[scalar.__name__]
    return f"unnest(%({name})s::{sql_type}[]) AS {name}"


def _aggregate(name: str, nullable: list[str]) -> str:
    return f"array_agg(coalesce({name}, 'NaN'))" if name in nullable else f"array_agg({name})"


def _assignment(name: str, nullable: list[str]) -> str:
    return f"{name} = nullif(u.{name}, 'NaN')" if name in nullable else f"{name} = u.{name}"


def _bucket_value(name: str) -> str:
    """Return a bucket's column as it is inserted: no carry is null."""
    if name not in CARRY:
        return name
    return f"CASE WHEN {name.partition('_')[0]}_at > '-infinity' THEN {name} END"


def _carry(name: str) -> str:
    """Return a reading before a bucket, from its rollup row or the live row that has it open."""
    absent = "'-infinity'" if is_time(name) else "0"
    return (
        f"CASE WHEN l.bucket_at = u.bucket_at THEN l.{name} "
        f"ELSE coalesce(r.{name}, {absent}) END AS {name}"
    )


def _bucket_aggregate(name: str) -> str:
    if name not in CARRY:
        return f"array_agg({name})"
    absent = "'-infinity'" if is_time(name) else "0"
    return f"array_agg(coalesce({name}, {absent}))"
