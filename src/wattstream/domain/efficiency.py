"""Efficiency and what it says about the hardware."""

import enum

OVER_UNITY = 1.02
"""Efficiency above this cannot be: a meter or a link is wrong."""


class Status(enum.StrEnum):
    """What a performance answer amounts to; the first that holds."""

    NO_DATA = "no_data"
    NO_METER = "no_meter"
    OVER_UNITY = "over_unity"
    LOW_EFFICIENCY = "low_efficiency"
    OK = "ok"


def efficiency(dc_ukwh: int, ac_ukwh: int | None) -> float | None:
    """Return charging efficiency as a fraction, 1.0 meaning no loss.

    Args:
        dc_ukwh: Energy delivered to the battery over [start, end), micro-kWh, >= 0.
        ac_ukwh: Energy drawn from the grid over the same range, micro-kWh, >= 0; None
            where no meter was linked.

    Returns:
        dc / ac, or None when ac is None or 0. Above 1 is returned as it is: it means a
        meter fault, and clamping would hide it.
    """
    return dc_ukwh / ac_ukwh if ac_ukwh else None


def status(
    *, vehicle_readings: int, has_meter: bool, value: float | None, threshold: float
) -> Status:
    """Return the first status that holds.

    Args:
        vehicle_readings: Readings of the vehicle in the range.
        has_meter: Whether a meter was linked at any time of the range.
        value: Efficiency as a fraction, or None.
        threshold: Efficiency below this is low, fraction.
    """
    if vehicle_readings == 0:
        return Status.NO_DATA
    if not has_meter:
        return Status.NO_METER
    if value is not None and value > OVER_UNITY:
        return Status.OVER_UNITY
    if value is not None and value < threshold:
        return Status.LOW_EFFICIENCY
    return Status.OK
