"""What a charger's efficiency should be, learnt from its own past, for many chargers at once.

Efficiency is a straight line in 1 / load (a draw that does not depend on load takes a share
that falls with it) and in battery temperature. The line is learnt by recursive least squares
from a weak prior about chargers in general, so it means something from the first
observation on, and its uncertainty is known at each.

Source: Brown, Durbin, Evans: "Techniques for Testing the Constancy of Regression Relationships
over Time", JRSS B 37 (1975), for recursive residuals: without a change they are independent,
however little was known when each was made.
"""

from dataclasses import dataclass

import numpy as np

from wattstream.domain.units import Bool, Float64, Int64, Rows

PRIOR = (0.90, 0.0, 0.0)
"""Coefficients before any data: fraction; fraction × kW; fraction per K."""
PRIOR_DEVIATION = (0.1, 0.1, 0.00025)
"""How far chargers lie from these, one standard deviation: some lose a tenth, some draw
100 W whatever the load, some lose a quarter of a point over 10 K."""
PRIOR_NOISE = 0.02
"""Noise of a quarter-hour's efficiency before any data, one standard deviation, fraction."""
PRIOR_WEIGHT = 10.0
"""Observations that the prior noise is worth."""
LEAST_NOISE = 0.01
"""Noise is never taken for less: below it lie changes that no one would repair."""
CLIP = 4.0
"""Residuals count as at most so many standard deviations, so a freak is not a trend."""
MEAN_TEMP_C = 20.0
"""Temperatures are counted from here; where there is none, this one is assumed."""

_COEFFICIENTS = ("level", "standby", "warmth")
_SPREAD = ("p00", "p01", "p02", "p11", "p12", "p22")
_SQUARE = [[0, 1, 2], [1, 3, 4], [2, 4, 5]]  # where each of the above stands
_UPPER = np.triu_indices(3)

BASELINE_COLUMNS = [(name, np.float64) for name in (*_COEFFICIENTS, *_SPREAD, "sse", "weight")]
"""Coefficients, their covariance over the variance of noise, and what noise follows from."""


@dataclass(frozen=True, slots=True)
class Residuals:
    """Observations against their baselines, columns of n rows.

    Attributes:
        expected: Efficiency that the baseline gives, fraction.
        z: Measured less expected, in standard deviations of that difference, clipped.
        noise: Of a quarter-hour, one standard deviation, fraction.
    """

    expected: Float64
    z: Float64
    noise: Float64


def conditions(load_kw: Float64, temp_c: Float64) -> Float64:
    """Return what the line is in: rows of (1, 1 / load, temperature), float64[n, 3].

    Args:
        load_kw: Mean power drawn, > 0.
        temp_c: Of the battery; NaN where not known.
    """
    warmth = np.nan_to_num(temp_c - MEAN_TEMP_C)
    return np.column_stack([np.ones_like(load_kw), 1 / load_kw, warmth])


def start(rows: Rows) -> None:
    """Set baselines back to the prior, in place."""
    variance = (np.array(PRIOR_DEVIATION) / PRIOR_NOISE) ** 2
    _put(rows, _COEFFICIENTS, np.broadcast_to(PRIOR, (len(rows), 3)))
    _put(rows, _SPREAD, np.broadcast_to(np.diag(variance)[_UPPER], (len(rows), 6)))
    rows["sse"], rows["weight"] = PRIOR_WEIGHT * PRIOR_NOISE**2, PRIOR_WEIGHT


def learn(
    rows: Rows, x: Float64, efficiency: Float64, quarters: Float64, is_learning: Bool
) -> Residuals:
    """Return how observations differ from what was expected, and learn from some, in place.

    Args:
        rows: One baseline an observation, each a different one, BASELINE_COLUMNS.
        x: Their conditions, float64[n, 3].
        efficiency: As measured, fraction.
        quarters: Quarter-hours that each observation is the mean of, > 0.
        is_learning: Where the baseline follows.
    """
    coefficients, spread = _get(rows, _COEFFICIENTS), _get(rows, _SPREAD)[:, _SQUARE]
    expected = np.einsum("ni,ni->n", x, coefficients)
    gain = np.einsum("nij,nj->ni", spread, x)
    variance = 1 / quarters + np.einsum("ni,ni->n", x, gain)
    noise = np.maximum(np.sqrt(rows["sse"] / rows["weight"]), LEAST_NOISE)
    deviation = noise * np.sqrt(variance)
    z = np.clip((efficiency - expected) / deviation, -CLIP, CLIP)
    step = (z * deviation / variance)[:, None]
    learnt = spread - gain[:, :, None] * gain[:, None, :] / variance[:, None, None]
    at = np.flatnonzero(is_learning)
    _put(rows, _COEFFICIENTS, coefficients + gain * step, at)
    _put(rows, _SPREAD, learnt[:, *_UPPER], at)
    rows["sse"][at] += (z * noise)[at] ** 2
    rows["weight"][at] += 1
    return Residuals(expected, z, noise)


def _get(rows: Rows, names: tuple[str, ...]) -> Float64:
    return np.column_stack([rows[name] for name in names])


def _put(
    rows: Rows, names: tuple[str, ...], values: Float64, at: Int64 | slice = slice(None)
) -> None:
    for column, name in enumerate(names):
        rows[name][at] = values[at, column]
