"""Numbers and codes in words for people; every number has its unit."""

from datetime import UTC
from typing import Any

from wattstream.domain.units import MICRO, to_datetime

_NONE = "–"

KINDS = {
    "low_efficiency": "Low efficiency",
    "over_unity": "Efficiency above 100 %",
    "frozen_meter": "Meter stands still",
    "silent": "Silent",
    "battery_hot": "Hot battery",
    "efficiency_drift": "Efficiency falls",
    "clock_offset": "Clocks apart",
    "register_reset": "Register reset",
}
"""Kinds of alerts."""

REASONS = {
    "malformed_json": "The body or a line is not JSON.",
    "malformed_encoding": "The body does not unpack as its Content-Encoding says.",
    "not_an_array": "The body of a batch is no array of records.",
    "not_an_object": "The record is JSON, but no object.",
    "type_invalid": "`type` is no string.",
    "type_unknown": "`type` is neither meter nor vehicle.",
    "id_missing": "There is no meterId or vehicleId.",
    "id_ambiguous": "Both ids are there, and no type says which one counts.",
    "id_invalid": "An id has 1 to 128 printable characters without white space.",
    "conflict": "The device already has other values at this time. The first stand.",
    "timestamp_without_offset": "The time has no offset, such as Z or +01:00.",
    "timestamp_in_future": "The time is ahead of the engine's clock by more than is allowed.",
    "timestamp_too_old": "The time is further back than is allowed.",
    "too_many_readings": "A device may have 9,000 readings in a quarter-hour.",
    "refused_by_database": "The database refused it; the engine's log says why.",
}
_ENDINGS = {
    "_missing": "The value is missing.",
    "_invalid": "The value cannot be read.",
    "_out_of_range": "The value is outside what is possible.",
}


def reason(code: str) -> str:
    """Return why records of a code are refused."""
    fallback = next((text for end, text in _ENDINGS.items() if code.endswith(end)), "")
    return REASONS.get(code, fallback)


def energy(ukwh: int | None) -> str:
    """Return micro-kWh as kWh, MWh or GWh, three digits or more."""
    if ukwh is None:
        return _NONE
    value = ukwh / MICRO
    for unit, size in (("GWh", 1e6), ("MWh", 1e3)):
        if abs(value) >= size:
            return f"{value / size:,.2f} {unit}"
    return f"{value:,.3f} kWh" if 0 < abs(value) < 1 else f"{value:,.2f} kWh"


def quantity(value: float | None, unit: str, digits: int = 1) -> str:
    """Return a number with its unit."""
    return _NONE if value is None else f"{value:,.{digits}f} {unit}"


def percent(fraction: float | None) -> str:
    """Return a fraction as percent."""
    return quantity(None if fraction is None else 100 * fraction, "%")


def seconds(value: float | None) -> str:
    """Return a time span in the unit that suits it."""
    if value is None:
        return _NONE
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if abs(value) >= 2 * size:
            return f"{value / size:,.0f} {unit}"
    return f"{value:,.1f} s"


def moment(at_us: int) -> str:
    """Return a time for readers without scripts; others see it in their own zone."""
    return f"{to_datetime(at_us).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


_UNITS = {
    "Fraction": "%",
    "Kwh": "kWh",
    "C": "°C",
    "S": "s",
    "Seconds": "s",
    "Intervals": "heartbeats",
}
_LESS_TOLD = ("window", "acCoverage", "dcCoverage", "meters")


def evidence(shown: dict[str, Any], *, is_rest: bool = False) -> list[tuple[str, str]]:
    """Return what was seen as names and values, units taken from the keys.

    Args:
        shown: Evidence of an alert.
        is_rest: What is told to those who want all of it, else what it comes down to.
    """
    told = {key: value for key, value in shown.items() if key.startswith(_LESS_TOLD) == is_rest}
    keys = sorted(told, key=lambda key: (key.startswith("threshold"), "Kwh" in key))
    return [(_name(key), _value(key, told[key])) for key in keys]


def _split(key: str) -> tuple[str, str]:
    for end, unit in _UNITS.items():
        if key.endswith(end) and key != end:
            return key.removesuffix(end), unit
    return key, ""


def _name(key: str) -> str:
    name, _ = _split(key)
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in name).split()
    shown = {"ac": "AC", "dc": "DC", "soc": "SoC"}
    return " ".join(shown.get(word, word) for word in words)


def _value(key: str, value: Any) -> str:
    _, unit = _split(key)
    if unit == "%" and isinstance(value, (int, float)):
        return percent(value)
    if isinstance(value, float):
        value = f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return f"{value} {unit}".strip()
