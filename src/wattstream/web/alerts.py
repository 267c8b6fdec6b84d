"""Alerts with a life over HTTP: listed, shown, acknowledged."""

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query
from pydantic import ConfigDict, Field

from wattstream.domain.alerts import THRESHOLDS, Alert, AlertFilter, AlertKind, AlertState
from wattstream.domain.errors import ReadingError
from wattstream.domain.readings import Stream, is_valid_id
from wattstream.domain.units import rfc3339
from wattstream.query.alerts import AlertQueries
from wattstream.web import models
from wattstream.web.documents import AWAY, BAD, RULE, UNKNOWN, Limit

_LAST_ID = 2**63 - 1
AlertId = Annotated[int, Path(description="Number of the alert", ge=1, le=_LAST_ID)]


class AlertAnswer(models.Model):
    """An alert about one device, from its opening on; evidence names its units in its keys."""

    alert_id: int
    kind: AlertKind
    type: Literal["meter", "vehicle"]
    id: str
    state: AlertState
    opened_at: models.Time
    acknowledged_at: models.Time | None
    acknowledged_by: str | None
    resolved_at: models.Time | None
    evidence: dict[str, Any]
    resolution: dict[str, Any] | None


class AlertList(models.Model):
    """A page of alerts, newest first; `next` goes into `after`."""

    alerts: list[AlertAnswer]
    next: int | None


class Acknowledgement(models.Model):
    """Who takes note of an alert."""

    model_config = ConfigDict(extra="forbid", strict=True)

    by: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")] | None = None


_RESOLVED: dict[int | str, dict[str, Any]] = {
    409: {"model": models.ErrorAnswer, "description": "It was resolved before"}
}


def add_alerts(app: FastAPI, queries: AlertQueries) -> None:
    """Add the endpoints of alerts."""

    @app.get(
        "/v1/alerts",
        tags=["alerts"],
        summary="Faults of devices, newest first",
        responses={**BAD, **AWAY},
    )
    async def alerts(  # noqa: PLR0917 - query parameters
        state: Annotated[
            Literal["open", "acknowledged", "resolved", "all"],
            Query(description="Where they are in their life"),
        ] = "open",
        kind: Annotated[AlertKind | None, Query(description="Only of this kind")] = None,
        type: Annotated[Stream | None, Query(description="Only of meters, or vehicles")] = None,
        id: Annotated[str | None, Query(description="Only of devices with this id")] = None,
        after: Annotated[
            int, Query(ge=1, le=_LAST_ID, description="`next` of the page before")
        ] = _LAST_ID,
        limit: Limit = 100,
    ) -> AlertList:
        # What no device can be called has no alert, and PostgreSQL refuses a zero byte.
        if id is not None and not is_valid_id(id):
            return AlertList(alerts=[], next=None)
        wanted = AlertFilter(None if state == "all" else AlertState(state), kind, type, id)
        found = await queries.alerts(wanted, after, limit)
        more = found[-1].alert_id if len(found) == limit else None
        return AlertList(alerts=[_answer(alert) for alert in found], next=more)

    @app.get(
        "/v1/alerts/{alertId}",
        tags=["alerts"],
        summary="An alert",
        responses={**UNKNOWN, **AWAY},
    )
    async def alert(alertId: AlertId) -> AlertAnswer:
        return _answer(await queries.alert(alertId))

    @app.post(
        "/v1/alerts/{alertId}/ack",
        tags=["alerts"],
        summary="Acknowledge an alert; again changes nothing",
        responses={**BAD, **UNKNOWN, **_RESOLVED, **RULE, **AWAY},
    )
    async def acknowledge(
        alertId: AlertId, acknowledgement: Acknowledgement | None = None
    ) -> AlertAnswer:
        by = acknowledgement.by if acknowledgement else None
        return _answer(await queries.acknowledge(alertId, by))


def _answer(alert: Alert) -> AlertAnswer:
    return AlertAnswer(
        alert_id=alert.alert_id,
        kind=alert.kind,
        type=alert.stream.value,
        id=alert.device,
        state=alert.state,
        opened_at=rfc3339(alert.opened_at_us),
        acknowledged_at=_time(alert.acknowledged_at_us),
        acknowledged_by=alert.acknowledged_by,
        resolved_at=_time(alert.resolved_at_us),
        evidence=alert.evidence,
        resolution=alert.resolution,
    )


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else rfc3339(at_us)


def own_thresholds(
    named: dict[AlertKind, float | None] | None,
) -> dict[str, float | None] | None:
    """Return the thresholds of a device as they are kept.

    Raises:
        ReadingError: One is outside its bounds.
    """
    for kind, value in (named or {}).items():
        limit = THRESHOLDS[kind]
        if value is not None and not limit.low <= value <= limit.high:
            raise ReadingError(
                f"alertThresholds: {kind} must be {limit.low:g} to {limit.high:g} {limit.unit}, "
                f"or null to switch it off, got {value:g}",
                code="setting_invalid",
                field="alertThresholds",
            )
    return None if named is None else {kind.value: value for kind, value in named.items()}
