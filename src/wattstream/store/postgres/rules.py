"""A device's settings changed, and its totals recomputed by its new rules.

A short history is recomputed at once, under the device's lock. A long one is recomputed beside
the writers: its closed buckets are computed without a lock, and under the lock only what came
meanwhile. Until then the device counts by its old rules, so every answer is of one kind.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import structlog

from wattstream.domain.devices import Device, DeviceChange
from wattstream.domain.falls import FALL_DTYPE
from wattstream.domain.readings import KINDS, Stream
from wattstream.domain.register import Rules
from wattstream.domain.rollup import Runs, empty_live, fallen, rollup_dtype, summarize
from wattstream.domain.rows import begins, ends
from wattstream.domain.units import BUCKET_US, NEVER_US, Int64, Rows
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.answers import to_device, to_rules
from wattstream.store.postgres.blocks import lock, new_version
from wattstream.store.postgres.connections import Connection
from wattstream.store.postgres.keys import DeviceKeys
from wattstream.store.postgres.recompute import (
    carry_before,
    empty_rollup,
    rebuild,
    replace_closed,
    replace_falls,
)

AT_ONCE_READINGS = 50_000
"""Longest history that is recomputed while the device's writers wait."""
_CHUNK_READINGS = 100_000
# After so many rounds the rest is recomputed under the lock, however much it is.
_MOST_ROUNDS = 6
_FOREVER_US = 2**63 - 1

_log = structlog.get_logger()


def change_device(
    connection: Connection,
    keys: DeviceKeys,
    stream: Stream,
    external_id: str,
    change: DeviceChange,
    *,
    at_once_readings: int,
) -> tuple[Device, bool]:
    """Change or make a device; recompute its totals, or leave that to `recompute_waiting`.

    Returns:
        The device as it is now, and whether it was made.
    """
    registry, sql = statements.load("registry", stream), statements.load("rules", stream)
    name = {"external_id": external_id}
    is_new = connection.execute(registry["device"], name).fetchone() is None
    key = keys.made(connection, external_id)
    with connection.transaction():
        live = lock(connection, stream, np.array([key]))
        # Read only now that nobody else can change it.
        found = connection.execute(registry["device"], name, binary=True).fetchone()
        before = to_device(stream, found)
        wanted = _pending(connection, key) or before.rules
        after = _changed(before, wanted, change)
        connection.execute(
            registry["describe"],
            {
                "device_id": key,
                "fleet": after.fleet,
                "time_zone": after.time_zone,
                "alert_thresholds": json.dumps(own) if (own := after.alert_thresholds) else None,
            },
        )
        if after.rules == wanted:
            return replace(after, rules=before.rules), is_new
        if after.rules != before.rules and _is_long(connection, stream, live, at_once_readings):
            connection.execute(sql["put_pending"], {"device_id": key, **_columns(after.rules)})
            return replace(after, rules=before.rules), is_new
        connection.execute(sql["delete_pending"], {"device_id": key})
        if after.rules != before.rules:
            _set_rules(connection, stream, live, after.rules)
            rebuild(connection, stream, live, NEVER_US, _FOREVER_US)
    return after, is_new


class _StoppedError(Exception):
    """The engine ends; what waits is recomputed after its next start."""


def recompute_waiting(at_once_readings: int, stop: threading.Event, connection: Connection) -> bool:
    """Recompute every device that waits for it; return False where other engines do some."""
    sql = statements.load("rules")
    is_done = True
    for key, stream in connection.execute(sql["waiting"]).fetchall():
        mine = {"device_id": key}
        taken = connection.execute(sql["try_lock"], mine).fetchone()
        if taken is None or not taken[0]:
            is_done = False
            continue
        try:
            while not _recompute(connection, Stream(stream), key, at_once_readings, stop):
                pass
        except _StoppedError:
            return False
        finally:
            if not connection.closed:
                connection.execute(sql["unlock"], mine)
    return is_done


def _recompute(
    connection: Connection, stream: Stream, key: int, at_once_readings: int, stop: threading.Event
) -> bool:
    """Give a device its pending rules; return False where they changed on the way."""
    sql = statements.load("rules", stream)
    rules = _pending(connection, key)
    if rules is None:
        return True
    _log.info("Recomputing a device by its new rules", stream=stream, device_id=key)
    built = _Built(connection, stream, key, rules)
    for round_number in range(1, _MOST_ROUNDS + 1):
        built.go_on(stop)
        with connection.transaction():
            live = lock(connection, stream, np.array([key]))
            if _pending(connection, key) != rules:
                return False
            first_us, readings = built.first_difference(int(live["bucket_at"][0]))
            if readings > at_once_readings and round_number < _MOST_ROUNDS:
                built.keep_before(first_us)
                continue
            built.put(first_us)
            _set_rules(connection, stream, live, rules)
            rebuild(connection, stream, live, first_us, _FOREVER_US)
            connection.execute(sql["delete_pending"], {"device_id": key})
            break
    _log.info("A device counts by its new rules", stream=stream, device_id=key)
    return True


class _Built:
    """The closed buckets and falls of one device by some rules, as far as they are computed.

    A bucket is as history has it where both hold the same number of readings, since history is
    only ever added to.
    """

    def __init__(self, connection: Connection, stream: Stream, key: int, rules: Rules) -> None:
        self._connection = connection
        self._stream = stream
        self._key = key
        self._sql = statements.load("rules", stream)
        self._device = empty_live(stream, 1)
        self._device["device_id"] = key
        for column, value in _columns(rules).items():
            self._device[column] = value
        self._buckets = empty_rollup(stream, 0)
        self._falls = np.zeros(0, FALL_DTYPE)
        self._from_us = NEVER_US

    def go_on(self, stop: threading.Event) -> None:
        """Compute every closed bucket from where the computed ones end."""
        bucket_at, readings = self._counts(self._from_us)
        done = int(self._buckets["readings"].sum())
        total = max(1, done + int(readings.sum()))
        for start_us, end_us in _chunks(bucket_at, readings):
            if stop.is_set():
                raise _StoppedError
            buckets, falls = self._summarized(start_us, end_us)
            self._buckets = np.concatenate([self._buckets, buckets])
            self._falls = np.concatenate([self._falls, falls])
            done += int(buckets["readings"].sum())
            progress = {"device_id": self._key, "progress": min(1.0, done / total)}
            self._connection.execute(self._sql["set_progress"], progress)

    def first_difference(self, open_us: int) -> tuple[int, int]:
        """Return the first bucket not as history has it, and the readings from there on."""
        bucket_at, readings = self._counts(NEVER_US)
        same = min(len(bucket_at), len(self._buckets))
        differs = bucket_at[:same] != self._buckets["bucket_at"][:same]
        differs |= readings[:same] != self._buckets["readings"][:same]
        at = int(np.argmax(differs)) if differs.any() else same
        first_us = int(bucket_at[at]) if at < len(bucket_at) else open_us
        return first_us, int(readings[at:].sum())

    def keep_before(self, first_us: int) -> None:
        """Forget what is computed from a bucket on."""
        self._buckets = self._buckets[self._buckets["bucket_at"] < first_us]
        self._falls = self._falls[self._falls["fell_at"] < first_us]
        self._from_us = first_us

    def put(self, first_us: int) -> None:
        """Write what is computed up to a bucket; the device is locked."""
        self.keep_before(first_us)
        limits = self._limits(NEVER_US, first_us)
        dtype = rollup_dtype(self._stream)
        sql = statements.load("recompute", self._stream)["closed_range"]
        record = self._connection.execute(sql, limits, binary=True).fetchone()
        old = arrays.to_rows(record or (), dtype.names or (), dtype)
        replace_closed(self._connection, self._stream, old, self._buckets)
        key = self._device["device_id"]
        never, last = np.array([NEVER_US]), np.array([first_us - 1])
        # The last reading before a round's start is told of twice: what was told later holds.
        _, told = np.unique(self._falls["fell_at"][::-1], return_index=True)
        replace_falls(self._connection, key, never, last, self._falls[::-1][told])

    def _summarized(self, start_us: int, end_us: int) -> tuple[Rows, Rows]:
        """Return the buckets in a range, at least one, and the falls that they tell of."""
        limits = self._limits(start_us, end_us)
        sql = statements.load("recompute", self._stream)["raw_range"]
        record = self._connection.execute(sql, limits, binary=True).fetchone()
        _, at_us, ukwh, values = arrays.readings_of(record)
        if len(at_us) == 0:  # a rollup row that history does not know
            return empty_rollup(self._stream, 0), np.zeros(0, FALL_DTYPE)
        carry = carry_before(self._connection, self._stream, self._device, limits)
        run = np.zeros(len(at_us), np.int64)
        runs = Runs(KINDS[self._stream], run, at_us, ukwh, values, self._device, carry)
        summary = summarize(runs)
        return summary.buckets, fallen(runs, summary.steps, np.zeros(len(at_us), np.bool_))

    def _limits(self, start_us: int, end_us: int) -> dict[str, Any]:
        return {
            "device_id": arrays.PgArray(self._device["device_id"]),
            "start_at": arrays.time_param(start_us),
            "end_at": arrays.time_param(end_us),
        }

    def _counts(self, start_us: int) -> tuple[Int64, Int64]:
        row = self._connection.execute(
            self._sql["closed_counts"],
            {"device_id": self._key, "start_at": arrays.time_param(start_us)},
            binary=True,
        ).fetchone()
        if row is None or row[0] is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return row[0], row[1].astype(np.int64)


def _chunks(bucket_at: Int64, readings: Int64) -> Iterator[tuple[int, int]]:
    """Yield ranges that hold all buckets, each with about _CHUNK_READINGS readings."""
    number = np.cumsum(readings) // _CHUNK_READINGS
    for first, last in zip(
        np.flatnonzero(begins(number)),
        np.flatnonzero(ends(number)),
        strict=True,
    ):
        yield int(bucket_at[first]), int(bucket_at[last]) + BUCKET_US


def _is_long(connection: Connection, stream: Stream, live: Rows, at_once_readings: int) -> bool:
    row = connection.execute(
        statements.load("rules", stream)["closed_counts"],
        {"device_id": int(live["device_id"][0]), "start_at": "-infinity"},
        binary=True,
    ).fetchone()
    return row is not None and row[1] is not None and int(row[1].sum()) > at_once_readings


def _pending(connection: Connection, key: int) -> Rules | None:
    """Return the rules that a device is to have once it is recomputed."""
    sql = statements.load("rules")["pending"]
    row = connection.execute(sql, {"device_id": key}).fetchone()
    return None if row is None else to_rules(row[:4])


def _columns(rules: Rules) -> dict[str, int]:
    return {
        "energy_mode": int(rules.energy_mode),
        "modulus_ukwh": rules.modulus_ukwh or 0,
        "rated_w": rules.rated_w or 0,
        "heartbeat_s": rules.heartbeat_s,
    }


def _set_rules(connection: Connection, stream: Stream, live: Rows, rules: Rules) -> None:
    """Give a locked device its rules, in the database and in `live`."""
    columns = _columns(rules)
    sql = statements.load("rules", stream)["set_rules"]
    params = {"device_id": int(live["device_id"][0]), "version": new_version(), **columns}
    connection.execute(sql, params)
    for column, value in columns.items():
        live[column] = value


def _changed(device: Device, rules: Rules, change: DeviceChange) -> Device:
    """Return a device with the named settings changed, starting from some rules."""

    def pick(name: str, old: Any) -> Any:
        value = getattr(change, name)
        return None if name in change.clear else old if value is None else value

    return Device(
        device.key,
        device.stream,
        device.external_id,
        Rules(
            pick("energy_mode", rules.energy_mode),
            pick("modulus_ukwh", rules.modulus_ukwh),
            pick("rated_w", rules.rated_w),
            pick("heartbeat_s", rules.heartbeat_s),
        ),
        pick("fleet", device.fleet),
        pick("time_zone", device.time_zone),
        pick("alert_thresholds", device.alert_thresholds) or {},
    )
