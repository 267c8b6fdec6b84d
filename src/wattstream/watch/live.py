"""Faults that the newest reading of a device shows: silence, a hot battery."""

from collections.abc import Mapping

import numpy as np

from wattstream.domain.alerts import AlertKind, battery_hot, silent
from wattstream.domain.readings import Stream
from wattstream.domain.units import HOUR_US, MICRO, NEVER_US, rfc3339
from wattstream.query.performance import BATTERY_TEMP
from wattstream.store.alert_port import LiveStates
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
