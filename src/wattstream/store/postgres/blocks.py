"""Live rows in blocks of eight devices: how a flush locks, reads and writes them.

What each heartbeat changes of eight devices is one row of the database, and their lock. It has a
version, a random number that every change of one of them replaces.
"""

import secrets
from dataclasses import dataclass

import numpy as np

from wattstream.domain.readings import KINDS, Stream
from wattstream.domain.register import RULE_COLUMNS
from wattstream.domain.rollup import (
    HOT_TIMES,
    WARM,
    day_columns,
    day_start,
    empty_live,
    hot_numbers,
    live_dtype,
    state_columns,
)
from wattstream.domain.rows import assign, begins
from wattstream.domain.units import Bool, Int64, Rows
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.steps import Connection, Statement

BLOCK_DEVICES = 8
"""Devices of a block."""
_BITS = 3


def new_version() -> int:
    """Return a version that no block has had, as far as 63 random bits can tell."""
    return secrets.randbits(63) | 1


def blocks_of(devices: Int64) -> tuple[Int64, Int64]:
    """Return the numbers of the blocks of devices, and each device's place in their rows.

    Args:
        devices: Keys, ascending, int64[m].

    Returns:
        int64[k], ascending; and int64[m].
    """
    number = devices >> _BITS
    starts = begins(number)
    return number[starts], ((np.cumsum(starts) - 1) << _BITS) + (devices & (BLOCK_DEVICES - 1))


def devices_of(number: Int64) -> Int64:
    """Return all keys of blocks, int64[8 k], whether there are such devices or not."""
    return (number[:, None] * BLOCK_DEVICES + np.arange(BLOCK_DEVICES)).ravel()


@dataclass(frozen=True, slots=True)
class Blocks:
    """The live rows of whole blocks.

    Attributes:
        number: Which blocks, ascending, int64[k].
        version: Of each, int64[k].
        rows: live_dtype, 8 k rows in the order of keys; empty where there is no such device.
    """

    number: Int64
    version: Int64
    rows: Rows

    def chosen(self, part: Bool) -> "Blocks":
        """Return copies of some blocks."""
        return Blocks(
            self.number[part], self.version[part], self.rows.compress(part.repeat(BLOCK_DEVICES))
        )


def lock_blocks(connection: Connection, stream: Stream, number: Int64) -> Int64:
    """Lock blocks and return their versions; fewer where some do not exist."""
    found = connection.execute(
        statements.load("flush", stream)["lock"],
        {"block": arrays.PgArray(number.astype(np.int32))},
        binary=True,
    ).fetchone()
    if found is None or found[0] is None:
        return np.zeros(0, np.int64)
    versions: Int64 = found[0]
    return versions


def read_blocks(connection: Connection, stream: Stream, number: Int64) -> tuple[Blocks, Bool]:
    """Return blocks, numbers ascending, and which of their devices exist, bool[8 k].

    The version of a block without devices is 0.
    """
    key = devices_of(number)
    rows = empty_live(stream, len(key))
    rows["device_id"] = key
    found, versions = _read(connection, stream, key)
    exists = np.isin(key, found["device_id"])
    assign(rows, exists, found)
    version = np.zeros(len(key), np.int64)
    version[exists] = versions
    return Blocks(number, version.reshape(-1, BLOCK_DEVICES).max(axis=1), rows), exists


def lock(connection: Connection, stream: Stream, devices: Int64) -> Rows:
    """Lock the live rows of devices, keys ascending, and return them."""
    lock_blocks(connection, stream, blocks_of(np.asarray(devices))[0])
    return _read(connection, stream, devices)[0]


def _read(connection: Connection, stream: Stream, devices: Int64) -> tuple[Rows, Int64]:
    """Return the live rows of those devices that exist, and the version of each one's block."""
    record = connection.execute(
        statements.load("flush", stream)["live"],
        {"device_id": arrays.PgArray(devices.astype(np.int32))},
        binary=True,
    ).fetchone()
    assert record is not None  # noqa: S101 - aggregates are one row
    version, *columns = record
    names = ["device_id", *(name for name, _ in (*RULE_COLUMNS, *state_columns(stream)))]
    rows = arrays.to_rows(columns, names, live_dtype(stream))
    return rows, np.zeros(0, np.int64) if version is None else version


def block_updates(stream: Stream, blocks: Blocks, before: Rows, live: Rows) -> list[Statement]:
    """Return the statements that write changed live rows, and give their blocks a new version.

    The first changes only blocks that are as they were read, in the order of their numbers, so
    that writers lock them in one order.

    Args:
        stream: The stream of the devices.
        blocks: All blocks of these devices, the rows changed already; the versions change in place.
        before: The rows of the changed devices as they were read.
        live: The same devices' rows as they shall be; their day columns hold what is added.
    """
    sql = statements.load("flush", stream)
    version = new_version()
    hot = Statement(
        sql["update_hot"],
        {
            "block": arrays.PgArray(blocks.number.astype(np.int32)),
            "blocks": len(blocks.number),
            "read_version": arrays.PgArray(blocks.version),
            "version": version,
            **hot_params(blocks.rows, stream),
        },
        rows=len(blocks.number),
    )
    blocks.version[:] = version
    is_warm = np.zeros(len(live), np.bool_)
    for name in WARM:
        is_warm |= before[name] != live[name]
    days = [name for name, _ in day_columns(stream)]
    for name in days:
        is_warm |= live[name] != 0
    if not is_warm.any():
        return [hot]
    before, live = before.compress(is_warm), live.compress(is_warm)
    left_to = np.minimum(day_start(live), before["bucket_at"])
    params = {
        **arrays.params(live, ["device_id", *WARM, *days]),
        "left_from_at": arrays.PgArray(day_start(before), times=True),
        "left_to_at": arrays.PgArray(left_to, times=True),
    }
    return [hot, Statement(sql["update_warm"], params, rows=len(live))]


def hot_params(rows: Rows, stream: Stream) -> dict[str, arrays.PgArray]:
    """Return the hot columns of rows as arrays, [rows][columns]; times are numbers there."""
    of_numbers = hot_numbers(stream)
    numbers = np.empty((len(rows), len(HOT_TIMES) + len(of_numbers)), np.int64)
    for i, name in enumerate(HOT_TIMES):
        numbers[:, i] = arrays.to_pg_time(rows[name])
    for i, name in enumerate(of_numbers, len(HOT_TIMES)):
        numbers[:, i] = rows[name]
    fields = np.empty((len(rows), len(KINDS[stream].fields)))
    for i, field in enumerate(KINDS[stream].fields):
        fields[:, i] = rows[field.column]
    return {"numbers": arrays.PgArray(numbers), "fields": arrays.PgArray(fields)}
