"""When each kind of alert begins and ends: at a threshold, between the levels, without data."""

import numpy as np
import pytest

from wattstream.domain import alerts
from wattstream.domain.alerts import THRESHOLDS, AlertKind, thresholds_of
from wattstream.domain.units import BUCKET_US, MICRO
from wattstream.watch.quarters import Quarters, frozen_gain

NAN = float("nan")
CLOSED, OPEN = False, True


def decided(name: str, value: float, is_open: bool, threshold: float) -> bool:
    decision = getattr(alerts, name)
    (is_on,) = decision(np.array([value]), np.array([is_open]), np.array([threshold])).tolist()
    return bool(is_on)


@pytest.mark.parametrize(
    ("name", "threshold", "begins", "stays", "ends"),
    [
        # Values that open an alert; that neither open nor resolve one; that resolve it.
        ("low_efficiency", 0.85, [0.0, 0.849999], [0.85, 0.869999, NAN], [0.87, 1.5]),
        ("over_unity", 1.02, [1.020001, 9.0], [1.02, 1.010001, NAN], [1.01, 0.0]),
        ("frozen_meter", 0.5, [0.5, 7.0], [0.499999, NAN], [0.0]),
        ("silent", 5.0, [5.0, 1e9], [4.999999, 2.5, NAN], [2.499999, 0.0, -10.0]),
        ("battery_hot", 55.0, [55.0, 150.0], [54.999999, 52.000001, NAN], [52.0, -60.0]),
        ("clock_offset", 120.0, [120.0, -120.0, 7195.0], [119.9, -60.0, NAN], [59.9, -59.9, 0.0]),
    ],
)
def test_an_alert_opens_at_one_level_and_resolves_at_another(
    name: str, threshold: float, begins: list[float], stays: list[float], ends: list[float]
) -> None:
    for value in begins:
        assert decided(name, value, CLOSED, threshold), value
        assert decided(name, value, OPEN, threshold), value
    for value in stays:
        assert not decided(name, value, CLOSED, threshold), value
        assert decided(name, value, OPEN, threshold), value
    for value in ends:
        assert not decided(name, value, CLOSED, threshold), value
        assert not decided(name, value, OPEN, threshold), value
    for value in (*begins, *stays, *ends):
        assert not decided(name, value, CLOSED, NAN), "switched off"
        assert not decided(name, value, OPEN, NAN), "switched off"


def test_efficiency_is_judged_only_with_energy_and_half_of_both_streams() -> None:
    ac = np.array([1_000_000, 999_999, 1_000_000, 1_000_000, 0])
    dc = np.array([800_000, 800_000, 800_000, 800_000, 0])
    found = alerts.judged_efficiency(
        ac, dc, np.array([0.5, 1, 0.499, 1, 1]), np.array([0.5, 1, 1, 0.499, 1])
    )
    np.testing.assert_array_equal(found, [0.8, NAN, NAN, NAN, NAN])


def test_a_reset_counts_from_its_threshold_on() -> None:
    lost = np.array([0, 1, 2_000_000, 1_999_999, 5_000_000])
    found = alerts.register_reset(lost, np.array([0, 0, 2, 2, NAN]))
    assert found.tolist() == [False, True, True, False, False]


def test_a_device_may_have_a_threshold_of_its_own_or_none() -> None:
    own = {7: {"silent": 10.0, "battery_hot": 60.0}, 9: {"silent": None}, 8: {"battery_hot": None}}
    devices = np.array([3, 7, 9])
    np.testing.assert_array_equal(
        thresholds_of(AlertKind.SILENT, devices, 5, own), [5.0, 10.0, NAN]
    )
    np.testing.assert_array_equal(thresholds_of(AlertKind.SILENT, devices[:0], 5, own), [])


def test_every_kind_has_a_threshold_within_its_bounds() -> None:
    assert list(THRESHOLDS) == list(AlertKind)
    for limit in THRESHOLDS.values():
        assert limit.low <= limit.default <= limit.high


def quarters(*rows: tuple[int, int, int, int, bool]) -> Quarters:
    """Return quarter-hours of (vehicle, number, AC, DC in micro-kWh, covered)."""
    vehicle, place, ac, dc, covered = (np.array(column) for column in zip(*rows, strict=True))
    return Quarters(
        vehicle, place * BUCKET_US, ac, dc, np.full(len(rows), NAN), covered.astype(np.bool_)
    )


def test_a_meter_is_frozen_when_a_vehicle_gains_between_empty_quarter_hours() -> None:
    kwh = MICRO
    found = frozen_gain(
        quarters(
            # At the edge of a charge the two sides count at different minutes: not frozen.
            (1, 0, 5 * kwh, 5 * kwh, True), (1, 1, 0, kwh, True), (1, 2, 0, 0, True),
            # Frozen since a charge began; the tail of the charge does not hide it.
            (2, 0, 0, 0, True), (2, 1, 0, 5 * kwh, True), (2, 2, 0, kwh // 5, True),
            (2, 3, 0, 0, True),
            # The meter is back.
            (3, 0, 0, 2, True), (3, 1, 0, 5 * kwh, True), (3, 2, 0, 2, True),
            (3, 3, 1, 5 * kwh, True),
            # A gap, and a meter that sent too little, tell nothing.
            (4, 0, 0, kwh, True), (4, 2, 0, kwh, True), (4, 3, 0, kwh, True),
            (5, 0, 0, kwh, True), (5, 1, 0, kwh, True), (5, 2, 0, kwh, False),
            # Nobody charges.
            (6, 0, 0, 0, True), (6, 1, 0, 0, True), (6, 2, 0, 0, True),
        ),
        np.arange(8),
    )  # fmt: skip
    np.testing.assert_array_equal(found, [NAN, 0, 5, 0, NAN, NAN, NAN, NAN])
