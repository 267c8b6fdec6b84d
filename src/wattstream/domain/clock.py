"""How far apart the clocks of a meter and its vehicle are, from their energy alone.

Both see the same charges. The offset is the shift in time under which the power of one, times a
constant, explains the power of the other best. A charge tells its time by its edges and steps;
where there are none, or the same charge comes again and again, the answer is "unknown".
"""

import enum
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wattstream.domain.units import HOUR_US, MICRO, MINUTE_US, Float64, Int64, kwh

SEARCH_US = 26 * HOUR_US
"""Largest offset looked for: clocks set to any local time, stamped as if to any other."""
MARGIN_US = 2 * HOUR_US
"""What is needed of the meter before and after the range that is compared."""

_MAX_SPACING_US = HOUR_US // 2
_MIN_SMOOTH_US = 3 * MINUTE_US
# Readings cut the edges of a charge at different moments; over three of them that evens out.
_SMOOTH_READINGS = 3
_CELLS_A_SMOOTH = 18
_NEAR_US = HOUR_US // 2
_APART_US = 10 * MINUTE_US
_MIN_UKWH, _MIN_READINGS = MICRO // 2, 5
_ACTIVE_SHARE = 0.1
_FLAT_SHARE = 1e-4
# AC / DC, for efficiencies of 0.4 to 1.25.
_MIN_SCALE, _MAX_SCALE = 0.8, 2.5
# Pairs of the simulator leave less than 0.003 over in two days, and are of quality 0.97 or more.
# Meters and vehicles that do not belong together hardly ever pass both; tests/test_clock.py counts.
_MAX_MISFIT, _MIN_QUALITY = 0.02, 0.95
_EQUAL_FACTOR, _EQUAL_MISFIT = 1.5, 0.0005
_MAX_UNCERTAINTY_US = MINUTE_US


class ClockState(enum.StrEnum):
    """Whether the energy of a pair tells the offset of its clocks."""

    KNOWN = "known"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Curve:
    """Energy of a device over time, n stretches in order that do not overlap.

    Within a stretch power is constant; between stretches no energy flows.

    Attributes:
        since_us: Start of each stretch, int64[n].
        at_us: End of each stretch, the time of its reading, int64[n].
        energy_ukwh: What its reading contributed, int64[n].
    """

    since_us: Int64
    at_us: Int64
    energy_ukwh: Int64


@dataclass(frozen=True, slots=True)
class ClockEstimate:
    """What the curves of a pair say about its clocks.

    Attributes:
        state: Known or unknown.
        offset_us: Meter's clock less vehicle's: positive where the meter's is ahead. None where
            unknown.
        uncertainty_us: Offsets up to that far from it fit about as well; None where unknown.
        quality: How much worse every offset further away fits: 0 where one fits as well, 1 where
            none fits at all; None where nothing was compared.
        reason: Why it is unknown, or None.
    """

    state: ClockState
    offset_us: int | None = None
    uncertainty_us: int | None = None
    quality: float | None = None
    reason: str | None = None


def clock_offset(ac: Curve, dc: Curve, start_us: int, end_us: int) -> ClockEstimate:
    """Estimate the offset between the clocks of a meter and its vehicle.

    A curve that is cut while power flows would pass for a charge that ends there, so both are
    wanted beyond the range, as far as there are readings.

    Args:
        ac: Of the meter, over MARGIN_US more on both sides.
        dc: Of the vehicle, over SEARCH_US + MARGIN_US more on both sides.
        start_us: Start of the range compared, by the meter's clock.
        end_us: End of it, exclusive.
    """
    if (obstacle := _obstacle(ac, dc, start_us, end_us)) is not None:
        return ClockEstimate(ClockState.UNKNOWN, reason=obstacle)
    found = _best(ac, dc, start_us, end_us)
    if found.offset_us is None or not _ends_in_charge(ac, end_us):
        return found
    # The end of that charge may only be how late each side's readings come: it must tell nothing
    # that the rest does not.
    rest_us = int(ac.at_us[-1]) - max(_MIN_SMOOTH_US, _SMOOTH_READINGS * _spacing(ac))
    if (obstacle := _obstacle(ac, dc, start_us, rest_us)) is not None:
        return ClockEstimate(ClockState.UNKNOWN, reason=obstacle)
    return _confirmed(found, _best(ac, dc, start_us, rest_us))


def _confirmed(found: ClockEstimate, rest: ClockEstimate) -> ClockEstimate:
    """Return what was found where the rest of the data says the same, within its uncertainty."""
    if found.offset_us is None or rest.offset_us is None:
        return rest
    uncertainty_us = max(found.uncertainty_us or 0, rest.uncertainty_us or 0)
    if abs(found.offset_us - rest.offset_us) <= uncertainty_us:
        return replace(found, uncertainty_us=uncertainty_us)
    reason = "the charge under way and those before tell different offsets"
    return ClockEstimate(ClockState.UNKNOWN, quality=rest.quality, reason=reason)


def _best(ac: Curve, dc: Curve, start_us: int, end_us: int) -> ClockEstimate:
    """Return the offset that fits best, or why there is none; the curves can be compared."""
    spacing_us = max(_spacing(ac), _spacing(dc))
    smooth_us = max(_MIN_SMOOTH_US, _SMOOTH_READINGS * spacing_us)
    grid_us = smooth_us // _CELLS_A_SMOOTH
    offsets_us, misfit = _misfits(ac, dc, start_us, end_us, grid_us)
    best = int(misfit.argmin())
    lowest = float(misfit[best])
    away_us = np.abs(offsets_us - offsets_us[best])
    second = float(misfit[away_us > max(_APART_US, smooth_us)].min())
    quality = 1 - lowest / second if second > 0 else 0.0
    equal_us = away_us[misfit <= _EQUAL_FACTOR * lowest + _EQUAL_MISFIT]
    uncertainty_us = int(equal_us.max()) + grid_us // 2
    if lowest > _MAX_MISFIT:
        doubt = (
            "no offset makes the two energy curves agree: the best explains "
            f"{1 - lowest:.1%} of the meter's, {1 - _MAX_MISFIT:.0%} is needed"
        )
    elif quality < _MIN_QUALITY:
        doubt = "offsets far apart fit about as well: the charges are too alike"
    elif uncertainty_us > max(_MAX_UNCERTAINTY_US, spacing_us // 2):
        doubt = (
            "no edge of the charges is sharp enough: offsets "
            f"{uncertainty_us // MICRO} s from the best fit about as well"
        )
    else:
        offset_us = int(offsets_us[best]) + round(grid_us * _vertex(misfit, best))
        return ClockEstimate(ClockState.KNOWN, offset_us, uncertainty_us, quality)
    return ClockEstimate(ClockState.UNKNOWN, quality=quality, reason=doubt)


def _obstacle(ac: Curve, dc: Curve, start_us: int, end_us: int) -> str | None:
    """Return why curves cannot be compared at all, or None."""
    searched = (start_us - SEARCH_US, end_us + SEARCH_US)
    missing = _missing("meter", ac, start_us, end_us) or _missing("vehicle", dc, *searched)
    if missing is not None:
        return missing
    spacing_us = max(_spacing(ac), _spacing(dc))
    if spacing_us > _MAX_SPACING_US:
        return (
            f"readings come every {spacing_us // MINUTE_US} minutes, too seldom to see the edges "
            f"of charges: at most {_MAX_SPACING_US // MINUTE_US} is needed"
        )
    return None


def _missing(name: str, curve: Curve, start_us: int, end_us: int) -> str | None:
    """Return what a curve has too little of in [start_us, end_us), or None."""
    energy = curve.energy_ukwh[(curve.at_us >= start_us) & (curve.at_us < end_us)]
    count, total_ukwh = int((energy > 0).sum()), int(energy.sum())
    if count >= _MIN_READINGS and total_ukwh >= _MIN_UKWH:
        return None
    return (
        f"the {name} counted too little to compare: {kwh(total_ukwh):g} kWh in {count} readings; "
        f"{kwh(_MIN_UKWH):g} kWh in {_MIN_READINGS} is needed"
    )


def _spacing(curve: Curve) -> int:
    """Return the usual length of a stretch with energy, microseconds."""
    return int(np.median((curve.at_us - curve.since_us)[curve.energy_ukwh > 0]))


def _ends_in_charge(ac: Curve, end_us: int) -> bool:
    """Return whether power flows at the last reading of all, so that the end may be cut."""
    power = ac.energy_ukwh / np.maximum(ac.at_us - ac.since_us, 1)
    return bool(power[-1] > _ACTIVE_SHARE * power.max() and ac.at_us[-1] < end_us)


def _misfits(
    ac: Curve, dc: Curve, start_us: int, end_us: int, grid_us: int
) -> tuple[Int64, Float64]:
    """Return offsets, largest first, and the share of the meter's variance that each leaves over.

    Compared is where the meter's charges are, and half an hour around: what the vehicle does at
    other times, at other meters, is not held against the pair. Where the scale that fits best is
    no efficiency, or the meter's power is flat, the misfit is 1.

    Source: J. P. Lewis, "Fast Normalized Cross-Correlation" (1995), in one dimension, masked.
    """
    n, search = -(-(end_us - start_us) // grid_us), SEARCH_US // grid_us
    a = _smooth_power(ac, start_us, n, grid_us)
    d = _smooth_power(dc, start_us - search * grid_us, n + 2 * search, grid_us)
    near = 2 * (_NEAR_US // grid_us) + 1
    is_active = (a > _ACTIVE_SHARE * a.max()).astype(np.float64)
    mask = (_smooth(np.pad(is_active, near), near)[near:-near] > 0.5 / near).astype(np.float64)
    count = mask.sum()
    a *= mask
    level = float(a @ a)
    a -= mask * a.sum() / max(count, 1)
    varied = float(a @ a)
    offsets_us = (search - np.arange(2 * search + 1)) * grid_us
    if varied <= _FLAT_SHARE * level:
        return offsets_us, np.ones(len(offsets_us))
    size = 1 << (n + len(d)).bit_length()
    of_d, of_mask = np.fft.rfft(d, size), np.conj(np.fft.rfft(mask, size))

    def slid(left: NDArray[np.complex128], right: NDArray[np.complex128]) -> Float64:
        return np.asarray(np.fft.irfft(left * right, size)[: 2 * search + 1])

    shared = slid(of_d, np.conj(np.fft.rfft(a, size)))
    spread = slid(np.fft.rfft(d * d, size), of_mask) - slid(of_d, of_mask) ** 2 / count
    # Where the vehicle's power does not vary, only what rounding left is there.
    spread = np.maximum(spread, 1e-9 * float((d * d).sum()))
    scale = shared / spread
    misfit = 1 - shared**2 / (spread * varied)
    is_efficiency = (scale >= _MIN_SCALE) & (scale <= _MAX_SCALE)
    return offsets_us, np.where(is_efficiency, np.clip(misfit, 0, 1), 1.0)


def _smooth_power(curve: Curve, start_us: int, n: int, grid_us: int) -> Float64:
    """Return the smoothed energy of n cells of a grid, the curve's energy linear in between."""
    pad = _CELLS_A_SMOOTH
    knots_us = np.column_stack([curve.since_us, curve.at_us]).ravel() - (start_us - pad * grid_us)
    total = np.cumsum(curve.energy_ukwh)
    reached = np.column_stack([total - curve.energy_ukwh, total]).ravel()
    cells = np.diff(np.interp(np.arange(n + 2 * pad + 1) * grid_us, knots_us, reached))
    return _smooth(cells, _CELLS_A_SMOOTH)[pad:-pad]


def _smooth(column: Float64, width: int) -> Float64:
    """Return the mean over `width` cells around each cell, with zeros beyond the ends."""
    total = np.cumsum(np.pad(column, (width // 2 + 1, width - width // 2 - 1)))
    return np.asarray((total[width:] - total[:-width]) / width)


def _vertex(misfit: Float64, best: int) -> float:
    """Return how much larger, in cells, the offset at the vertex of a parabola through three is."""
    if not 0 < best < len(misfit) - 1:
        return 0.0
    larger, lowest, smaller = (float(value) for value in misfit[best - 1 : best + 2])
    bend = larger - 2 * lowest + smaller
    return 0.5 * (smaller - larger) / bend if bend > 0 else 0.0
