"""A fleet of meters and vehicles in pairs, as a function of the clock.

Every value follows from (seed, pair, time) alone, in closed form, so any stretch of time can be
asked for in any order and gives the same readings. The field's numbers: home and work
chargers of 7.4, 11 and 22 kW, batteries of 40 to 90 kWh, conversion losses of 6 to 12 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wattstream.client.chance import normal, uniform
from wattstream.client.faults import FAULTS, Fault, Faults
from wattstream.domain.alerts import AlertKind
from wattstream.domain.units import BUCKET_US, MICRO, Bool, Float64, Int64

MINUTE_S = 60
_DAY_H = 24.0
_NOON_H = 12.0
_DRIVE_FROM_H, _DRIVE_TO_H = 19.0, 23.0  # 07:00 to 11:00, counted from noon
_MILD_C = 20.0  # chargers reach their efficiency here, and lose a little in the cold
_WEATHER_H = 270.0
_TAPER_PERCENT, _TAPER_SPAN = 80.0, 30.0  # from 80 % on, power falls in proportion


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """The readings of both streams at one time each, columns of n pairs.

    Attributes:
        pair: Number of the pair, from 0.
        meter_at_us: Time that the meter says, microseconds.
        vehicle_at_us: Time that the vehicle says, microseconds.
        ac_kwh: Drawn in the heartbeat that ends there, kWh.
        voltage_v: V.
        dc_kwh: Delivered to the battery in that heartbeat, kWh.
        soc_percent: %.
        temp_c: Of the battery, °C.
        is_vehicle_sent: False where the vehicle is silent.
    """

    pair: Int64
    meter_at_us: Int64
    vehicle_at_us: Int64
    ac_kwh: Float64
    voltage_v: Float64
    dc_kwh: Float64
    soc_percent: Float64
    temp_c: Float64
    is_vehicle_sent: Bool


@dataclass(frozen=True, slots=True)
class Manner:
    """How the devices of a fleet measure and report.

    Attributes:
        heartbeat_s: Seconds between heartbeats, whole minutes.
        noise: Of the efficiency measured in a quarter-hour, one standard deviation, as a
            share of it; each heartbeat has another 0.01 of its own.
        spread_s: Vehicles report up to so many seconds before their meters, each always
            the same.
    """

    heartbeat_s: int = MINUTE_S
    noise: float = 0.0
    spread_s: int = 0


_PLAIN = Manner()


class Fleet:
    """`pairs` chargers with their meter, and the vehicle that each one feeds."""

    def __init__(
        self,
        pairs: int,
        *,
        seed: int = 0,
        faulty_share: float = 0.03,
        faults: Sequence[Fault] = (),
        manner: Manner = _PLAIN,
    ) -> None:
        """Make a fleet; a `faulty_share` of its chargers has always lost 18 to 30 %.

        `faults` are given to others than these.
        """
        self.pairs = pairs
        self._seed = seed
        self._manner = manner
        self.faults = tuple(faults)
        self._faults = Faults(pairs, faults)
        pair = np.arange(pairs)
        self.offset_s = (self._uniform(pair, 1) * MINUTE_S).astype(np.int64)
        self._early_s = (self._uniform(pair, 14) * (manner.spread_s + 1)).astype(np.int64)
        self.is_faulty: Bool = (self._uniform(pair, 2) < faulty_share) & ~self._faults.is_given
        good, bad = 0.88 + 0.06 * self._uniform(pair, 3), 0.70 + 0.12 * self._uniform(pair, 3)
        self.efficiency: Float64 = np.where(self.is_faulty, bad, good)
        self._warmth = 0.0005 * self._uniform(pair, 15)
        self._power_kw = np.array([7.4, 11.0, 22.0])[(self._uniform(pair, 4) * 3).astype(int)]
        self._battery_kwh = 40 + 50 * self._uniform(pair, 5)
        self._standby_kw = 0.003 + 0.005 * self._uniform(pair, 6)

    def heartbeats(self, pair: Int64, minute: int | Int64) -> Heartbeats:
        """Return the readings of some pairs in a minute since 1970, one with a heartbeat.

        Args:
            pair: Numbers of the pairs.
            minute: One for all, or one for each of them.
        """
        at_s = minute * MINUTE_S + self.offset_s[pair]
        vehicle_s = at_s - self._early_s[pair]
        at_us, vehicle_us = at_s * MICRO, vehicle_s * MICRO
        now = self._soc(pair, vehicle_s)
        dc_kwh, true_c = self._delivered(pair, vehicle_s, now), self._temp(now, vehicle_s)
        through_kwh = dc_kwh if self._manner.spread_s == 0 else self._delivered(pair, at_s)
        ac_kwh, load_kw = self._drawn(pair, at_s, minute, through_kwh, true_c)
        sag_v = 4 * load_kw / 22
        temp_c = true_c + 0.1 * self._normal(pair, minute, 9)
        hot_c = FAULTS[AlertKind.BATTERY_HOT]["temperatureC"] + 2.0 * now.heat
        late_us = int(FAULTS[AlertKind.CLOCK_OFFSET]["offsetSeconds"]) * MICRO

        def has(kind: AlertKind) -> Bool:
            return self._faults.has(kind, pair, vehicle_us)

        shown_c: Float64 = np.where(has(AlertKind.BATTERY_HOT), hot_c, temp_c)
        return Heartbeats(
            pair,
            at_us,
            vehicle_us + np.where(has(AlertKind.CLOCK_OFFSET), late_us, 0),
            np.round(ac_kwh, 6),
            np.round(230 + 1.5 * self._normal(pair, minute, 8) - sag_v, 2),
            np.round(dc_kwh, 6),
            np.round(now.percent, 2),
            np.round(shown_c, 2),
            ~has(AlertKind.SILENT),
        )

    def _delivered(self, pair: Int64, at_s: Int64, now: "_Charge | None" = None) -> Float64:
        """Return what reached the battery in the heartbeat that ends at a time, kWh."""
        now = now or self._soc(pair, at_s)
        before = self._soc(pair, at_s - self._manner.heartbeat_s)
        is_charging = now.is_charging | before.is_charging
        rise = np.where(is_charging, np.maximum(now.percent - before.percent, 0), 0)
        return np.asarray(rise / 100 * self._battery_kwh[pair], np.float64)

    def _drawn(
        self, pair: Int64, at_s: Int64, minute: int | Int64, through_kwh: Float64, temp_c: Float64
    ) -> tuple[Float64, Float64]:
        """Return what the meter counts in the heartbeat that ends at a time, kWh; and the load."""
        at_us, hours = at_s * MICRO, self._manner.heartbeat_s / 3600
        cold = self._warmth[pair] * np.minimum(temp_c - _MILD_C, 0)
        true = self.efficiency[pair] + cold - self._faults.lost(pair, at_us)
        shown = FAULTS[AlertKind.OVER_UNITY]["efficiency"]
        true = np.where(self._faults.has(AlertKind.OVER_UNITY, pair, at_us), shown, true)
        noise = 1 + 0.01 * self._normal(pair, minute, 7)
        noise += self._manner.noise * self._normal(pair, at_us // BUCKET_US, 16)
        converted = through_kwh / np.maximum(true * noise, 0.01)
        drawn = converted + self._standby_kw[pair] * hours
        frozen = self._faults.has(AlertKind.FROZEN_METER, pair, at_us)
        return np.where(frozen, 0, drawn), converted / hours

    def _temp(self, charge: "_Charge", at_s: Int64) -> Float64:
        """Return the temperature of batteries, °C."""
        return _ambient_c(at_s) + 12 * charge.heat

    def _soc(self, pair: Int64, at_s: Int64) -> "_Charge":
        """Return the state of charge at a time.

        A day runs from noon to noon: parked, plugged in until full enough, parked, and driven
        from 07:00 to 11:00 down to where the next day starts.
        """
        hours = at_s / 3600 - _NOON_H
        day = np.floor(hours / _DAY_H).astype(np.int64)
        hour = hours - day * _DAY_H
        start = self._start_percent(pair, day)
        target = 75 + 25 * self._uniform(pair, 11, day)
        by_day = self._uniform(pair, 12, day) < 0.2
        plug_h = np.where(by_day, 0.5, 5.0) + 3.5 * self._uniform(pair, 13, day)
        rate = self._power_kw[pair] * self.efficiency[pair] / self._battery_kwh[pair] * 100
        full_h = np.minimum(plug_h + _hours_to(start, target, rate), _DRIVE_FROM_H)
        charged = _percent_after(start, rate * np.clip(hour, plug_h, full_h) - rate * plug_h)
        driven = np.clip((hour - _DRIVE_FROM_H) / (_DRIVE_TO_H - _DRIVE_FROM_H), 0, 1)
        percent = charged + driven * (self._start_percent(pair, day + 1) - charged)
        is_charging = (hour > plug_h) & (hour <= full_h)
        warm = 1 - np.exp(-np.clip(hour - plug_h, 0, full_h - plug_h) / 0.7)
        heat = warm * np.exp(-np.maximum(hour - full_h, 0))
        return _Charge(percent, is_charging, heat)

    def _start_percent(self, pair: Int64, day: Int64) -> Float64:
        return 20 + 30 * self._uniform(pair, 10, day)

    def _uniform(self, pair: Int64, purpose: int, when: Int64 | int = 0) -> Float64:
        return uniform(self._seed, pair, purpose, when)

    def _normal(self, pair: Int64, when: Int64 | int, purpose: int) -> Float64:
        return normal(self._seed, pair, purpose, when)

    def chance(self, pair: Int64, minute: int, purpose: int) -> Float64:
        """Return numbers in [0, 1) for what else may happen to a heartbeat."""
        return self._uniform(pair, 1000 + purpose, minute)


@dataclass(frozen=True, slots=True)
class _Charge:
    percent: Float64
    is_charging: Bool
    heat: Float64


def _percent_after(start: Float64, gained: Float64) -> Float64:
    """Return the state of charge after `gained` percent at full power, with the taper."""
    linear = start + gained
    over = np.maximum(linear - _TAPER_PERCENT, 0)
    tapered = _TAPER_PERCENT + _TAPER_SPAN * (1 - np.exp(-over / _TAPER_SPAN))
    return np.where(linear <= _TAPER_PERCENT, linear, tapered)


def _hours_to(start: Float64, target: Float64, rate: Float64) -> Float64:
    """Return the hours from one state of charge to another, the inverse of the above."""
    over = np.maximum(target - _TAPER_PERCENT, 0)
    needed = np.minimum(target, _TAPER_PERCENT) - start
    return (needed - _TAPER_SPAN * np.log1p(-over / _TAPER_SPAN)) / rate


def _ambient_c(at_s: Int64) -> Float64:
    """Return the air's temperature: warm afternoons, and warm and cold weeks."""
    hours = at_s / 3600
    daily = 7 * np.sin(2 * np.pi * (hours - 9) / _DAY_H)
    weather = 4 * np.sin(2 * np.pi * hours / _WEATHER_H)
    return np.asarray(14 + daily + weather, np.float64)
