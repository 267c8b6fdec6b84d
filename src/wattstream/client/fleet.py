"""A fleet of meters and vehicles in pairs, as a function of the clock.

Every value follows from (seed, pair, time) alone, in closed form, so any stretch of time can be
asked for in any order and gives the same readings. The field's numbers: home and work
chargers of 7.4, 11 and 22 kW, batteries of 40 to 90 kWh, conversion losses of 6 to 12 %.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wattstream.domain.units import MICRO, Bool, Float64, Int64

MINUTE_S = 60
_DAY_H = 24.0
_NOON_H = 12.0
_DRIVE_FROM_H, _DRIVE_TO_H = 19.0, 23.0  # 07:00 to 11:00, counted from noon
_TAPER_PERCENT, _TAPER_SPAN = 80.0, 30.0  # from 80 % on, power falls in proportion


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """The readings of both streams at one time each, columns of n pairs.

    Attributes:
        pair: Number of the pair, from 0.
        at_us: Measured at, microseconds.
        ac_kwh: Drawn in the minute that ends there, kWh.
        voltage_v: V.
        dc_kwh: Delivered to the battery in that minute, kWh.
        soc_percent: %.
        temp_c: Of the battery, °C.
    """

    pair: Int64
    at_us: Int64
    ac_kwh: Float64
    voltage_v: Float64
    dc_kwh: Float64
    soc_percent: Float64
    temp_c: Float64


class Fleet:
    """`pairs` chargers with their meter, and the vehicle that each one feeds."""

    def __init__(self, pairs: int, *, seed: int = 0, faulty_share: float = 0.03) -> None:
        """Make a fleet; a `faulty_share` of its chargers loses 18 to 30 %."""
        self.pairs = pairs
        self._seed = seed
        pair = np.arange(pairs)
        self.offset_s = (self._uniform(pair, 1) * MINUTE_S).astype(np.int64)
        self.is_faulty: Bool = self._uniform(pair, 2) < faulty_share
        good, bad = 0.88 + 0.06 * self._uniform(pair, 3), 0.70 + 0.12 * self._uniform(pair, 3)
        self.efficiency: Float64 = np.where(self.is_faulty, bad, good)
        self._power_kw = np.array([7.4, 11.0, 22.0])[(self._uniform(pair, 4) * 3).astype(int)]
        self._battery_kwh = 40 + 50 * self._uniform(pair, 5)
        self._standby_kw = 0.003 + 0.005 * self._uniform(pair, 6)

    def heartbeats(self, pair: Int64, minute: int) -> Heartbeats:
        """Return the readings of some pairs in a minute since 1970."""
        at_s = minute * MINUTE_S + self.offset_s[pair]
        now, before = self._soc(pair, at_s), self._soc(pair, at_s - MINUTE_S)
        is_charging = now.is_charging | before.is_charging
        rise = np.where(is_charging, np.maximum(now.percent - before.percent, 0), 0)
        dc_kwh = np.round(rise / 100 * self._battery_kwh[pair], 6)
        noise = 1 + 0.01 * self._normal(pair, minute, 7)
        converted = dc_kwh / np.clip(self.efficiency[pair] * noise, 0.01, 1)
        load_kw = converted * MINUTE_S
        sag_v = 4 * load_kw / 22
        return Heartbeats(
            pair,
            at_s * MICRO,
            np.round(converted + self._standby_kw[pair] / MINUTE_S, 6),
            np.round(230 + 1.5 * self._normal(pair, minute, 8) - sag_v, 2),
            dc_kwh,
            np.round(now.percent, 2),
            np.round(_ambient_c(at_s) + 12 * now.heat + 0.1 * self._normal(pair, minute, 9), 2),
        )

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
        """Return numbers in [0, 1) that depend on (seed, pair, purpose, when) only.

        Source: Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators" (2014), the
        finalizer of SplitMix64.
        """
        with np.errstate(over="ignore"):
            x = np.asarray(pair, np.uint64) * _u(0x9E3779B97F4A7C15)
            x = x + _u(purpose) * _u(0xD1B54A32D192ED03)
            x = x + np.asarray(when, np.int64).astype(np.uint64) * _u(0x8CB92BA72F3D8DD7)
            x = x + _u(self._seed % 2**64) * _u(0xABC98388FB8FAC03)
            for _ in range(2):
                x = (x ^ (x >> _u(30))) * _u(0xBF58476D1CE4E5B9)
                x = (x ^ (x >> _u(27))) * _u(0x94D049BB133111EB)
                x = x ^ (x >> _u(31))
        return np.asarray((x >> _u(11)) / 2.0**53, np.float64)

    def _normal(self, pair: Int64, minute: int, purpose: int) -> Float64:
        """Return numbers of mean 0 and deviation 1, nearly normal: sums of four uniforms."""
        total = np.zeros(len(pair))
        for i in range(4):
            total += self._uniform(pair, 100 * purpose + i, minute)
        return np.asarray((total - 2) * 3.0**0.5, np.float64)

    def chance(self, pair: Int64, minute: int, purpose: int) -> Float64:
        """Return numbers in [0, 1) for what else may happen to a heartbeat."""
        return self._uniform(pair, 1000 + purpose, minute)


@dataclass(frozen=True, slots=True)
class _Charge:
    percent: Float64
    is_charging: Bool
    heat: Float64


def _u(value: int) -> NDArray[np.uint64]:
    return np.asarray(value, np.uint64)


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
    return 14 + 7 * np.sin(2 * np.pi * (at_s / 3600 - 9) / _DAY_H)
