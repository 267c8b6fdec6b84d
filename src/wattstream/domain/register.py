"""What a reading contributes to the energy of its device.

The one implementation of the rules for both energy modes: intervals; registers with
rollover, dip and reset; and energy too large to be plausible. A contribution depends on
the reading and the two before it, never on a later one: a dip and a reset both contribute 0
themselves, and only the reading after them tells which it was.
"""

import enum
from dataclasses import dataclass

import numpy as np

from wattstream.domain.units import MICRO, NEVER_US, Bool, Int64, Rows

DEFAULT_REGISTER_W = 1_000_000
"""Power limit of a register without a rating, W."""
MAX_RATED_W = 1_000_000_000
"""Largest rating, W: keeps power × time within int64."""
_ALLOWANCE_UKWH = 10_000
# 1.2 × P watts × t microseconds in micro-kWh is P × t / 3,000,000.
_WATT_US_PER_UKWH = 3_000_000


class EnergyMode(enum.IntEnum):
    """How a device reports energy."""

    INTERVAL = 0
    REGISTER = 1


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of one device that decide what its readings contribute.

    Attributes:
        energy_mode: Interval or register.
        modulus_ukwh: Where the register rolls over, micro-kWh; None: never.
        rated_w: Rated power, W; None: no rating.
        heartbeat_s: Expected seconds between readings.
    """

    energy_mode: EnergyMode = EnergyMode.INTERVAL
    modulus_ukwh: int | None = None
    rated_w: int | None = None
    heartbeat_s: int = 60


_REGISTER = int(EnergyMode.REGISTER)  # a lookup in an Enum takes as long as a small comparison
RULE_COLUMNS = [
    ("energy_mode", np.int16),
    ("modulus_ukwh", np.int64),
    ("rated_w", np.int64),
    ("heartbeat_s", np.int32),
]
"""Rules as columns of a structured array; 0 stands for None."""


def rule_rows(rules: Rules, n: int) -> Rows:
    """Return the rules of one device as n rows of RULE_COLUMNS."""
    rows = np.zeros(n, RULE_COLUMNS)
    rows["energy_mode"], rows["heartbeat_s"] = rules.energy_mode, rules.heartbeat_s
    rows["modulus_ukwh"], rows["rated_w"] = rules.modulus_ukwh or 0, rules.rated_w or 0
    return rows


def needs_predecessors(rules: Rows) -> Bool:
    """Return where contributions depend on earlier readings; elsewhere readings commute."""
    return np.asarray((rules["energy_mode"] == _REGISTER) | (rules["rated_w"] > 0))


@dataclass(frozen=True, slots=True)
class Steps:
    """Readings with their two predecessors, columns of n rows.

    Attributes:
        at_us: Measured at.
        ukwh: Value as sent.
        at1_us: Time of the reading before, NEVER_US where there is none.
        ukwh1: Its value.
        at2_us: Time of the reading before that one, NEVER_US where there is none.
        ukwh2: Its value.
    """

    at_us: Int64
    ukwh: Int64
    at1_us: Int64
    ukwh1: Int64
    at2_us: Int64
    ukwh2: Int64


@dataclass(frozen=True, slots=True)
class Contributions:
    """What readings add, columns of n rows, micro-kWh.

    Attributes:
        energy: Counted in totals.
        suspect: Left out of totals because it is not plausible.
    """

    energy: Int64
    suspect: Int64

    @property
    def difference(self) -> Int64:
        """The whole difference, plausible or not."""
        return self.energy + self.suspect


def contributions(steps: Steps, rules: Rows) -> Contributions:
    """Return what each reading adds to its device's energy.

    Args:
        steps: The readings, n rows.
        rules: The rules of each row's device, n rows with RULE_COLUMNS.
    """
    if not needs_predecessors(rules).any():
        return Contributions(steps.ukwh, np.zeros_like(steps.ukwh))
    is_register = rules["energy_mode"] == _REGISTER
    register, since_us = _register_difference(steps, rules)
    difference = np.where(is_register, register, steps.ukwh)
    since_us = np.where(is_register, since_us, steps.at1_us)
    suspect = ~_is_plausible(difference, steps.at_us, since_us, rules)
    return Contributions(np.where(suspect, 0, difference), np.where(suspect, difference, 0))


def _register_difference(steps: Steps, rules: Rows) -> tuple[Int64, Int64]:
    """Return the difference of a register, and the time of the reading it is taken from."""
    has1, has2 = steps.at1_us != NEVER_US, steps.at2_us != NEVER_US
    falls = has1 & (steps.ukwh < steps.ukwh1)
    rolls = falls & rolls_over(steps.ukwh, steps.at_us, steps.ukwh1, steps.at1_us, rules)
    # The reading before was a dip: it fell, did not roll over, and this one is back above.
    dipped = has2 & (steps.ukwh1 < steps.ukwh2) & (steps.ukwh >= steps.ukwh2)
    dipped &= ~rolls_over(steps.ukwh1, steps.at1_us, steps.ukwh2, steps.at2_us, rules)
    base = np.where(dipped, steps.ukwh2, steps.ukwh1)
    rise = np.where(has1 & ~falls, steps.ukwh - base, 0)
    difference = np.where(rolls, steps.ukwh + rules["modulus_ukwh"] - steps.ukwh1, rise)
    return difference, np.where(dipped, steps.at2_us, steps.at1_us)


def rolls_over(ukwh: Int64, at_us: Int64, from_ukwh: Int64, from_us: Int64, rules: Rows) -> Bool:
    """Return where a fall is a rollover; only meaningful where there is a fall."""
    modulus = rules["modulus_ukwh"]
    difference = ukwh + modulus - from_ukwh
    return (modulus > 0) & (from_ukwh < modulus) & _is_plausible(difference, at_us, from_us, rules)


def _is_plausible(ukwh: Int64, at_us: Int64, since_us: Int64, rules: Rows) -> Bool:
    """Return where (ukwh − 10,000) × 3,000,000 ≤ P × Δt, in integers that cannot overflow."""
    is_register = rules["energy_mode"] == _REGISTER
    power_w = np.where((rules["rated_w"] == 0) & is_register, DEFAULT_REGISTER_W, rules["rated_w"])
    heartbeat_us = rules["heartbeat_s"].astype(np.int64) * MICRO
    elapsed_us = np.where(
        since_us == NEVER_US, 0, at_us - np.where(since_us == NEVER_US, 0, since_us)
    )
    elapsed_us = np.maximum(elapsed_us, heartbeat_us)
    whole, rest = np.divmod(elapsed_us, _WATT_US_PER_UKWH)
    limit_ukwh = power_w * whole + power_w * rest // _WATT_US_PER_UKWH
    return np.asarray((power_w == 0) | (ukwh - _ALLOWANCE_UKWH <= limit_ukwh))
