"""Alerts in PostgreSQL: read in one snapshot, written by one look at a time."""

import json
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import numpy as np

from wattstream.domain.alerts import Alert, AlertFilter, AlertKind
from wattstream.domain.drift import DRIFT_COLUMNS
from wattstream.domain.readings import Stream
from wattstream.domain.units import MICRO
from wattstream.store.alert_port import (
    AlertSnapshot,
    DriftStates,
    Event,
    LastLook,
    LiveStates,
    Look,
    OpenAlerts,
    QuarterHours,
    Resets,
)
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.answers import PostgresSnapshot
from wattstream.store.postgres.connections import Connection, Worker

_DRIFT = np.dtype(DRIFT_COLUMNS)
_DRIFT_LAYOUT = zlib.crc32(repr(_DRIFT.descr).encode())


class PostgresAlertSnapshot(PostgresSnapshot):
    """An AlertSnapshot over a connection inside a REPEATABLE READ transaction."""

    async def last_look(self) -> LastLook:
        """Return when the last look was."""
        return LastLook(*await self._one("alerts", "last_look", None))

    async def open_alerts(self) -> OpenAlerts:
        """Return all alerts that are not resolved."""
        alert_id, kind, device = await self._one("alerts", "open", None)
        if alert_id is None:
            return OpenAlerts(np.zeros(0, np.int64), [], np.zeros(0, np.int64))
        return OpenAlerts(alert_id, kind, device.astype(np.int64))

    async def alert_thresholds(self) -> Mapping[int, Mapping[str, float | None]]:
        """Return the thresholds of devices that have their own, by device key."""
        return dict(await self._all("alerts", "thresholds", None))

    async def live_states(self, stream: Stream) -> LiveStates:
        """Return the newest reading of each device."""
        await self._plan_anew()
        columns = await self._one("watch", "live_states", stream)
        filled = [np.zeros(0) if column is None else column for column in columns]
        device, last_at, received_at, heartbeat = (c.astype(np.int64) for c in filled[:4])
        return LiveStates(device, last_at, received_at, heartbeat, np.column_stack(filled[4:]))

    async def quarter_hours(self, stream: Stream, start_us: int, end_us: int) -> QuarterHours:
        """Return the quarter-hours of all devices that start in [start_us, end_us)."""
        await self._plan_anew()
        limits = {"start_at": arrays.time_param(start_us), "end_at": arrays.time_param(end_us)}
        columns = await self._one("watch", "quarter_hours", stream, **limits)
        whole = [(np.zeros(0) if column is None else column).astype(np.int64) for column in columns]
        device, start, energy, suspect, readings, *measured = whole
        sums, counts = np.column_stack(measured[::2]), np.column_stack(measured[1::2])
        means = np.full(sums.shape, np.nan)
        np.divide(sums / MICRO, counts, out=means, where=counts > 0)
        return QuarterHours(device, start, energy, suspect, readings, means)

    async def resets(self, stream: Stream, since_us: int) -> Resets:
        """Return the newest reset of each register after a time, once a reading followed it."""
        columns = await self._one("watch", "resets", stream, since=arrays.time_param(since_us))
        filled = [np.zeros(0) if column is None else column for column in columns]
        device, fell_at, ukwh, before_ukwh = (column.astype(np.int64) for column in filled)
        return Resets(device, fell_at, ukwh, before_ukwh)

    async def drift_states(self) -> DriftStates:
        """Return what the detector of drifts remembers."""
        device, states = await self._one("watch", "drift", Stream.VEHICLE, layout=_DRIFT_LAYOUT)
        if device is None:
            return DriftStates(np.zeros(0, np.int64), np.zeros(0, _DRIFT))
        return DriftStates(device.astype(np.int64), np.frombuffer(states, _DRIFT))

    async def alerts(self, wanted: AlertFilter, before: int, limit: int) -> list[Alert]:
        """Return up to `limit` alerts with numbers below `before`, newest first."""
        params = {
            "state": wanted.state,
            "kind": wanted.kind,
            "stream": wanted.stream,
            "device": wanted.device,
            "before": before,
            "limit": limit,
        }
        return [
            _alert(row)
            for row in await (await self._ask("alerts", "list", None, params)).fetchall()
        ]

    async def alert(self, alert_id: int) -> Alert | None:
        """Return an alert, or None."""
        row = await self._one("alerts", "one", None, alert_id=alert_id)
        return None if row is None else _alert(row)


class PostgresAlerts:
    """An AlertStore beside a store of readings; several engines may share its database.

    Args:
        open_snapshot: Opens a consistent view.
        worker: Writes; it is closed by its owner.
    """

    def __init__(
        self,
        open_snapshot: Callable[[], AbstractAsyncContextManager[AlertSnapshot]],
        worker: Worker,
    ) -> None:
        self._open_snapshot = open_snapshot
        self._worker = worker

    def snapshot(self) -> AbstractAsyncContextManager[AlertSnapshot]:
        """Open a consistent view."""
        return self._open_snapshot()

    async def write_look(self, look: Look, after: LastLook, now_us: int, *, notify: bool) -> bool:
        """Write what a look decided, unless another look was since `after`."""
        return await self._worker.run(partial(_write_look, look, after, now_us, notify))

    async def acknowledge(self, alert_id: int, by: str | None, now_us: int) -> None:
        """Acknowledge an alert that is open; any other stays as it is."""
        await self._execute("acknowledge", alert_id=alert_id, by=by, now=arrays.time_param(now_us))

    async def claim_events(self, now_us: int, limit: int) -> list[Event]:
        """Return events whose time has come, each put off until its next attempt."""
        rows = await self._execute("claim_events", now=arrays.time_param(now_us), limit=limit)
        return [
            Event(event_id, name, created_at, attempts, _alert(alert))
            for event_id, name, created_at, attempts, *alert in rows
        ]

    async def drop_event(self, event_id: int) -> None:
        """Take an event out: it was delivered, or is given up."""
        await self._execute("drop_event", event_id=event_id)

    async def _execute(self, name: str, **params: Any) -> list[Any]:
        def work(connection: Connection) -> list[Any]:
            cursor = connection.execute(statements.load("alerts")[name], params, binary=True)
            return cursor.fetchall() if cursor.description else []

        return await self._worker.run(work)


def _write_look(
    look: Look, after: LastLook, now_us: int, notify: bool, connection: Connection
) -> bool:
    sql = statements.load("alerts")
    common = {"now": arrays.time_param(now_us), "notify": notify}
    openings, resolutions = look.openings, look.resolutions
    with connection.transaction():
        counted = connection.execute(
            sql["count_look"],
            {
                **common,
                "number": after.number,
                "observed_at": arrays.time_param(look.observed_us),
            },
        )
        if counted.rowcount == 0:
            return False
        if openings:
            connection.execute(
                sql["open_all"],
                {
                    **common,
                    "kind": [opening.kind.value for opening in openings],
                    "stream": [opening.stream.value for opening in openings],
                    "device_id": [opening.device for opening in openings],
                    "evidence": [_json(opening.evidence) for opening in openings],
                },
            )
        if resolutions:
            connection.execute(
                sql["resolve_all"],
                {
                    **common,
                    "alert_id": [resolution.alert_id for resolution in resolutions],
                    "evidence": [_json(resolution.evidence) for resolution in resolutions],
                },
            )
        if look.drift is not None:
            device = look.drift.device.astype(np.int32)
            connection.execute(
                statements.load("watch", Stream.VEHICLE)["keep_drift"],
                {
                    "device_id": arrays.PgArray(device),
                    "layout": _DRIFT_LAYOUT,
                    "states": look.drift.rows.tobytes(),
                    "size": _DRIFT.itemsize,
                },
            )
    return True


def _json(evidence: Mapping[str, Any]) -> str:
    return json.dumps(evidence, allow_nan=False)


def _alert(row: Any) -> Alert:
    number, kind, stream, device, opened, acknowledged, by, resolved, evidence, resolution = row
    return Alert(
        number,
        AlertKind(kind),
        Stream(stream),
        device,
        opened,
        acknowledged,
        by,
        resolved,
        evidence,
        resolution,
    )
