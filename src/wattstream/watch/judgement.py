"""What a look holds of many devices at once, and what was held before."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wattstream.domain.alerts import AlertKind, thresholds_of
from wattstream.domain.readings import Stream
from wattstream.domain.units import Bool, Float64, Int64
from wattstream.store.alert_port import OpenAlerts

Evidence = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Which devices of a stream are at fault in one way, n rows sorted by key.

    Attributes:
        kind: In which way.
        stream: Of the devices.
        device: Keys, int64[n].
        is_on: Who is at fault, bool[n].
        evidence: What was seen of a row, for people.
        meters: Keys of the meters that a row's evidence rests on.
    """

    kind: AlertKind
    stream: Stream
    device: Int64
    is_on: Bool
    evidence: Callable[[int], Evidence]
    meters: Callable[[int], Iterable[int]] = lambda row: ()


class Book:
    """Alerts that are open, and every device's thresholds.

    Args:
        opened: Alerts that are not resolved.
        usual: Thresholds of devices that have none of their own.
        own: Thresholds of the others, by device key and kind.
    """

    def __init__(
        self,
        opened: OpenAlerts,
        usual: Mapping[AlertKind, float],
        own: Mapping[int, Mapping[str, float | None]],
    ) -> None:
        kinds = np.array(opened.kind, dtype=object)
        self._ids: dict[AlertKind, dict[int, int]] = {}
        for kind in AlertKind:
            rows = kinds == kind.value
            devices, numbers = opened.device[rows].tolist(), opened.alert_id[rows].tolist()
            self._ids[kind] = dict(zip(devices, numbers, strict=True))
        self._usual = usual
        self._own = own

    def is_open(self, kind: AlertKind, device: Int64) -> Bool:
        """Return which devices have an alert of a kind that is open."""
        return np.isin(device, self.devices(kind))

    def devices(self, kind: AlertKind) -> Int64:
        """Return the keys of devices that have an alert of a kind that is open."""
        return np.fromiter(self._ids[kind], np.int64)

    def alert_id(self, kind: AlertKind, device: int) -> int:
        """Return the number of an alert that is open."""
        return self._ids[kind][device]

    def thresholds(self, kind: AlertKind, device: Int64) -> Float64:
        """Return thresholds of a kind; NaN where a device has it switched off."""
        return thresholds_of(kind, device, self._usual[kind], self._own)

    def counts(self) -> dict[AlertKind, int]:
        """Return how many alerts of each kind are open."""
        return {kind: len(ids) for kind, ids in self._ids.items()}


def number(value: float, digits: int = 6) -> float | None:
    """Return a number as evidence shows it; None for NaN."""
    return None if np.isnan(value) else round(float(value), digits)
