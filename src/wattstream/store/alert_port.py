"""What the watch, and those who ask for its alerts, may ask of a store."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from wattstream.domain.alerts import Alert, AlertFilter, AlertKind
from wattstream.domain.readings import Stream
from wattstream.domain.units import Float64, Int64, Rows
from wattstream.store.port import Snapshot


@dataclass(frozen=True, slots=True)
class LastLook:
    """The look before.

    Attributes:
        number: How many looks there were.
        looked_at_us: When, by its clock; NEVER_US where there was none.
        observed_us: Quarter-hours before it have been observed; NEVER_US for none.
    """

    number: int
    looked_at_us: int
    observed_us: int


@dataclass(frozen=True, slots=True)
class OpenAlerts:
    """Alerts that are not resolved, as columns of n rows."""

    alert_id: Int64
    kind: list[str]
    device: Int64


@dataclass(frozen=True, slots=True)
class LiveStates:
    """The newest reading of each device of a stream, as columns of n rows sorted by key.

    Attributes:
        device: Keys, int64[n].
        last_at_us: Measured at; NEVER_US where the device has no reading.
        received_at_us: When it came.
        heartbeat_s: How often the device reports.
        values: Optional fields, NaN for absent, float64[n, k].
    """

    device: Int64
    last_at_us: Int64
    received_at_us: Int64
    heartbeat_s: Int64
    values: Float64


@dataclass(frozen=True, slots=True)
class QuarterHours:
    """Quarter-hours of all devices of a stream, as columns of n rows sorted by key and start.

    Attributes:
        device: Keys, int64[n].
        start_us: int64[n].
        energy_ukwh: Counted, int64[n].
        suspect_ukwh: Left out as not plausible, int64[n].
        readings: int64[n].
        means: Of the optional fields, NaN for none, float64[n, k].
    """

    device: Int64
    start_us: Int64
    energy_ukwh: Int64
    suspect_ukwh: Int64
    readings: Int64
    means: Float64


@dataclass(frozen=True, slots=True)
class Resets:
    """The newest reset of each register that had one, n rows sorted by key.

    Attributes:
        device: Keys, int64[n].
        fell_at_us: int64[n].
        ukwh: What the register said then, int64[n].
        before_ukwh: What it had said before, int64[n].
    """

    device: Int64
    fell_at_us: Int64
    ukwh: Int64
    before_ukwh: Int64


@dataclass(frozen=True, slots=True)
class DriftStates:
    """What the detector of drifts remembers, n rows sorted by key.

    Attributes:
        device: Keys of vehicles, int64[n].
        rows: DRIFT_COLUMNS.
    """

    device: Int64
    rows: Rows


@dataclass(frozen=True, slots=True)
class Opening:
    """An alert to be opened."""

    kind: AlertKind
    stream: Stream
    device: int
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resolution:
    """An alert to be resolved."""

    kind: AlertKind
    alert_id: int
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """What a look decided.

    Attributes:
        observed_us: Quarter-hours before it have been observed.
        openings: Alerts to be opened.
        resolutions: Alerts to be resolved.
        drift: States to be kept; None where nothing was observed.
    """

    observed_us: int
    openings: Sequence[Opening]
    resolutions: Sequence[Resolution]
    drift: DriftStates | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An opening or a resolution that a webhook has not taken yet.

    Attributes:
        event_id: Rising; the same with every attempt.
        name: `opened` or `resolved`.
        created_at_us: When it happened.
        attempts: With this one.
        alert: As it is now.
    """

    event_id: int
    name: str
    created_at_us: int
    attempts: int
    alert: Alert


class AlertSnapshot(Snapshot, Protocol):
    """One consistent view with what the watch needs; a few statements, however many devices."""

    async def last_look(self) -> LastLook:
        """Return when the last look was."""

    async def open_alerts(self) -> OpenAlerts:
        """Return all alerts that are not resolved."""

    async def alert_thresholds(self) -> Mapping[int, Mapping[str, float | None]]:
        """Return the thresholds of devices that have their own, by device key."""

    async def live_states(self, stream: Stream) -> LiveStates:
        """Return the newest reading of each device."""

    async def quarter_hours(self, stream: Stream, start_us: int, end_us: int) -> QuarterHours:
        """Return the quarter-hours of all devices that start in [start_us, end_us)."""

    async def resets(self, stream: Stream, since_us: int) -> Resets:
        """Return the newest reset of each register after a time, once a reading followed it."""

    async def drift_states(self) -> DriftStates:
        """Return what the detector of drifts remembers."""

    async def alerts(self, wanted: AlertFilter, before: int, limit: int) -> list[Alert]:
        """Return up to `limit` alerts with numbers below `before`, newest first."""

    async def alert(self, alert_id: int) -> Alert | None:
        """Return an alert, or None."""


class AlertStore(Protocol):
    """Where alerts are kept; its methods raise StoreUnavailableError."""

    def snapshot(self) -> AbstractAsyncContextManager[AlertSnapshot]:
        """Open a consistent view."""

    async def write_look(self, look: Look, after: LastLook, now_us: int, *, notify: bool) -> bool:
        """Write what a look decided, in one transaction, unless another look was since `after`.

        Args:
            look: The decisions.
            after: The look before, as read in the snapshot that the decisions rest on.
            now_us: The time of openings and resolutions.
            notify: Whether each of them becomes an event for the webhook.

        Returns:
            Whether it was written.
        """

    async def acknowledge(self, alert_id: int, by: str | None, now_us: int) -> None:
        """Acknowledge an alert that is open; any other stays as it is."""

    async def claim_events(self, now_us: int, limit: int) -> list[Event]:
        """Return events whose time has come, each put off until its next attempt.

        Events of one alert come in their order: the next only when the one before is gone.
        """

    async def drop_event(self, event_id: int) -> None:
        """Take an event out: it was delivered, or is given up."""
