"""Structured arrays moved as whole rows.

NumPy copies a structured row field by field, far slower than its bytes.
`take` and `compress` of an array are fast already; these are the rest.
"""

import numpy as np

from wattstream.domain.units import Bool, Int64, Rows


def opaque(rows: Rows) -> Rows:
    """Return rows as bytes that are copied and compared as one; shares memory."""
    view: Rows = rows.view(np.dtype((np.void, rows.dtype.itemsize)))
    return view


def copied(rows: Rows) -> Rows:
    """Return a copy of contiguous rows."""
    return opaque(rows).copy().view(rows.dtype)


def assign(rows: Rows, at: Int64 | Bool, values: Rows) -> None:
    """Put values at some positions of contiguous rows, in place."""
    opaque(rows)[at] = opaque(values)
