"""Simulated faults: what the truth says is what the readings show, and nothing else changes."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from wattstream.cli.truth import wanted, write_truth
from wattstream.client.faults import FAULTS, Fault, choose
from wattstream.client.fleet import Fleet, Heartbeats, Manner
from wattstream.client.simulate import Plan, Simulation
from wattstream.domain.alerts import AlertKind
from wattstream.domain.units import DAY_US, MICRO, Float64

PAIRS = 40
MINUTE = 29_510_640  # noon of a day in February 2026
MINUTE_US = 60 * MICRO
BEGINS_US = (MINUTE + 720) * MINUTE_US
EVERYONE = np.arange(PAIRS)


def beats(fleet: Fleet, minutes: range) -> Heartbeats:
    return fleet.heartbeats(np.tile(EVERYONE, len(minutes)), np.repeat(minutes, PAIRS))


def column(found: Heartbeats, name: str) -> Float64:
    """Return a column as a table, a row a minute."""
    return np.asarray(getattr(found, name)).reshape(-1, PAIRS)


def both(kind: AlertKind, minutes: range) -> tuple[Heartbeats, Heartbeats]:
    """Return the heartbeats of a fleet whose even pairs have a fault, and of a healthy one."""
    faults = [Fault(kind, pair, BEGINS_US) for pair in range(0, PAIRS, 2)]
    sick = Fleet(PAIRS, seed=5, faulty_share=0, faults=faults)
    return beats(sick, minutes), beats(Fleet(PAIRS, seed=5, faulty_share=0), minutes)


@pytest.mark.parametrize("kind", FAULTS)
def test_nothing_changes_before_a_fault_and_for_others(kind: AlertKind) -> None:
    sick, healthy = both(kind, range(MINUTE + 600, MINUTE + 1000, 7))
    before = column(healthy, "vehicle_at_us") < BEGINS_US
    is_other = np.broadcast_to(EVERYONE % 2 == 1, before.shape)
    for name in Heartbeats.__slots__[1:]:
        ours, theirs = column(sick, name), column(healthy, name)
        np.testing.assert_array_equal(ours[before | is_other], theirs[before | is_other])


def day_efficiency(found: Heartbeats) -> Float64:
    dc = column(found, "dc_kwh")
    ac = np.where(dc > 0, column(found, "ac_kwh"), 0)
    return np.asarray(dc.sum(axis=0) / ac.sum(axis=0))[::2]


@pytest.mark.parametrize(
    ("kind", "day", "points"),
    [
        (AlertKind.LOW_EFFICIENCY, 1, 15),
        (AlertKind.EFFICIENCY_DRIFT, 5, 1.5),
        (AlertKind.EFFICIENCY_DRIFT, 10, 3),
        (AlertKind.EFFICIENCY_DRIFT, 20, 3),
    ],
)
def test_efficiency_is_lost_as_the_truth_says(kind: AlertKind, day: int, points: float) -> None:
    start = MINUTE + 720 + day * 1440 - 720
    sick, healthy = both(kind, range(start, start + 1440, 2))
    lost = day_efficiency(healthy) - day_efficiency(sick)
    np.testing.assert_allclose(100 * lost, points, atol=0.2)


def test_the_other_faults_are_as_the_truth_says() -> None:
    minutes = range(MINUTE + 1440, MINUTE + 2880, 3)
    sick, _ = both(AlertKind.OVER_UNITY, minutes)
    np.testing.assert_allclose(day_efficiency(sick), 1.1, atol=0.01)
    sick, _ = both(AlertKind.FROZEN_METER, minutes)
    assert (column(sick, "ac_kwh")[:, ::2] == 0).all()
    assert (column(sick, "dc_kwh")[:, ::2].sum(axis=0) > 1).all()
    sick, _ = both(AlertKind.SILENT, minutes)
    assert not column(sick, "is_vehicle_sent")[:, ::2].any()
    sick, _ = both(AlertKind.BATTERY_HOT, minutes)
    np.testing.assert_allclose(column(sick, "temp_c")[:, ::2], 63, atol=1.01)
    sick, healthy = both(AlertKind.CLOCK_OFFSET, minutes)
    moved = column(sick, "vehicle_at_us") - column(healthy, "vehicle_at_us")
    assert set(moved[:, ::2].ravel().tolist()) == {-1200 * MICRO}
    np.testing.assert_array_equal(column(sick, "meter_at_us"), column(healthy, "meter_at_us"))


@given(st.integers(0, 2**63), st.integers(0, 20), st.integers(0, 20))
def test_pairs_are_chosen_once_each_and_faults_begin_in_time(
    seed: int, drifts: int, silences: int
) -> None:
    counts = {AlertKind.EFFICIENCY_DRIFT: drifts, AlertKind.SILENT: silences}
    chosen = choose(PAIRS, counts, seed, BEGINS_US, BEGINS_US + DAY_US)
    assert len({fault.pair for fault in chosen}) == len(chosen) == drifts + silences
    assert sum(fault.kind is AlertKind.SILENT for fault in chosen) == silences
    assert all(BEGINS_US <= fault.begins_us < BEGINS_US + DAY_US for fault in chosen)
    assert chosen == choose(PAIRS, counts, seed, BEGINS_US, BEGINS_US + DAY_US)


def test_noise_is_that_of_a_quarter_hour() -> None:
    manner = Manner(heartbeat_s=900, noise=0.05)
    noisy, plain = Fleet(PAIRS, manner=manner), Fleet(PAIRS, manner=Manner(heartbeat_s=900))
    minutes = range(MINUTE + 7, MINUTE + 5 * 1440, 15)
    pairs = [(fleet, beats(fleet, minutes)) for fleet in (noisy, plain)]
    (_, ours), (_, theirs) = pairs
    dc = column(theirs, "dc_kwh")
    np.testing.assert_array_equal(column(ours, "dc_kwh"), dc)
    ratio = column(theirs, "ac_kwh")[dc > 0.5] / column(ours, "ac_kwh")[dc > 0.5]
    assert 0.045 < ratio.std() < 0.055
    assert abs(ratio.mean() - 1) < 0.005


def test_the_heartbeats_of_a_longer_interval_hold_the_same_energy() -> None:
    minutes = range(MINUTE, MINUTE + 1440)
    each = column(beats(Fleet(PAIRS), minutes), "dc_kwh").reshape(96, 15, PAIRS).sum(axis=1)
    whole = beats(Fleet(PAIRS, manner=Manner(heartbeat_s=900)), minutes[14::15])
    np.testing.assert_allclose(column(whole, "dc_kwh"), each, atol=2e-5)


def test_sides_apart_by_seconds_count_the_same_charge() -> None:
    minutes = range(MINUTE, MINUTE + 1440)
    apart = beats(Fleet(PAIRS, manner=Manner(spread_s=59)), minutes)
    early_us = column(apart, "meter_at_us") - column(apart, "vehicle_at_us")
    assert early_us.min() >= 0
    assert early_us.max() <= 59 * MICRO
    assert len(np.unique(early_us)) > 10
    together = column(beats(Fleet(PAIRS), minutes), "ac_kwh")
    np.testing.assert_allclose(column(apart, "ac_kwh"), together, rtol=0.02, atol=1e-6)


def test_the_truth_names_every_fault(tmp_path: Path) -> None:
    faults = choose(PAIRS, dict.fromkeys(FAULTS, 2), 3, BEGINS_US, BEGINS_US + DAY_US)
    fleet = Fleet(PAIRS, seed=3, faulty_share=0.5, faults=faults)
    write_truth(tmp_path / "truth", Simulation(fleet, Plan(), "SIM-", 3).truth())
    lines = [json.loads(line) for line in (tmp_path / "truth").read_text().splitlines()]
    begun = [line for line in lines if line["begins"] is not None]
    assert [line["kind"] for line in begun] == [kind for kind in FAULTS for _ in range(2)]
    for line, fault in zip(begun, faults, strict=True):
        assert line["meterId"] == line["vehicleId"] == f"SIM-{fault.pair + 1:06d}"
        assert {key: line[key] for key in FAULTS[fault.kind]} == FAULTS[fault.kind]
    always = [line for line in lines if line["begins"] is None]
    assert len(always) == fleet.is_faulty.sum() > 5
    assert all(line["efficiency"] < 0.83 for line in always)
    assert not {line["meterId"] for line in always} & {line["meterId"] for line in begun}


def test_a_silent_vehicle_sends_nothing_and_its_meter_all() -> None:
    begins_us = (MINUTE + 30) * MINUTE_US
    fleet = Fleet(6, seed=1, faults=[Fault(AlertKind.SILENT, 2, begins_us)])
    plan = Plan(backfill_min=60, duration_s=0, late_share=0.3, duplicate_share=0.3)

    async def sent() -> Counter[str]:
        simulation, found = Simulation(fleet, plan, "SIM-", 1), set()
        async for batch in simulation.batches((MINUTE + 60) * 60):
            found |= {
                (key, record[key], record["timestamp"])
                for record in json.loads(batch.body)
                for key in ("meterId", "vehicleId")
                if key in record
            }
        return Counter(f"{key} {name}" for key, name, _ in found)

    counts = asyncio.run(sent())
    silent = counts.pop("vehicleId SIM-000003")
    assert 29 <= silent <= 30
    assert set(counts.values()) == {60}
    assert len(counts) == 11


@pytest.mark.parametrize(
    ("flags", "counts"),
    [
        ([], {}),
        (["silent=3", "silent=2"], {AlertKind.SILENT: 5}),
        (["silent=2.5%", "over_unity=0"], {AlertKind.SILENT: 5, AlertKind.OVER_UNITY: 0}),
    ],
)
def test_faults_are_wanted_by_number_or_share(
    flags: list[str], counts: dict[AlertKind, int]
) -> None:
    assert wanted(flags, 200) == counts


@pytest.mark.parametrize(
    "flag", ["silent", "silent=", "silent=-1", "silent=1.5", "loud=1", "register_reset=1", "=1"]
)
def test_a_fault_that_is_not_understood_is_refused(flag: str) -> None:
    with pytest.raises(typer.BadParameter, match="KIND=N"):
        wanted([flag], 10)


def test_more_faults_than_pairs_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match="11 faults for 10 pairs"):
        wanted(["silent=6", "over_unity=50%"], 10)
