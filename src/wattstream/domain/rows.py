"""What NumPy has not, or not fast: structured arrays moved as whole rows, stretches of a column.

NumPy copies a structured row field by field, far slower than its bytes. `take` and `compress` of
an array are fast already.
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


def begins(column: Int64) -> Bool:
    """Return where a value differs from the one before it; so does the first. `diff` is slow."""
    differs = np.ones(len(column), np.bool_)
    np.not_equal(column[1:], column[:-1], out=differs[1:])
    return differs


def ends(column: Int64) -> Bool:
    """Return where a value differs from the one after it; so does the last."""
    differs = np.ones(len(column), np.bool_)
    np.not_equal(column[1:], column[:-1], out=differs[:-1])
    return differs
