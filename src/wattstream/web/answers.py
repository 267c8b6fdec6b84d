"""From the values of the query floor to the JSON of the API."""

from typing import Any, Literal
from zoneinfo import available_timezones

from wattstream.domain.alerts import AlertKind
from wattstream.domain.devices import Device, DeviceChange, PendingRules
from wattstream.domain.errors import ReadingError
from wattstream.domain.falls import Fall, FallKind
from wattstream.domain.holdings import StreamStats
from wattstream.domain.readings import Stream
from wattstream.domain.register import EnergyMode, Rules
from wattstream.domain.units import MICRO, NEVER_US, kwh, rfc3339
from wattstream.query.latest import LiveState
from wattstream.query.low_efficiency import Alerts
from wattstream.query.performance import Performance
from wattstream.web import models
from wattstream.web.alerts import own_thresholds

_FALLS: dict[FallKind, Literal["rollover", "dip", "reset"]] = {
    FallKind.ROLLOVER: "rollover",
    FallKind.DIP: "dip",
    FallKind.RESET: "reset",
}


def status(state: LiveState, now_us: int) -> models.MeterStatus | models.VehicleStatus:
    """Return the live state of a device as JSON; age is by the engine's clock."""
    latest = state.latest
    timestamp, received_at = rfc3339(latest.at_us), rfc3339(latest.received_at_us)
    age_seconds = (now_us - latest.at_us) / MICRO
    energy = kwh(latest.values.energy_ukwh)
    if state.device.stream is Stream.METER:
        return models.MeterStatus(
            type="meter",
            meter_id=state.device.external_id,
            kwh_consumed_ac=energy,
            voltage=state.fields[0],
            timestamp=timestamp,
            received_at=received_at,
            age_seconds=age_seconds,
        )
    return models.VehicleStatus(
        type="vehicle",
        vehicle_id=state.device.external_id,
        kwh_delivered_dc=energy,
        soc=state.fields[0],
        battery_temp=state.fields[1],
        timestamp=timestamp,
        received_at=received_at,
        age_seconds=age_seconds,
        charging=state.is_charging,
    )


def performance(answer: Performance) -> models.PerformanceAnswer:
    """Return a performance answer as JSON."""
    return models.PerformanceAnswer(
        vehicle_id=answer.vehicle_id,
        window=window(answer.start_us, answer.end_us),
        total_ac=None if answer.ac_ukwh is None else kwh(answer.ac_ukwh),
        total_dc=kwh(answer.dc_ukwh),
        efficiency=answer.efficiency,
        avg_battery_temp=answer.battery_temp_c,
        suspect_kwh=models.SuspectKwh(
            ac=kwh(answer.ac_suspect_ukwh), dc=kwh(answer.dc_suspect_ukwh)
        ),
        meters=answer.meters,
        ac_source=answer.ac_source,
        readings=models.ReadingCounts(vehicle=answer.vehicle_readings, meter=answer.meter_readings),
        status=answer.status,
        reason=answer.reason,
    )


def stats(held: dict[Stream, StreamStats]) -> models.StatsAnswer:
    """Return what is held as JSON."""
    return models.StatsAnswer(
        meter=_stream_stats(held[Stream.METER]), vehicle=_stream_stats(held[Stream.VEHICLE])
    )


def _stream_stats(held: StreamStats) -> models.StreamStatsAnswer:
    return models.StreamStatsAnswer(
        devices=held.devices,
        readings=sum(day.readings for day in held.days),
        readings_per_day=[
            models.DayAnswer(day=day.day, readings=day.readings) for day in held.days
        ],
        first_reading=_time(held.first_at_us),
        last_reading=_time(held.last_at_us),
        rejections=held.rejections,
    )


def alerts(found: Alerts, threshold: float) -> models.AlertsAnswer:
    """Return vehicles below a threshold as JSON."""
    return models.AlertsAnswer(
        threshold=threshold,
        window=window(found.start_us, found.end_us),
        count=len(found.alerts),
        alerts=[
            models.Alert(
                vehicle_id=alert.vehicle_id,
                efficiency=alert.efficiency,
                total_ac=kwh(alert.ac_ukwh),
                total_dc=kwh(alert.dc_ukwh),
                meters=alert.meters,
                ac_source=alert.ac_source,
            )
            for alert in found.alerts
        ],
    )


def device(found: Device, pending: PendingRules | None) -> models.DeviceAnswer:
    """Return a device's settings as JSON, with those that it waits for."""
    waits = None
    if pending is not None:
        waits = models.PendingRulesAnswer(**_rules(pending.rules), progress=pending.progress)
    return models.DeviceAnswer(
        type=found.stream.value,
        id=found.external_id,
        **_rules(found.rules),
        time_zone=found.time_zone,
        fleet=found.fleet,
        alert_thresholds={AlertKind(kind): value for kind, value in found.alert_thresholds.items()},
        recomputing=waits,
    )


def _rules(rules: Rules) -> dict[str, Any]:
    """Return the keys of models.RulesAnswer."""
    return {
        "energy_mode": rules.energy_mode.name.lower(),
        "register_modulus_kwh": None if rules.modulus_ukwh is None else kwh(rules.modulus_ukwh),
        "rated_power_kw": None if rules.rated_w is None else rules.rated_w / 1000,
        "heartbeat_seconds": rules.heartbeat_s,
    }


def device_change(settings: models.DeviceSettings) -> DeviceChange:
    """Return what a client asked to change.

    Raises:
        ReadingError: The time zone is not an IANA name.
    """
    named = settings.model_fields_set
    zone = settings.time_zone if "time_zone" in named else None
    # Two of the names mean what the machine is set to, or nothing.
    if zone is not None and zone not in available_timezones() - {"localtime", "Factory"}:
        raise ReadingError(
            f"timeZone must be an IANA name such as Europe/Paris, got {ascii(zone)[:60]}",
            code="time_zone_unknown",
            field="timeZone",
        )
    modulus, rated = settings.register_modulus_kwh, settings.rated_power_kw
    clear = {
        column
        for name, column, value in (
            ("register_modulus_kwh", "modulus_ukwh", modulus),
            ("rated_power_kw", "rated_w", rated),
            ("fleet", "fleet", settings.fleet),
            ("alert_thresholds", "alert_thresholds", settings.alert_thresholds),
        )
        if name in named and value is None
    }
    return DeviceChange(
        energy_mode=EnergyMode[settings.energy_mode.upper()] if "energy_mode" in named else None,
        modulus_ukwh=None if modulus is None else max(1, round(modulus * MICRO)),
        rated_w=None if rated is None else round(rated * 1000),
        heartbeat_s=settings.heartbeat_seconds if "heartbeat_seconds" in named else None,
        time_zone=zone,
        fleet=settings.fleet,
        alert_thresholds=own_thresholds(settings.alert_thresholds),
        clear=frozenset(clear),
    )


def event(fall: Fall) -> models.EventAnswer:
    """Return a fall of a register as JSON."""
    return models.EventAnswer(
        at=rfc3339(fall.at_us),
        kind=_FALLS[fall.kind],
        kwh=kwh(fall.ukwh),
        before_at=rfc3339(fall.before_us),
        before_kwh=kwh(fall.before_ukwh),
    )


def window(start_us: int, end_us: int) -> models.Window:
    """Return a range as JSON."""
    return models.Window(start=rfc3339(start_us), end=rfc3339(end_us))


def _time(at_us: int) -> str | None:
    return None if at_us == NEVER_US else rfc3339(at_us)
