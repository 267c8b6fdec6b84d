"""Faults that a day shows: efficiency that is too low, or too good to be true."""

import numpy as np

from wattstream.domain.alerts import (
    AlertKind,
    edge_doubt,
    judged_efficiency,
    loss_doubt,
    low_efficiency,
    over_unity,
)
from wattstream.domain.readings import Stream
from wattstream.domain.units import MICRO, Float64, Int64, kwh, rfc3339
from wattstream.query.linked import LinkedEnergy
from wattstream.store.alert_port import LiveStates
from wattstream.watch.judgement import Book, Evidence, Judgement, number

_DECISIONS = {
    AlertKind.LOW_EFFICIENCY: low_efficiency,
    AlertKind.OVER_UNITY: over_unity,
}


def judge_day(
    energy: LinkedEnergy,
    vehicles: LiveStates,
    meters: LiveStates,
    book: Book,
    *,
    window: tuple[int, int],
    edge_ukwh: Float64,
) -> list[Judgement]:
    """Return which vehicles' efficiency over a window is at fault.

    A vehicle that no meter fed in the window is not at fault; what is open is over.

    Args:
        energy: Of vehicles while linked, and of their meters.
        vehicles: For every vehicle's heartbeat.
        meters: For every meter's heartbeat.
        book: What is open, and thresholds.
        window: Start and end, microseconds.
        edge_ukwh: What the two sides of each vehicle of `energy` may be apart at its ends.
    """
    length_us = window[1] - window[0]
    ac_coverage, dc_coverage = _coverages(energy, vehicles, meters, length_us)
    row_of = np.full(len(vehicles.device), -1)
    row_of[np.searchsorted(vehicles.device, energy.vehicle)] = np.arange(len(energy.vehicle))
    is_linked = row_of >= 0
    efficiency, above, below = (np.full(len(row_of), np.nan) for _ in range(3))
    known = judged_efficiency(energy.ac_ukwh, energy.dc_ukwh, ac_coverage, dc_coverage)
    efficiency[is_linked] = known[row_of[is_linked]]
    above[is_linked] = edge_doubt(energy.ac_ukwh, edge_ukwh)[row_of[is_linked]]
    below[is_linked] = above[is_linked] + loss_doubt(energy.ac_ukwh)[row_of[is_linked]]
    doubts = {AlertKind.LOW_EFFICIENCY: below, AlertKind.OVER_UNITY: -above}

    def judge(kind: AlertKind) -> Judgement:
        threshold = book.thresholds(kind, vehicles.device)
        is_open = book.is_open(kind, vehicles.device)
        # Opened only beyond doubt; one that is open stays until the efficiency itself is back.
        best = efficiency + np.where(is_open, 0, doubts[kind])
        is_on = _DECISIONS[kind](best, is_open, threshold) & is_linked

        def evidence(row: int) -> Evidence:
            common = {
                "windowStart": rfc3339(window[0]),
                "windowEnd": rfc3339(window[1]),
                "thresholdFraction": number(threshold[row]),
            }
            if not is_linked[row]:
                return common | {"reason": "no_meter"}
            place = int(row_of[row])
            return common | {
                "efficiencyFraction": number(efficiency[row]),
                "doubtFraction": number(abs(doubts[kind][row]), 3),
                "acKwh": kwh(int(energy.ac_ukwh[place])),
                "dcKwh": kwh(int(energy.dc_ukwh[place])),
                "acCoverageFraction": number(ac_coverage[place], 3),
                "dcCoverageFraction": number(dc_coverage[place], 3),
            }

        def meters_of(row: int) -> list[int]:
            if not is_linked[row]:
                return []
            keys: list[int] = energy.link_meter[energy.links_of(int(row_of[row]))].tolist()
            return keys

        return Judgement(kind, Stream.VEHICLE, vehicles.device, is_on, evidence, meters_of)

    return [judge(kind) for kind in _DECISIONS]


def _coverages(
    energy: LinkedEnergy, vehicles: LiveStates, meters: LiveStates, length_us: int
) -> tuple[Float64, Float64]:
    """Return which share of a window the readings of meters and of vehicles cover.

    Meters that feed a vehicle at the same time have to cover the time of each.
    """
    covered = energy.link_readings * heartbeats(meters, energy.link_meter) * MICRO
    ac, wanted = np.zeros(len(energy.vehicle)), np.zeros(len(energy.vehicle))
    np.add.at(ac, energy.link_of, covered)
    np.add.at(wanted, energy.link_of, energy.link_end_us - energy.link_start_us)
    dc = energy.dc_readings * heartbeats(vehicles, energy.vehicle) * MICRO
    return ac / np.maximum(wanted, length_us), dc / length_us


def heartbeats(live: LiveStates, device: Int64) -> Int64:
    """Return how often devices report, seconds."""
    return live.heartbeat_s[np.searchsorted(live.device, device)]
