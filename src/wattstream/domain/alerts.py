"""Alerts: their kinds, their thresholds, and when each begins and ends.

A decision takes columns, a row a device, and tells which devices are at fault now. Between the
level that opens an alert and the one that resolves it, what was stays. So it does where a value
is NaN: not known. A threshold of NaN switches a device's alerts of that kind off.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from wattstream.domain.efficiency import OVER_UNITY
from wattstream.domain.readings import Stream
from wattstream.domain.units import DAY_US, MICRO, Bool, Float64, Int64


class AlertKind(StrEnum):
    """What can be wrong with a device."""

    LOW_EFFICIENCY = "low_efficiency"
    OVER_UNITY = "over_unity"
    FROZEN_METER = "frozen_meter"
    SILENT = "silent"
    BATTERY_HOT = "battery_hot"
    EFFICIENCY_DRIFT = "efficiency_drift"
    CLOCK_OFFSET = "clock_offset"
    REGISTER_RESET = "register_reset"


class AlertState(StrEnum):
    """Where an alert is in its life; one that is acknowledged is still there."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert of one kind about one device, from its opening on.

    Attributes:
        alert_id: Its number, rising.
        stream: Of the device.
        device: Outside id.
        opened_at_us: When the fault was first seen.
        acknowledged_at_us: When a person took note, or None.
        acknowledged_by: Who, or None where not said.
        resolved_at_us: When the fault was seen to be over, or None.
        evidence: What was seen at the opening; keys name their units.
        resolution: What was seen when it was over, or None.
    """

    alert_id: int
    kind: AlertKind
    stream: Stream
    device: str
    opened_at_us: int
    acknowledged_at_us: int | None
    acknowledged_by: str | None
    resolved_at_us: int | None
    evidence: dict[str, Any]
    resolution: dict[str, Any] | None

    @property
    def state(self) -> AlertState:
        """Return where it is in its life."""
        if self.resolved_at_us is not None:
            return AlertState.RESOLVED
        return AlertState.OPEN if self.acknowledged_at_us is None else AlertState.ACKNOWLEDGED


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts are asked for; None does not narrow."""

    state: AlertState | None = None
    kind: AlertKind | None = None
    stream: Stream | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Threshold:
    """The one number of a kind.

    Attributes:
        default: Where neither a setting nor the device says otherwise.
        low: Least value allowed.
        high: Greatest value allowed.
        unit: For people.
    """

    default: float
    low: float
    high: float
    unit: str


THRESHOLDS: Mapping[AlertKind, Threshold] = {
    AlertKind.LOW_EFFICIENCY: Threshold(0.85, 0.01, 1, "fraction"),
    AlertKind.OVER_UNITY: Threshold(OVER_UNITY, 1, 10, "fraction"),
    AlertKind.FROZEN_METER: Threshold(0.5, 0.001, 1000, "kWh"),
    AlertKind.SILENT: Threshold(5, 1, 1_000_000, "intervals"),
    AlertKind.BATTERY_HOT: Threshold(55, -60, 150, "°C"),
    AlertKind.EFFICIENCY_DRIFT: Threshold(1, 0.1, 100, "times"),
    AlertKind.CLOCK_OFFSET: Threshold(120, 1, 86_400, "s"),
    AlertKind.REGISTER_RESET: Threshold(0, 0, 1e9, "kWh"),
}
"""In the order of the kinds."""

MIN_AC_UKWH = 1_000_000
"""Efficiency of less AC energy than this is not judged, micro-kWh."""
MIN_COVERAGE = 0.5
"""Share of a window that readings must cover, on both sides, for its efficiency to be judged."""

RESET_SHOWN_US = DAY_US
"""How long a reset is an alert."""

_STANDBY_UKWH = 165_000.0  # 0.85 of 8 W for a day: what a meter draws while nothing charges
_CHANCE = 1.5 * 0.02  # standard deviations of a quarter-hour's efficiency
_QUARTER_UKWH = 5_500_000.0  # of charging at 22 kW
_EFFICIENCY_MARGIN = 0.02
_OVER_UNITY_MARGIN = 0.01
_HOT_MARGIN_C = 3.0


def judged_efficiency(
    ac_ukwh: Int64, dc_ukwh: Int64, ac_coverage: Float64, dc_coverage: Float64
) -> Float64:
    """Return dc / ac as fractions; NaN where there is too little to judge by.

    Args:
        ac_ukwh: Drawn by a vehicle's meters over the window, micro-kWh.
        dc_ukwh: Delivered to it meanwhile, micro-kWh.
        ac_coverage: Share of the window that the meters' readings cover, fraction.
        dc_coverage: Share of it that the vehicle's readings cover, fraction.
    """
    is_known = (
        (ac_ukwh >= MIN_AC_UKWH) & (ac_coverage >= MIN_COVERAGE) & (dc_coverage >= MIN_COVERAGE)
    )
    return np.where(is_known, dc_ukwh / np.where(is_known, ac_ukwh, 1), np.nan)


def edge_doubt(ac_ukwh: Int64, edge_ukwh: Float64) -> Float64:
    """Return how far a day's efficiency may be wrong where the day cuts a session, fraction.

    Args:
        ac_ukwh: Drawn over the day, micro-kWh.
        edge_ukwh: What one side may have counted that the other has not, micro-kWh.
    """
    return np.asarray(edge_ukwh / np.maximum(ac_ukwh, MIN_AC_UKWH), np.float64)


def loss_doubt(ac_ukwh: Int64) -> Float64:
    """Return how far a day's efficiency may be below that of a charger without a fault.

    A meter draws a little all day, which takes a large share where the day holds the end of a
    session only; and the fewer quarter-hours were charged in, the less their noise cancels.

    Args:
        ac_ukwh: Drawn over the day, micro-kWh.

    Returns:
        Fractions: 0.2 at 1 kWh, 0.04 at 10, 0.01 at 100.
    """
    ac = np.maximum(ac_ukwh, MIN_AC_UKWH).astype(np.float64)
    noise = _CHANCE * np.sqrt(ac * np.minimum(ac, _QUARTER_UKWH))
    return np.asarray((_STANDBY_UKWH + noise) / ac, np.float64)


def low_efficiency(efficiency: Float64, is_open: Bool, threshold: Float64) -> Bool:
    """Return where efficiency is below the threshold; over at 2 points above it."""
    rises = efficiency >= threshold + _EFFICIENCY_MARGIN
    return _held(efficiency < threshold, rises, is_open, threshold)


def over_unity(efficiency: Float64, is_open: Bool, threshold: Float64) -> Bool:
    """Return where efficiency is above the threshold; over at 1 point below it."""
    falls = efficiency <= threshold - _OVER_UNITY_MARGIN
    return _held(efficiency > threshold, falls, is_open, threshold)


def frozen_meter(gained_kwh: Float64, is_open: Bool, threshold: Float64) -> Bool:
    """Return where a vehicle gained energy while its meters gained nothing for 15 minutes.

    Args:
        gained_kwh: What the vehicle gained meanwhile; 0 where its meters gained something, NaN
            where neither did.
        is_open: Where the alert is open; over as soon as a meter gains anything.
        threshold: kWh, above 0.
    """
    return _held(gained_kwh >= threshold, gained_kwh <= 0, is_open, threshold)


def silent(quiet_intervals: Float64, is_open: Bool, threshold: Float64) -> Bool:
    """Return where nothing was heard for as many intervals; over at less than half of them.

    Args:
        quiet_intervals: Time since a reading came, in heartbeats of the device; NaN for one
            that never reported, which is not silent.
        is_open: Where the alert is open.
        threshold: Intervals.
    """
    return _held(quiet_intervals >= threshold, quiet_intervals < threshold / 2, is_open, threshold)


def battery_hot(temperature_c: Float64, is_open: Bool, threshold: Float64) -> Bool:
    """Return where a battery is at the threshold or above, °C; over at 3 °C below it."""
    cools = temperature_c <= threshold - _HOT_MARGIN_C
    return _held(temperature_c >= threshold, cools, is_open, threshold)


def clock_offset(offset_s: Float64, is_open: Bool, threshold: Float64) -> Bool:
    """Return where two clocks differ by the threshold or more, seconds; over below half of it."""
    apart = np.abs(offset_s)
    return _held(apart >= threshold, apart < threshold / 2, is_open, threshold)


def register_reset(lost_ukwh: Int64, threshold: Float64) -> Bool:
    """Return where a register was reset within RESET_SHOWN_US; over after that.

    Args:
        lost_ukwh: What the newest reset took off, micro-kWh; 0 where there was none.
        threshold: Least loss that counts, kWh.
    """
    return np.asarray((lost_ukwh > 0) & (lost_ukwh / MICRO >= threshold))


def thresholds_of(
    kind: AlertKind,
    devices: Int64,
    usual: float,
    overrides: Mapping[int, Mapping[str, float | None]],
) -> Float64:
    """Return each device's threshold of a kind; NaN where the device has it switched off.

    Args:
        kind: Of the alert.
        devices: Keys, ascending.
        usual: For devices without one of their own.
        overrides: By device key and kind; None switches off.
    """
    column = np.full(len(devices), usual, np.float64)
    own = [
        (key, np.nan if value is None else value)
        for key, of_device in overrides.items()
        for named, value in of_device.items()
        if named == kind
    ]
    if own and len(devices):
        keys, values = np.array(own, np.float64).T
        place = np.minimum(np.searchsorted(devices, keys), len(devices) - 1)
        is_here = devices[place] == keys
        column[place[is_here]] = values[is_here]
    return column


def _held(begins: Bool, ends: Bool, is_open: Bool, threshold: Float64) -> Bool:
    return np.where(is_open, ~ends, begins) & ~np.isnan(threshold)
