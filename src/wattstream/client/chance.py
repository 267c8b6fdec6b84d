"""Chance that repeats: numbers that follow from what they are for, in any order of asking."""

import numpy as np
from numpy.typing import NDArray

from wattstream.domain.units import Float64, Int64


def uniform(seed: int, pair: Int64, purpose: int, when: Int64 | int = 0) -> Float64:
    """Return numbers in [0, 1) that depend on (seed, pair, purpose, when) only.

    Source: Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators" (2014), the
    finalizer of SplitMix64.
    """
    with np.errstate(over="ignore"):
        x = np.asarray(pair, np.uint64) * _u(0x9E3779B97F4A7C15)
        x = x + _u(purpose) * _u(0xD1B54A32D192ED03)
        x = x + np.asarray(when, np.int64).astype(np.uint64) * _u(0x8CB92BA72F3D8DD7)
        x = x + _u(seed % 2**64) * _u(0xABC98388FB8FAC03)
        for _ in range(2):
            x = (x ^ (x >> _u(30))) * _u(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> _u(27))) * _u(0x94D049BB133111EB)
            x = x ^ (x >> _u(31))
    return np.asarray((x >> _u(11)) / 2.0**53, np.float64)


def normal(seed: int, pair: Int64, purpose: int, when: Int64 | int = 0) -> Float64:
    """Return numbers of mean 0 and deviation 1, nearly normal: sums of four uniforms."""
    total = np.zeros(len(pair))
    for i in range(4):
        total += uniform(seed, pair, 100 * purpose + i, when)
    return np.asarray((total - 2) * 3.0**0.5, np.float64)


def _u(value: int) -> NDArray[np.uint64]:
    return np.asarray(value, np.uint64)
