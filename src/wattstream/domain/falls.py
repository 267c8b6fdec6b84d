"""Falls of registers, kept as events: what a counter said before and after, and what it was."""

import enum
from dataclasses import dataclass

import numpy as np

from wattstream.domain.register import EnergyMode, Steps, rolls_over
from wattstream.domain.units import NEVER_US, Bool, Int64, Rows


class FallKind(enum.IntEnum):
    """What a fall was; a dip is known by the reading after it, until then it is a reset."""

    ROLLOVER = 1
    DIP = 2
    RESET = 3


FALL_DTYPE = np.dtype(
    [
        ("device_id", np.int32),
        ("fell_at", np.int64),
        ("ukwh", np.int64),
        ("before_at", np.int64),
        ("before_ukwh", np.int64),
        ("kind", np.int16),
    ]
)
"""A fall: the reading that fell, and the one before it; times microseconds, micro-kWh."""


@dataclass(frozen=True, slots=True)
class Fall:
    """A fall of one device's register.

    Attributes:
        at_us: When the lower value was measured.
        ukwh: That value.
        before_us: When the reading before it was measured.
        before_ukwh: Its value.
    """

    at_us: int
    ukwh: int
    before_us: int
    before_ukwh: int
    kind: FallKind


def falls(steps: Steps, device: Rows, is_newest: Bool) -> Rows:
    """Return the falls that some readings tell of, FALL_DTYPE.

    A reading tells of its predecessor's fall, for good; and of its own where its device has no
    newer one, until there is.

    Args:
        steps: The readings, n rows.
        device: `device_id` and rules of each row's device, n rows.
        is_newest: Whether a row is its device's newest reading, bool[n].
    """
    is_register = device["energy_mode"] == EnergyMode.REGISTER
    if not is_register.any():
        return np.zeros(0, FALL_DTYPE)
    has1, has2 = steps.at1_us != NEVER_US, steps.at2_us != NEVER_US
    before = np.flatnonzero(is_register & has2 & (steps.ukwh1 < steps.ukwh2))
    own = np.flatnonzero(is_register & is_newest & has1 & (steps.ukwh < steps.ukwh1))
    is_back = steps.ukwh[before] >= steps.ukwh2[before]
    return np.concatenate(
        [
            _rows(
                device[before],
                (steps.at1_us[before], steps.ukwh1[before]),
                (steps.at2_us[before], steps.ukwh2[before]),
                np.where(is_back, FallKind.DIP, FallKind.RESET),
            ),
            _rows(
                device[own],
                (steps.at_us[own], steps.ukwh[own]),
                (steps.at1_us[own], steps.ukwh1[own]),
                np.broadcast_to(np.int64(FallKind.RESET), len(own)),
            ),
        ]
    )


def _rows(
    device: Rows, fell: tuple[Int64, Int64], before: tuple[Int64, Int64], kind: Int64
) -> Rows:
    rows = np.zeros(len(device), FALL_DTYPE)
    rows["device_id"] = device["device_id"]
    rows["fell_at"], rows["ukwh"] = fell
    rows["before_at"], rows["before_ukwh"] = before
    rolls = rolls_over(rows["ukwh"], rows["fell_at"], *before[::-1], device)
    rows["kind"] = np.where(rolls, FallKind.ROLLOVER, kind)
    return rows
