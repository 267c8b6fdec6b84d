"""Faults that the newest readings of a device show: silence, a hot battery, a register's reset."""

from collections.abc import Mapping

import numpy as np

from wattstream.domain.alerts import AlertKind, battery_hot, register_reset, silent
from wattstream.domain.readings import Stream
from wattstream.domain.units import HOUR_US, MICRO, NEVER_US, kwh, rfc3339
from wattstream.query.performance import BATTERY_TEMP
from wattstream.store.alert_port import LiveStates, Resets
from wattstream.watch.judgement import Book, Evidence, Judgement, number

_FRESH_US = HOUR_US  # an older temperature says nothing about now


def judge_live(
    states: Mapping[Stream, LiveStates], book: Book, now_us: int, listening_us: int
) -> list[Judgement]:
    """Return what the newest readings show.

    Args:
        states: The newest reading of every device.
        book: What is open, and thresholds.
        now_us: The engine's clock.
        listening_us: Since when the engine could hear: silence from before does not count.
    """
    quiet = [_silence(stream, live, book, now_us, listening_us) for stream, live in states.items()]
    return [*quiet, _heat(states[Stream.VEHICLE], book, now_us)]


def judge_resets(stream: Stream, live: LiveStates, resets: Resets, book: Book) -> Judgement:
    """Return which registers were reset.

    Args:
        stream: Of the devices.
        live: All devices.
        resets: Resets of the last RESET_SHOWN_US.
        book: Thresholds.
    """
    kind = AlertKind.REGISTER_RESET
    threshold = book.thresholds(kind, live.device)
    row_of = np.full(len(live.device), -1)
    row_of[np.searchsorted(live.device, resets.device)] = np.arange(len(resets.device))
    lost = np.zeros(len(live.device), np.int64)
    lost[row_of >= 0] = (resets.before_ukwh - resets.ukwh)[row_of[row_of >= 0]]

    def evidence(row: int) -> Evidence:
        place = int(row_of[row])
        found: Evidence = {"thresholdKwh": number(threshold[row])}
        if place < 0:
            return found | {"reason": "no_reset_for_a_day"}
        return found | {
            "fellAt": rfc3339(int(resets.fell_at_us[place])),
            "beforeKwh": kwh(int(resets.before_ukwh[place])),
            "afterKwh": kwh(int(resets.ukwh[place])),
        }

    return Judgement(kind, stream, live.device, register_reset(lost, threshold), evidence)


def _silence(
    stream: Stream, live: LiveStates, book: Book, now_us: int, listening_us: int
) -> Judgement:
    kind = AlertKind.SILENT
    is_open, threshold = book.is_open(kind, live.device), book.thresholds(kind, live.device)
    has_reported = live.last_at_us != NEVER_US
    heard_us = np.where(has_reported, live.received_at_us, now_us)
    since_us = np.where(is_open, heard_us, np.maximum(heard_us, listening_us))
    intervals = (now_us - since_us) / (live.heartbeat_s * MICRO)
    intervals[~has_reported] = np.nan

    def evidence(row: int) -> Evidence:
        return {
            "lastTimestamp": rfc3339(int(live.last_at_us[row])),
            "lastReceivedAt": rfc3339(int(live.received_at_us[row])),
            "quietSeconds": (now_us - int(live.received_at_us[row])) / MICRO,
            "heartbeatSeconds": int(live.heartbeat_s[row]),
            "thresholdIntervals": number(threshold[row]),
        }

    return Judgement(kind, stream, live.device, silent(intervals, is_open, threshold), evidence)


def _heat(live: LiveStates, book: Book, now_us: int) -> Judgement:
    kind = AlertKind.BATTERY_HOT
    threshold = book.thresholds(kind, live.device)
    temp_c = np.where(live.last_at_us > now_us - _FRESH_US, live.values[:, BATTERY_TEMP], np.nan)
    is_on = battery_hot(temp_c, book.is_open(kind, live.device), threshold)

    def evidence(row: int) -> Evidence:
        return {
            "batteryTempC": number(temp_c[row]),
            "timestamp": rfc3339(int(live.last_at_us[row])),
            "thresholdC": number(threshold[row]),
        }

    return Judgement(kind, Stream.VEHICLE, live.device, is_on, evidence)
