"""Chargers that slowly get worse, followed quarter-hour by quarter-hour."""

import numpy as np

from wattstream.domain.alerts import AlertKind
from wattstream.domain.drift import Observations, drifting, empty_drift, observe
from wattstream.domain.readings import Stream
from wattstream.domain.units import NEVER_US, Bool, Int64, Rows, rfc3339
from wattstream.store.alert_port import DriftStates
from wattstream.store.port import FleetFeeds
from wattstream.watch.judgement import Book, Evidence, Judgement, number
from wattstream.watch.quarters import Quarters


def followed(
    before: DriftStates,
    quarters: Quarters,
    feeds: FleetFeeds,
    vehicle: Int64,
    *,
    book: Book,
    settled_us: int,
) -> DriftStates:
    """Return the detectors' states, moved forward by quarter-hours.

    Args:
        before: The states so far.
        quarters: The latest quarter-hours; those seen before do not count again.
        feeds: All links: a vehicle at another meter is at another charger, and learns anew.
        vehicle: Keys of all vehicles, ascending.
        book: Thresholds.
        settled_us: A quarter-hour that lacks readings is waited for until it is before this.
    """
    states = empty_drift(len(vehicle))
    states[np.searchsorted(vehicle, before.device)] = before.rows
    has_moved = (states["since_us"] != NEVER_US) & (
        states["since_us"] < _meters_since(feeds, vehicle)
    )
    states[has_moved] = empty_drift(int(has_moved.sum()))

    row = np.searchsorted(vehicle, quarters.vehicle)
    is_missed = ~quarters.is_covered & (quarters.start_us >= settled_us)
    is_missed &= quarters.start_us > states["seen_us"][row]
    until_us = np.full(len(vehicle), np.iinfo(np.int64).max)
    np.minimum.at(until_us, row[is_missed], quarters.start_us[is_missed])
    ready = quarters.start_us < until_us[row]
    observe(
        states,
        row[ready],
        Observations(
            quarters.start_us[ready],
            quarters.ac_ukwh[ready],
            quarters.dc_ukwh[ready],
            quarters.temp_c[ready],
            quarters.is_covered[ready],
        ),
        book.thresholds(AlertKind.EFFICIENCY_DRIFT, vehicle),
    )
    is_known = states["seen_us"] != NEVER_US
    return DriftStates(vehicle[is_known], states[is_known])


def judge_drift(states: DriftStates, vehicle: Int64, is_linked: Bool, book: Book) -> Judgement:
    """Return which chargers got worse.

    Args:
        states: The detectors' states.
        vehicle: Keys of all vehicles, ascending.
        is_linked: Which of them have a meter.
        book: Thresholds.
    """
    kind = AlertKind.EFFICIENCY_DRIFT
    threshold = book.thresholds(kind, vehicle)
    rows: Rows = empty_drift(len(vehicle))
    rows[np.searchsorted(vehicle, states.device)] = states.rows
    is_on = drifting(rows) & is_linked & ~np.isnan(threshold)

    def evidence(row: int) -> Evidence:
        state = rows[row]
        found: Evidence = {
            "expectedEfficiencyFraction": number(state["expected"]),
            "measuredEfficiencyFraction": number(state["measured"]),
            "sumDeviations": number(state["low_sum"], 2),
            "thresholdTimes": number(threshold[row]),
            "learntQuarterHours": number(state["quarters"], 1),
        }
        if state["since_us"] != NEVER_US:
            found["learningSince"] = rfc3339(int(state["since_us"]))
        return found if is_linked[row] else found | {"reason": "no_meter"}

    return Judgement(kind, Stream.VEHICLE, vehicle, is_on, evidence)


def _meters_since(feeds: FleetFeeds, vehicle: Int64) -> Int64:
    """Return when each vehicle was linked to a meter that it had not been linked to before."""
    pairs, of = np.unique(
        np.column_stack([feeds.vehicle, feeds.meter]), axis=0, return_inverse=True
    )
    first_us = np.full(len(pairs), np.iinfo(np.int64).max)
    np.minimum.at(first_us, of.ravel(), feeds.start_us)
    since_us = np.full(len(vehicle), NEVER_US)
    np.maximum.at(since_us, np.searchsorted(vehicle, pairs[:, 0]), first_us)
    return since_us
