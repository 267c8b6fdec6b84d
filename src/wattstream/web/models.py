"""The JSON of the API's answers, as documented in its OpenAPI file.

Times are RFC 3339 in UTC, energy kWh, temperature °C, efficiency a fraction.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from wattstream.domain.alerts import AlertKind
from wattstream.domain.efficiency import Status
from wattstream.domain.links import AcSource
from wattstream.domain.register import MAX_RATED_W


class Model(BaseModel):
    """A JSON object with camelCase keys."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class ErrorDetail(Model):
    """What went wrong: a stable code, words for people, the key at fault."""

    code: str
    message: str
    field: str | None = None


class ErrorAnswer(Model):
    """Every answer that is not a success."""

    error: ErrorDetail


Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class MeterStatus(Model):
    """Live state of a meter."""

    type: Literal["meter"]
    meter_id: str
    kwh_consumed_ac: float
    voltage: float | None
    timestamp: Time
    received_at: Time
    age_seconds: float


class VehicleStatus(Model):
    """Live state of a vehicle; charging: its latest energy difference is above 0."""

    type: Literal["vehicle"]
    vehicle_id: str
    kwh_delivered_dc: float
    soc: float | None
    battery_temp: float | None
    timestamp: Time
    received_at: Time
    age_seconds: float
    charging: bool


class Window(Model):
    """A range [start, end)."""

    start: Time
    end: Time


class SuspectKwh(Model):
    """Energy left out of totals because it is not plausible."""

    ac: float
    dc: float


class ReadingCounts(Model):
    """Readings that an answer rests on."""

    vehicle: int
    meter: int


class PerformanceAnswer(Model):
    """Energy and efficiency of a vehicle over a range."""

    vehicle_id: str
    window: Window
    total_ac: float | None
    total_dc: float
    efficiency: float | None
    avg_battery_temp: float | None
    suspect_kwh: SuspectKwh
    meters: list[str]
    ac_source: AcSource
    readings: ReadingCounts
    status: Status
    reason: str | None


class DayAnswer(Model):
    """Readings held of one UTC day."""

    day: str
    readings: int


class StreamStatsAnswer(Model):
    """What is held of one stream."""

    devices: int
    readings: int
    readings_per_day: list[DayAnswer]
    first_reading: Time | None
    last_reading: Time | None
    rejections: int


class StatsAnswer(Model):
    """What is held, per stream."""

    meter: StreamStatsAnswer
    vehicle: StreamStatsAnswer


class Alert(Model):
    """A vehicle whose efficiency is below the threshold."""

    vehicle_id: str
    efficiency: float
    total_ac: float
    total_dc: float
    meters: list[str]
    ac_source: AcSource


class AlertsAnswer(Model):
    """Vehicles below a threshold over the fleet's default window, worst first."""

    threshold: float
    window: Window
    count: int
    alerts: list[Alert]


class RefreshAnswer(Model):
    """What a refresh checked and repaired."""

    buckets_checked: int
    buckets_repaired: int
    duration_ms: float


class RulesAnswer(Model):
    """What decides how a device's readings count."""

    energy_mode: Literal["interval", "register"]
    register_modulus_kwh: float | None
    rated_power_kw: float | None
    heartbeat_seconds: int


class PendingRulesAnswer(RulesAnswer):
    """Rules that hold once the device's history is recomputed; progress is a share of it."""

    progress: float


class DeviceName(Model):
    """What names a device."""

    type: Literal["meter", "vehicle"]
    id: str


class DeviceAnswer(RulesAnswer, DeviceName):
    """A device and its settings; until it is recomputed it counts by its old rules."""

    time_zone: str
    fleet: str | None
    alert_thresholds: dict[AlertKind, float | None]
    recomputing: PendingRulesAnswer | None


class DevicesAnswer(Model):
    """A page of devices in the order of their ids; `next` goes into `after`."""

    devices: list[DeviceAnswer]
    next: str | None


# Keys of JSON are strings, which strict validation would not take for a kind.
_Kind = Annotated[AlertKind, Field(strict=False)]
_Threshold = Annotated[float, Field(allow_inf_nan=False)]


class DeviceSettings(Model):
    """Settings to change; keys that are absent stay, null clears what may be absent."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=False, extra="forbid", strict=True
    )

    energy_mode: Literal["interval", "register"] = "interval"
    register_modulus_kwh: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    rated_power_kw: (
        Annotated[float, Field(ge=0.001, le=MAX_RATED_W / 1000, allow_inf_nan=False)] | None
    ) = None
    heartbeat_seconds: Annotated[int, Field(ge=1, le=86_400)] = 60
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    fleet: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")] | None = None
    alert_thresholds: dict[_Kind, _Threshold | None] | None = None


class EventAnswer(Model):
    """A reading of a register below the one before it, and what that was."""

    at: Time
    kind: Literal["rollover", "dip", "reset"]
    kwh: float
    before_at: Time
    before_kwh: float


class EventsAnswer(Model):
    """A page of events, oldest first; `next` goes into `after`."""

    events: list[EventAnswer]
    next: Time | None


class Ready(Model):
    """The engine takes readings and answers."""

    status: Literal["ready"]


class Alive(Model):
    """The engine's process runs."""

    status: Literal["alive"]
